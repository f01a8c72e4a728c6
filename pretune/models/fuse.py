"""Fuses a model for use: one matmul for query, key and value, weights laid out for oneDNN.

The original model is not changed and shares all else. What stands at a projection's place gives its own derived form;
blocks of other types than the known ones run as they are. The derived form does not follow later changes of the
weights: build it again. See `nn.packed` for what it gains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from pretune.batch import Layout, OutputRows
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.block import Block
from pretune.nn.cache import LayerCache
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.heads import VocabularyHead
from pretune.nn.packed import Product, packable
from pretune.nn.projection import joined_product
from pretune.nn.spans import KeyLayout

M = TypeVar("M", bound=nn.Module)


def fuse(model: LanguageModel) -> LanguageModel:
    """Gives the fused form of a model in evaluation mode.

    Costs memory for a second copy of the weights where they are packed, of the attention's inputs where not.
    """
    blocks = [FusedBlock.of(block) or block for block in model.stack.blocks]
    heads = {role: _head(head) for role, head in model.heads.items()}
    stack = _with(model.stack, blocks=nn.ModuleList(blocks))
    return _with(model, stack=stack, heads=nn.ModuleDict(heads)).eval()


class FusedBlock(nn.Module):
    """A block that makes four matmuls.

    Args:
        block: pre- or post-norm, of the known bricks.
        products: the matmuls into attention and out of it, into the feed-forward (with its activation) and out of it.
    """

    def __init__(self, block: Block, products: Sequence[Product]) -> None:
        super().__init__()
        self.block = block
        self._inputs, self._output, self._up, self._down = products
        norms = block.norms
        self._norms = [
            _norm(n)
            for n in (norms.before_attention, norms.after_attention, norms.before_feedforward, norms.after_feedforward)
        ]
        self._dtype = block.attention.query.dense()[0].dtype

    @classmethod
    def of(cls, block: nn.Module) -> FusedBlock | None:
        """The fused form of a block; None for one of other bricks, or with one that has no derived form."""
        if not (isinstance(block, Block) and _known(block)):
            return None
        attention, feedforward = block.attention, cast(FeedForward | GatedFeedForward, block.feedforward)
        products = (
            joined_product([attention.query, attention.key, attention.value]),
            joined_product([attention.output]),
            _up(feedforward),
            joined_product([feedforward.down]),
        )
        return None if None in products else cls(block, cast(Sequence[Product], products))

    @property
    def attention(self) -> Attention:
        """The attention of the block."""
        return self.block.attention

    def forward(
        self, x: Tensor, layout: Layout, cache: LayerCache | None = None, rows: OutputRows | None = None
    ) -> Tensor:
        """Computes what the block does, which is called itself for some rows alone. Shape: (T, width) -> (T, width)."""
        if rows is not None:
            return self.block(x, layout, cache, rows)  # type: ignore[no-any-return]
        attention = self.block.attention
        before_attention, after_attention, before_feedforward, after_feedforward = self._norms
        counts = [attention.heads, attention.key_heads, attention.key_heads]
        inputs = self._inputs(before_attention(x).to(self._dtype)).view(x.shape[0], sum(counts), -1)
        query, key, value = torch.split(inputs, counts, dim=1)
        if attention.rotary is not None:
            places = attention.behind(layout)
            query, key = attention.rotary(query, places), attention.rotary(key, places)
        keys: KeyLayout = layout
        if cache is not None:
            key, value, keys = cache.append(key, value, layout)
        mixed = attention.attend(query, key, value, layout, keys)
        x = after_attention(x + self._output(mixed.flatten(1)))
        return after_feedforward(x + self._down(self._up(before_feedforward(x).to(self._dtype))))


class FusedHead(VocabularyHead):
    """A vocabulary head with packed weights."""

    def __init__(self, head: VocabularyHead, dtype: torch.dtype) -> None:
        super().__init__(head.vocabulary, head.transform, head.bias, predicts=head.predicts)
        self._scores = head.vocabulary.product(head.bias)
        self._dtype = dtype

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, V)."""
        return self._scores(self.transform(rows).to(self._dtype))


def _known(block: Block) -> bool:
    """Whether a block is made of the known bricks, so that its fused form gives the same."""
    return (
        type(block) is Block
        and type(block.attention) is Attention
        and block.attention.query_norm is block.attention.relative is None
        and type(block.feedforward) in (FeedForward, GatedFeedForward)
        and all(type(norm) in (nn.LayerNorm, nn.RMSNorm, nn.Identity) for norm in block.norms.children())
    )


def _up(feedforward: FeedForward | GatedFeedForward) -> Product | None:
    """What the projection down reads. Shape: (T, width) -> (T, inner)."""
    if isinstance(feedforward, FeedForward):
        return joined_product([feedforward.up], feedforward.activation)
    both, activation = joined_product([feedforward.gate, feedforward.value]), feedforward.activation
    if both is None:
        return None

    def gated(x: Tensor) -> Tensor:
        gate, value = both(x).chunk(2, dim=-1)
        return activation(gate) * value

    return gated


def _head(head: nn.Module) -> nn.Module:
    if type(head) is not VocabularyHead:
        return head
    weight = head.vocabulary.dense()
    return FusedHead(head, weight.dtype) if packable(weight) else head


def _norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(norm, nn.RMSNorm):
        return norm
    if not isinstance(norm, nn.LayerNorm):
        return lambda x: x
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _with(module: M, **children: nn.Module) -> M:
    """Copies a module, sharing all but the named children."""
    out = copy.copy(module)
    out._modules = {**module._modules, **children}
    return out
