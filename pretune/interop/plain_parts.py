"""Looks at a model's bricks as other engines have them: plain matrices, and nothing that they do not compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.errors import DataError
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.nn.activation import ACTIVATIONS, Activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block, DecoderBlock, ParallelBlock
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.projection import ProjectionBrick, named_bricks
from pretune.nn.stack import Stack
from pretune.nn.tuned import Nothing
from pretune.nn.vocabulary import VocabularyBrick

Matrix = NDArray[np.float32]
_MERGE = "merge what was learned into the model first: pretune merge"


def refuse_surgery(model: LanguageModel) -> str | None:
    """Says which brick of a model no other engine computes; None where all are plain."""
    for stack in stacks(model):
        for name, block in zip(_names(stack), stack.blocks, strict=True):
            reason = _odd_block(block)
            if reason is not None:
                return f"{name}: {reason}"
    for embedding in [model.embedding, *([model.encoder.embedding] if isinstance(model, EncoderDecoder) else [])]:
        if embedding.prompt.length:
            length = embedding.prompt.length
            return f"a prompt of {length} vectors stands before every text, which it cannot do; use pretune's files"
    for name, brick in named_bricks(model):
        if isinstance(brick, ProjectionBrick):
            try:
                brick.dense()
            except NotImplementedError as error:
                return f"{name}: {error}; {_MERGE}"
    return None


def stacks(model: LanguageModel) -> list[Stack]:
    """Lists the stacks of a model, the encoder's first."""
    return [*([model.encoder.stack] if isinstance(model, EncoderDecoder) else []), model.stack]


def _names(stack: Stack) -> list[str]:
    return [f"layer {number}" for number in range(len(stack.blocks))]


def _odd_block(block: nn.Module) -> str | None:
    if type(block) not in (Block, ParallelBlock, DecoderBlock):
        return f"a {type(block).__name__} is no block that other engines have; use the files of pretune"
    block = cast(Block, block)
    if not isinstance(block.beside, Nothing):
        return f"an adapter stands beside its feed-forward, which cannot be merged; {_MERGE}, or tune by lora"
    attentions = [block.attention, *([block.cross] if isinstance(block, DecoderBlock) else [])]
    for attention in attentions:
        if not isinstance(attention, Attention):
            return f"{type(attention).__name__} is no attention that other engines have; use the files of pretune"
        if attention.prefix.length:
            return "a prefix of learned keys stands before every text, which it does not have; use the files of pretune"
    if type(block.feedforward) not in (FeedForward, GatedFeedForward):
        return f"its feed-forward is a {type(block.feedforward).__name__}; {_MERGE}"
    odd = [n for n in block.norms.children() if type(n) not in (nn.LayerNorm, nn.RMSNorm, nn.Identity)]
    return f"a {type(odd[0]).__name__} stands at a norm's place; {_MERGE}" if odd else None


def array(tensor: Tensor) -> Matrix:
    """The values of a tensor in fp32."""
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())


def stored_format(brick: object) -> str | None:
    """The name of the format that a brick's matrix is rounded to; None where it is not."""
    packed = getattr(brick, "packed", None)
    return None if packed is None else str(packed.format.NAME)


def stored_tensors(brick: object) -> Mapping[str, Tensor]:
    """What a rounded brick stores, as its format's `pack` gives it."""
    return cast(Mapping[str, Tensor], brick.packed.tensors())  # type: ignore[attr-defined]


def matrix(brick: ProjectionBrick | VocabularyBrick) -> Tensor:
    """The matrix of a brick in fp32, on the CPU. Shape: (out, in)."""
    dense = brick.dense()
    return (dense if isinstance(dense, Tensor) else dense[0]).detach().cpu().float()


def bias(brick: ProjectionBrick) -> Tensor | None:
    """The bias of a brick in fp32, on the CPU. Shape: (out,)."""
    own = brick.dense()[1]
    return None if own is None else own.detach().cpu().float()


def activation_name(activation: Activation, names: Mapping[str, object]) -> str | None:
    """The name of an activation among those that an engine has; None where it has none that computes the same."""
    own = [name for name, function in ACTIVATIONS.items() if function is activation]
    return next((name for name in own if name in names), None)


def bricks_of(model: LanguageModel) -> Iterator[tuple[str, ProjectionBrick | VocabularyBrick]]:
    """Gives what holds a matrix, by name: projections, and vocabularies once."""
    visited: set[int] = set()
    for name, brick in named_bricks(model):
        if isinstance(brick, ProjectionBrick | VocabularyBrick) and id(brick) not in visited:
            visited.add(id(brick))
            yield name, brick


def refuse_groups(model: LanguageModel, size: int, type: str) -> str | None:
    """Says which matrix's rows no groups of a size divide; None where all do."""
    for name, brick in bricks_of(model):
        width = matrix(brick).shape[1]
        if width % size:
            return (
                f"{name} has rows of {width} numbers, and {type} has groups of {size}, which do not divide them; "
                "choose another --type"
            )
    return None


def refuse_nonfinite(model: LanguageModel) -> str | None:
    """Says which weight is not a finite number; None where all are."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            return f"weight {name!r} holds NaN or an infinity; use an earlier checkpoint (--step)"
    return None


def first_reason(*reasons: str | None) -> str | None:
    """The first of several reasons to refuse."""
    return next((reason for reason in reasons if reason is not None), None)


def extra_heads(model: LanguageModel, known: Sequence[str]) -> list[str]:
    """Lists the heads that a target does not have."""
    return [role for role in model.heads if role not in known]


def raise_if_other(what: str, same: bool) -> None:
    """Refuses what is another when it is read back.

    Raises:
        DataError: it is.
    """
    if not same:
        raise DataError(f"{what} is another in the files that were written; nothing was kept")
