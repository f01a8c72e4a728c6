"""A model's derived form for use: one product for query, key and value, weights laid out for oneDNN, little else.

On a CPU with AVX-512 the weights are packed by oneDNN. For many rows its products are 3 to 12 % faster than `F.linear`
(fp32: MKL is slow on AMD); for few rows, as in decoding, bf16 ones take half the time and fp32 ones of 4 rows a third.
The original model is not changed and shares all else; only bricks of exactly the known types are replaced, so a model
after surgery runs as it is. The derived form does not follow later changes of the weights: make it anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout, OutputRows
from pretune.models.model import LanguageModel
from pretune.nn.activation import Activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block
from pretune.nn.cache import LayerCache
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.heads import VocabularyHead
from pretune.nn.projection import Projection
from pretune.nn.spans import KeyLayout

_ROWS = 1024  # for which oneDNN lays weights out; a layout for one row is slower at 4 rows and no faster at one
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


class FusedBlock(nn.Module):
    """A block that makes four products.

    Args:
        block: pre- or post-norm, of the plain bricks.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        attention, feedforward = block.attention, cast(FeedForward | GatedFeedForward, block.feedforward)
        self._inputs = _product([attention.query, attention.key, attention.value])
        self._output = _product([attention.output])
        self._up = _up(feedforward)
        self._down = _product([feedforward.down])
        norms = block.norms
        self._norms = [
            _norm(n)
            for n in (norms.before_attention, norms.after_attention, norms.before_feedforward, norms.after_feedforward)
        ]
        self._dtype = attention.query.weight.dtype

    @property
    def attention(self) -> Attention:
        """The block's."""
        return self.block.attention

    def forward(
        self, x: Tensor, layout: Layout, cache: LayerCache | None = None, rows: OutputRows | None = None
    ) -> Tensor:
        """As the block, which itself gives some rows alone. Shape: (T, width) -> (T, width)."""
        if rows is not None:
            return self.block(x, layout, cache, rows)  # type: ignore[no-any-return]
        attention = self.block.attention
        before_attention, after_attention, before_feedforward, after_feedforward = self._norms
        counts = [attention.heads, attention.key_heads, attention.key_heads]
        inputs = self._inputs(before_attention(x).to(self._dtype)).view(x.shape[0], sum(counts), -1)
        query, key, value = torch.split(inputs, counts, dim=1)
        if attention.rotary is not None:
            query, key = attention.rotary(query, layout), attention.rotary(key, layout)
        keys: KeyLayout = layout
        if cache is not None:
            key, value, keys = cache.append(key, value, layout)
        mixed = attention.attend(query, key, value, layout, keys)
        x = after_attention(x + self._output(mixed.flatten(1)))
        return after_feedforward(x + self._down(self._up(before_feedforward(x).to(self._dtype))))


class FusedHead(VocabularyHead):
    """A vocabulary head with packed weights."""

    def __init__(self, head: VocabularyHead) -> None:
        super().__init__(head.weight, head.transform, head.bias)
        self._scores = _linear(head.weight.detach(), None if head.bias is None else head.bias.detach())

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, V)."""
        return self._scores(self.transform(rows).to(self.weight.dtype))


def _known(block: Block) -> bool:
    """Whether a block is made of the plain bricks, so that its fused form gives the same."""
    return (
        type(block) is Block
        and type(block.attention) is Attention
        and block.attention.query_norm is block.attention.relative is None
        and type(block.feedforward) in (FeedForward, GatedFeedForward)
        and all(type(m) is Projection for m in block.modules() if isinstance(m, nn.Linear))
        and all(type(norm) in (nn.LayerNorm, nn.RMSNorm, nn.Identity) for norm in block.norms.children())
    )


def _up(feedforward: FeedForward | GatedFeedForward) -> _Product:
    """What the projection down reads. Shape: (T, width) -> (T, inner)."""
    if isinstance(feedforward, FeedForward):
        return _product([feedforward.up], feedforward.activation)
    both, activation = _product([feedforward.gate, feedforward.value]), feedforward.activation

    def gated(x: Tensor) -> Tensor:
        gate, value = both(x).chunk(2, dim=-1)
        return activation(gate) * value

    return gated


def _head(head: nn.Module) -> nn.Module:
    return FusedHead(head) if type(head) is VocabularyHead and _packable(head.weight) else head


def _packable(weight: Tensor) -> bool:
    """Whether oneDNN has kernels that are worth it: measured with AVX-512; bf16 needs its own instructions."""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _product(projections: Sequence[Projection], activation: Activation | None = None) -> _Product:
    """One function for projections of the same rows, their outputs side by side. Shape: (T, in) -> (T, sum of outs)."""
    with torch.no_grad():
        weights: list[Tensor] = [p.weight for p in projections]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        biases: list[Tensor] = [
            p.weight.new_zeros(p.out_features) if p.bias is None else p.bias.to(p.weight.dtype) for p in projections
        ]
        bias = torch.cat(biases) if any(p.bias is not None for p in projections) else None
        return _linear(weight.detach(), bias, activation)


def _linear(weight: Tensor, bias: Tensor | None, activation: Activation | None = None) -> _Product:
    if not _packable(weight):
        plain: _Product = lambda x: F.linear(x, weight, bias)  # noqa: E731
        return plain if activation is None else lambda x: activation(plain(x))
    bias = None if bias is None else bias.to(weight.dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous(), _ROWS)
    run = torch.ops.mkldnn._linear_pointwise.default
    if activation is F.gelu and weight.dtype == torch.float32:  # in bf16 a pass of its own is faster
        return lambda x: run(x, packed, bias, "gelu", [], "none")
    packed_product: _Product = lambda x: run(x, packed, bias, "none", [], "")  # noqa: E731
    return packed_product if activation is None else lambda x: activation(packed_product(x))


def _norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(norm, nn.RMSNorm):
        return norm
    if not isinstance(norm, nn.LayerNorm):
        return lambda x: x
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _with(module: M, **children: nn.Module) -> M:
    """A copy of a module that shares all but the named children."""
    out = copy.copy(module)
    out._modules = {**module._modules, **children}
    return out
