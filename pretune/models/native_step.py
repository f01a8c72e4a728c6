"""Plans a step of a decoder as a program for the kernels in C, out of the bricks that the model is made of.

As `models.fuse` does, it asks each brick what it computes. What it does not know, a user's own brick, a change that is
not linear, adapters by text, a prefix of keys, is a reason, and the model runs by torch:

    plan_step(model, head)  ->  Program                 # native.executor(program) runs it
                            ->  UnplannedError          # str(error) says why

A program holds the weights as they are now; it does not follow later changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.fuse import FusedBlock, FusedHead
from pretune.models.model import LanguageModel
from pretune.models.native_bricks import (
    UnplannedError,
    activation_name,
    as_float,
    bias_of,
    dense_matrix,
    distances,
    epsilon,
    joined,
    keys_before,
    optional,
    position_operation,
    projection_matrix,
    rounding,
    vocabulary_matrix,
)
from pretune.native import program as step
from pretune.native.program import Columns
from pretune.nn.attention import Attention
from pretune.nn.block import Block, DecoderBlock, ParallelBlock
from pretune.nn.embedding import Embedding
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.heads import VocabularyHead
from pretune.nn.prefix import NoPrefix
from pretune.nn.projection import ProjectionBrick
from pretune.nn.rotary import PartialRotary, Rotary
from pretune.nn.scaling import Scale
from pretune.nn.tuned import Nothing


@torch.no_grad()
def plan_step(model: LanguageModel, head: VocabularyHead, vocabulary: int | None = None) -> step.Program:
    """Plans the step of a decoder, or of the decoder of an encoder-decoder.

    Args:
        model: in evaluation, fused or not.
        head: that predicts the next token.
        vocabulary: how many of its tokens have scores; by default all.

    Raises:
        UnplannedError: a part of the model has no kernel.
    """
    if type(model) not in (LanguageModel, EncoderDecoder):
        raise UnplannedError(f"a {type(model).__name__} computes something of its own")
    if model.device.type != "cpu":
        raise UnplannedError(f"the model is on {model.device}")
    return _Planner(model).plan(head, vocabulary)


class _Planner:
    """Collects the operations of one model.

    Buffers: 0 the residual stream, 1 and 2 what norms give, 3 queries, keys and values, 4 what attention gives, 5 the
    inner run of the feed-forward. Each is as wide as the widest layer needs it.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.operations: list[step.Operation] = []
        self.widths = [model.width, model.width, model.width, 0, 0, 0]
        self.rotations: list[tuple[Rotary, step.Rotation]] = []
        self.x = Columns(0, 0, model.width)

    def plan(self, head: VocabularyHead, vocabulary: int | None) -> step.Program:
        """The whole program."""
        blocks = [_plain(block) for block in self.model.stack.in_order]
        if not blocks:
            raise UnplannedError("the model has no decoder")
        self.embed(self.model.embedding)
        for number, block in enumerate(blocks):
            try:
                self.block(block, number)
            except UnplannedError as error:
                raise UnplannedError(f"layer {number}: {error}") from None
        self.norm(self.model.stack.norm, self.x)
        self.scores(head, vocabulary)
        return step.Program(
            tuple(self.widths),
            tuple(self.operations),
            _cache_shape([block.attention for block in blocks]),
            _cache_shape([cast(DecoderBlock, block).cross for block in blocks]) if self.model.has_encoder else None,
            tuple(rotation for _, rotation in self.rotations),
            self.model.places.of_cache,
        )

    def embed(self, embedding: Embedding) -> None:
        """Vectors of the tokens, and what is added to them."""
        if type(embedding) is not Embedding:
            raise UnplannedError(f"no kernel for the embedding {type(embedding).__name__}")
        if embedding.prompt.length or embedding.behind.length:
            raise UnplannedError("vectors or keys stand in front of every text")
        target = Columns(0, 0, embedding.word.width)
        if embedding.project is not None:
            target = self.columns(1, embedding.word.width)
        self.operations.append(step.Embed(vocabulary_matrix(embedding.word), target, embedding.scale))
        if embedding.position is not None:
            self.operations.append(position_operation(embedding.position, target))
        if embedding.segment is not None:
            self.operations.append(step.AddVector(as_float(embedding.segment.weight[0]), target))
        self.norm(embedding.norm, target)
        if embedding.project is not None:
            if type(embedding.project) is not nn.Linear:
                raise UnplannedError(f"no kernel for {type(embedding.project).__name__} behind the embedding")
            weight, bias = embedding.project.weight, embedding.project.bias
            matrix = dense_matrix(weight)
            self.operations.append(step.Multiply(matrix, optional(bias), target, self.x))

    def block(self, block: Block | DecoderBlock, number: int) -> None:
        """One layer: its branches, each added to the residual stream."""
        if not isinstance(block.beside, Nothing):
            raise UnplannedError("something stands beside the feed-forward")
        norms = block.norms
        normed = self.normed(norms.before_attention, 1)
        mixed = self.attention(block.attention, normed, number)
        if type(block) is ParallelBlock:
            shared = norms.before_feedforward is norms.before_attention
            read = normed if shared else self.normed(norms.before_feedforward, 2)
            inner = self.up(block.feedforward, read)
            self.multiply([block.attention.output], mixed, self.x, add=True)
            self.multiply([_down(block.feedforward)], inner, self.x, add=True)
            return
        self.multiply([block.attention.output], mixed, self.x, add=True)
        self.norm(norms.after_attention, self.x)
        if isinstance(block, DecoderBlock):
            mixed = self.cross(block.cross, self.normed(norms.before_cross, 1), number)
            self.multiply([block.cross.output], mixed, self.x, add=True)
            self.norm(norms.after_cross, self.x)
        inner = self.up(block.feedforward, self.normed(norms.before_feedforward, 1))
        self.multiply([_down(block.feedforward)], inner, self.x, add=True)
        self.norm(norms.after_feedforward, self.x)

    def attention(self, attention: Attention, read: Columns, number: int) -> Columns:
        """Attention to the cache."""
        _check_attention(attention)
        width = attention.head_width
        widths = [attention.heads * width, attention.key_heads * width, attention.key_heads * width]
        query, key, value = self.split(3, widths)
        self.multiply([attention.query, attention.key, attention.value], read, self.columns(3, sum(widths)))
        for norm, columns in ((attention.query_norm, query), (attention.key_norm, key)):
            if norm is not None:
                self.head_norm(norm, columns, width)
        if attention.rotary is not None:
            rotation = self.rotation(attention.rotary)
            self.operations += [step.Rotate(columns, width, rotation) for columns in (query, key)]
        target = self.columns(4, widths[0])
        attend = step.Attend(
            query, key, value, target, number, attention.heads, attention.key_heads, width, attention.scale,
            keys_before(attention.structure), distances(attention.relative),
        )  # fmt: skip
        self.operations.append(attend)
        return target

    def cross(self, attention: Attention, read: Columns, number: int) -> Columns:
        """Attention to what the encoder gave."""
        _check_attention(attention)
        if attention.query_norm is not None or attention.rotary is not None or attention.relative is not None:
            raise UnplannedError("attention to the encoder has norms or positions")
        width = attention.heads * attention.head_width
        query, target = self.columns(3, width), self.columns(4, width)
        self.multiply([attention.query], read, query)
        heads = (attention.heads, attention.key_heads, attention.head_width)
        self.operations.append(step.CrossAttend(query, target, number, *heads, attention.scale))
        return target

    def up(self, feedforward: nn.Module, read: Columns) -> Columns:
        """What the projection down reads."""
        if type(feedforward) is FeedForward:
            inner = self.columns(5, feedforward.up.out_features)
            self.multiply([feedforward.up], read, inner, activation_name(feedforward.activation))
            return inner
        if type(feedforward) is GatedFeedForward:
            width = feedforward.value.out_features
            gate, value = self.split(5, [width, width])
            self.multiply([feedforward.gate, feedforward.value], read, self.columns(5, 2 * width))
            self.operations.append(step.Gate(gate, value, gate, activation_name(feedforward.activation)))
            return gate
        raise UnplannedError(f"no kernel for the feed-forward {type(feedforward).__name__}")

    def scores(self, head: VocabularyHead, vocabulary: int | None) -> None:
        """Scores of all tokens."""
        if type(head) not in (VocabularyHead, FusedHead):
            raise UnplannedError(f"no kernel for the head {type(head).__name__}")
        if type(head.transform) is Scale:
            self.operations.append(step.Copy(self.x, self.x, head.transform.factor))
        elif type(head.transform) is not nn.Identity:
            raise UnplannedError(f"no kernel for {type(head.transform).__name__} before the vocabulary")
        matrix, bias = vocabulary_matrix(head.vocabulary), optional(head.bias)
        if vocabulary is not None and vocabulary < matrix.out_features:
            rows = {name: tensor[:vocabulary] for name, tensor in matrix.tensors.items()}
            matrix = step.Matrix(matrix.format, rows, vocabulary, matrix.in_features)
            bias = None if bias is None else bias[:vocabulary]
        own = rounding(head.vocabulary)
        self.operations.append(step.Scores(matrix, bias, self.x, own != "exact", own == "seven bits"))

    def multiply(
        self,
        bricks: Sequence[ProjectionBrick],
        source: Columns,
        target: Columns,
        activation: step.Activation = "none",
        *,
        add: bool = False,
    ) -> None:
        """Products of what reads the same columns, as one where their matrices are alike."""
        parts = [(projection_matrix(brick), optional(bias_of(brick)), rounding(brick)) for brick in bricks]
        alike = len({(matrix.format, own) for matrix, _, own in parts}) == 1
        start = target.start
        for matrix, bias, own in [joined(parts)] if alike else parts:
            columns = Columns(target.buffer, start, matrix.out_features)
            how = own != "exact", add, own == "seven bits"
            self.operations.append(step.Multiply(matrix, bias, source, columns, activation, *how))
            start += matrix.out_features

    def normed(self, norm: nn.Module, buffer: int) -> Columns:
        """The residual stream behind a norm, in a buffer of its own; the stream itself where there is none."""
        target = self.x if type(norm) is nn.Identity else Columns(buffer, 0, self.x.width)
        self.norm(norm, self.x, target)
        return target

    def norm(self, norm: nn.Module, source: Columns, target: Columns | None = None) -> None:
        """A norm of some columns, in place by default."""
        target = target or source
        if type(norm) is nn.LayerNorm and norm.normalized_shape == (source.width,):
            weight, bias = optional(norm.weight), optional(norm.bias)
            self.operations.append(step.LayerNorm(source, target, weight, bias, norm.eps))
        elif type(norm) is nn.RMSNorm and norm.normalized_shape == (source.width,):
            self.operations.append(step.RmsNorm(source, target, optional(norm.weight), epsilon(norm), source.width))
        elif type(norm) is not nn.Identity:
            raise UnplannedError(f"no kernel for the norm {type(norm).__name__}")

    def head_norm(self, norm: nn.Module, columns: Columns, width: int) -> None:
        """A norm of each head, in place."""
        if type(norm) is not nn.RMSNorm or norm.normalized_shape != (width,):
            raise UnplannedError(f"no kernel for the norm {type(norm).__name__} of heads")
        self.operations.append(step.RmsNorm(columns, columns, optional(norm.weight), epsilon(norm), width))

    def rotation(self, rotary: Rotary) -> int:
        """The number of a rotation, which equal layers share."""
        if type(rotary) not in (Rotary, PartialRotary):
            raise UnplannedError(f"no kernel for the rotation {type(rotary).__name__}")
        for number, (other, _) in enumerate(self.rotations):
            if (rotary.width, rotary.theta, rotary.scaling) == (other.width, other.theta, other.scaling):
                return number
        self.rotations.append((rotary, step.Rotation(rotary.frequencies(), rotary.scaling.amplitude)))
        return len(self.rotations) - 1

    def columns(self, buffer: int, width: int) -> Columns:
        """The first columns of a buffer, which becomes as wide."""
        self.widths[buffer] = max(self.widths[buffer], width)
        return Columns(buffer, 0, width)

    def split(self, buffer: int, widths: Sequence[int]) -> list[Columns]:
        """Columns of a buffer, side by side."""
        starts = [sum(widths[:n]) for n in range(len(widths))]
        return [Columns(buffer, start, width) for start, width in zip(starts, widths, strict=True)]


