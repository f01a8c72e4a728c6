"""A model's derived form for decoding: one product for query, key and value, weights laid out for a single row.

Decoding is bound by reading the weights. `fuse` gives a model whose blocks, while few rows are fed, make four products
with weights packed by oneDNN (bf16 on the CPU: twice the speed of `F.linear` at one row) and little else; longer runs,
such as prompts, go through the original blocks. The original model is not changed and shares its weights; only bricks
of exactly the known types are replaced, so a model after surgery runs as it is. The derived form does not follow later
changes of the weights: make it anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout, Rows
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention, ragged_attention
from pretune.nn.block import Block
from pretune.nn.cache import LayerCache
from pretune.nn.feedforward import FeedForward
from pretune.nn.heads import VocabularyHead
from pretune.nn.projection import Projection
from pretune.nn.spans import Run

FEW = 16
M = TypeVar("M", bound=nn.Module)
_Product = Callable[[Tensor], Tensor]


def fuse(model: LanguageModel) -> LanguageModel:
    """The derived form of a model in evaluation mode.

    Costs memory for a second copy of the weights where they are packed, of the attention's inputs where not.
    """
    blocks = [
        FusedBlock(block) if isinstance(block, Block) and _known(block) else block for block in model.stack.blocks
    ]
    heads = {role: _head(head) for role, head in model.heads.items()}
    stack = _with(model.stack, blocks=nn.ModuleList(blocks))
    return _with(model, stack=stack, heads=nn.ModuleDict(heads)).eval()


def product(projections: Sequence[Projection]) -> _Product:
    """One function for projections of the same rows, their outputs side by side. Shape: (T, in) -> (T, sum of outs)."""
    with torch.no_grad():
        weights: list[Tensor] = [p.weight for p in projections]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        biases: list[Tensor] = [
            p.weight.new_zeros(p.out_features) if p.bias is None else p.bias.to(p.weight.dtype) for p in projections
        ]
        bias = torch.cat(biases) if any(p.bias is not None for p in projections) else None
        return _linear(weight.detach(), bias)


class FusedBlock(nn.Module):
    """A block that makes four products where few rows are fed.

    Args:
        block: pre- or post-norm, of the plain bricks; more than `FEW` rows go through it.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        attention, feedforward = block.attention, block.feedforward
        self._inputs = product([attention.query, attention.key, attention.value])
        self._output = product([attention.output])
        self._up = product([feedforward.up])
        self._down = product([feedforward.down])
        self._activation = feedforward.activation
        norms = block.norms
        self._norms = [
            _norm(n)
            for n in (norms.before_attention, norms.after_attention, norms.before_feedforward, norms.after_feedforward)
        ]
        self._dtype = attention.query.weight.dtype

    def forward(
        self, x: Tensor, layout: Layout, cache: LayerCache | None = None, rows: Rows | None = None
    ) -> Tensor:
        """As the block. Shape: (T, width) -> (T, width)."""
        if x.shape[0] > FEW or cache is None:
            return self.block(x, layout, cache, rows)  # type: ignore[no-any-return]
        attention = self.block.attention
        before_attention, after_attention, before_feedforward, after_feedforward = self._norms
        inputs = self._inputs(before_attention(x).to(self._dtype)).view(x.shape[0], 3, attention.heads, -1)
        query, key, value = inputs.unbind(1)
        keys: Run
        key, value, keys = cache.append(key, value, layout)
        mixed = ragged_attention(query, key, value, layout, keys, attention.structure, scale=attention.scale)
        x = after_attention(x + self._output(mixed.flatten(1)))
        inner = self._activation(self._up(before_feedforward(x).to(self._dtype)))
        return after_feedforward(x + self._down(inner))


class FusedHead(VocabularyHead):
    """A vocabulary head with packed weights for few rows."""

    def __init__(self, head: VocabularyHead) -> None:
        super().__init__(head.weight, head.transform, head.bias)
        self._scores = _linear(head.weight.detach(), None if head.bias is None else head.bias.detach())

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, V)."""
        if rows.shape[0] > FEW:
            return super().forward(rows)
        return self._scores(self.transform(rows).to(self.weight.dtype))


def _known(block: Block) -> bool:
    """Whether a block is made of the plain bricks, so that its fused form gives the same."""
    return (
        type(block) is Block
        and type(block.attention) is Attention
        and type(block.feedforward) is FeedForward
        and all(type(m) is Projection for m in block.modules() if isinstance(m, nn.Linear))
        and all(type(norm) in (nn.LayerNorm, nn.Identity) for norm in block.norms.children())
    )


def _head(head: nn.Module) -> nn.Module:
    return FusedHead(head) if type(head) is VocabularyHead and _packable(head.weight) else head


def _packable(weight: Tensor) -> bool:
    """Whether oneDNN can lay the weight out: CPUs without AVX-512 (or AVX-NE-CONVERT) have no bf16 kernels of it."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch._C._has_mkldnn:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _linear(weight: Tensor, bias: Tensor | None) -> _Product:
    if not _packable(weight):
        return lambda x: F.linear(x, weight, bias)
    bias = None if bias is None else bias.to(weight.dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), 1)
    run = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: run(x, packed, bias, "none", [], "")


def _norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    if not isinstance(norm, nn.LayerNorm):
        return lambda x: x
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _with(module: M, **children: nn.Module) -> M:
    """A copy of a module that shares all but the named children."""
    out = copy.copy(module)
    out._modules = {**module._modules, **children}
    return out