def _plain(block: nn.Module) -> Block | DecoderBlock:
    """The block that a fused one stands for, or the block itself."""
    block = block.block if type(block) is FusedBlock else block
    if type(block) not in (Block, ParallelBlock, DecoderBlock):
        raise UnplannedError(f"no kernel for the block {type(block).__name__}")
    return cast(Block | DecoderBlock, block)


def _check_attention(attention: Attention) -> None:
    if type(attention) is not Attention:
        raise UnplannedError(f"no kernel for the attention {type(attention).__name__}")
    if not isinstance(attention.prefix, NoPrefix) or attention.behind.length:
        raise UnplannedError("keys stand in front of every text")
    if attention.preferred:
        raise UnplannedError("another attention backend was asked for")


def _down(feedforward: nn.Module) -> ProjectionBrick:
    return cast(FeedForward | GatedFeedForward, feedforward).down  # `up` knows no others


def _cache_shape(attentions: Sequence[Attention]) -> step.CacheShape:
    """What a cache holds for layers of equal heads.

    Raises:
        UnplannedError: they differ.
    """
    first = attentions[0]
    for attention in attentions:
        if (attention.key_heads, attention.head_width) != (first.key_heads, first.head_width):
            raise UnplannedError("layers have different heads of keys")
    return step.CacheShape(len(attentions), first.key_heads, first.head_width)
