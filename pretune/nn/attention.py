"""Attention over two ragged runs, queries and keys, and the brick that projects into and out of it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.find import find, find_defining, variants
from pretune.nn.cache import EncoderOutput, LayerCache
from pretune.nn.call import AttentionCall, Backend
from pretune.nn.dropout import DropoutSite
from pretune.nn.prefix import NO_PREFIX, Behind, KeyPrefix
from pretune.nn.projection import Projection, ProjectionBrick, in_matmul_dtype
from pretune.nn.relative import RelativeBias
from pretune.nn.rotary import Rotary
from pretune.nn.spans import KeyLayout
from pretune.nn.structure import Biased, Structure

BACKENDS: dict[str, Backend] = {name: cast(Backend, find("nn.backends", name)) for name in variants("nn.backends")}
_ORDER = tuple(sorted((b for b in BACKENDS.values() if b.PRIORITY), key=lambda b: -b.PRIORITY))


def prefer_backend(model: nn.Module, name: str) -> None:
    """Lets every attention of a model try one backend first; what it refuses goes to the others.

    Args:
        name: a file of `nn/backends/`, or a user's own file by its path.

    Raises:
        UsageError: no such backend, or a file without `refuse` and `attend`.
        MissingInputError: a path to a file that does not exist.
    """
    backend = find_defining("nn.backends", name, ("refuse", "attend"), f"attention backend {name!r}")
    for module in model.modules():
        if isinstance(module, Attention):
            module.preferred = (cast(Backend, backend),)


def ragged_attention(call: AttentionCall, backend: str | None = None, preferred: tuple[Backend, ...] = ()) -> Tensor:
    """Lets each sequence's queries attend to the same sequence's keys.

    Keys and values may be in fp32 where the queries are not, as a cache holds them on the CPU: ATen's kernels take 5 to
    10 times as long for one bf16 query. The attention is then computed in fp32.

    Args:
        backend: a name of `BACKENDS` instead of the first that supports the call.
        preferred: backends that are tried before those of pretune.

    Shape:
        return: (Tq, H, D)

    Raises:
        ValueError: the runs do not fit each other, or the named backend does not support the call.
    """
    if call.key.dtype != call.query.dtype:
        with torch.autocast(call.query.device.type, enabled=False):
            wide = replace(call, query=call.query.to(call.key.dtype))
            return ragged_attention(wide, backend, preferred).to(call.query.dtype)
    if call.keys is not call.queries:
        _check(call)
    plainer = call.structure.within(call.keys)
    if plainer is not call.structure:
        call = replace(call, structure=plainer)
    for candidate in (*preferred, *_ORDER) if backend is None else (BACKENDS[backend],):
        reason = candidate.refuse(call)
        if reason is None:
            return candidate.attend(call)
    raise ValueError(f"attention backend {backend!r}: {reason}")


def _check(call: AttentionCall) -> None:
    queries, keys = call.queries.lengths, call.keys.lengths
    if len(queries) != len(keys):
        raise ValueError(f"{len(queries)} sequences of queries, {len(keys)} of keys")
    if call.is_causal:
        for n, (q, k) in enumerate(zip(queries, keys, strict=True)):
            if q > k:
                raise ValueError(f"causal attention: sequence {n} has {q} queries and {k} keys; the last of both align")


class Attention(DropoutSite):
    """Multi-head attention with separate projections.

    Args:
        width: of the hidden run.
        heads: of the queries.
        key_heads: of keys and values, each of which serves `heads / key_heads` heads of queries; `heads` by default.
        head_width: `width / heads` by default.
        dropout: of attention probabilities, while training.
        scale: factor of the scores; `head_width ** -0.5` by default.
        bias, output_bias: of the projections into it and out of it; the second is as the first by default.
        rotary: rotates queries and keys by their positions.
        norms: of each head's queries and of its keys, before they are rotated.
        relative: adds to the scores by distance; layers may share one.

    Attributes:
        prefix: what stands in front of every sequence's keys and values; nothing, until a tuning method sets it.
        behind: where positions begin that rotate queries and keys; at 0, until a tuning method sets a prefix.
        preferred: backends that are tried first; none, unless `prefer_backend` names one.
    """

    query: ProjectionBrick
    key: ProjectionBrick
    value: ProjectionBrick
    output: ProjectionBrick
    prefix: KeyPrefix
    behind: Behind

    def __init__(
        self,
        width: int,
        heads: int,
        structure: Structure,
        *,
        key_heads: int | None = None,
        head_width: int | None = None,
        dropout: float = 0.0,
        scale: float | None = None,
        bias: bool = True,
        output_bias: bool | None = None,
        rotary: Rotary | None = None,
        norms: tuple[nn.Module, nn.Module] | None = None,
        relative: RelativeBias | None = None,
    ) -> None:
        super().__init__()
        if head_width is None and width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.key_heads = key_heads or heads
        if heads % self.key_heads:
            raise ValueError(f"{heads} heads of queries are not a multiple of {key_heads} heads of keys")
        self.structure = structure
        self.dropout = dropout
        self.head_width = head_width or width // heads
        self.scale = self.head_width**-0.5 if scale is None else scale
        self.rotary = rotary
        self.query = Projection(width, heads * self.head_width, bias=bias)
        self.key = Projection(width, self.key_heads * self.head_width, bias=bias)
        self.value = Projection(width, self.key_heads * self.head_width, bias=bias)
        self.output = Projection(heads * self.head_width, width, bias=bias if output_bias is None else output_bias)
        self.query_norm: nn.Module | None = None
        self.key_norm: nn.Module | None = None
        if norms is not None:
            self.query_norm, self.key_norm = norms
        self.relative = relative
        self.prefix = NO_PREFIX
        self.behind = Behind()
        self.preferred: tuple[Backend, ...] = ()

    @property
    def any_queries(self) -> bool:
        """Whether queries may be any rows of their sequence."""
        return self.structure.any_queries and self.relative is None

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        cache: LayerCache | None = None,
        source: tuple[Tensor, Layout] | None = None,
    ) -> Tensor:
        """Lets rows attend to those of the same sequence, and to its cached past.

        Args:
            source: the run that keys and values are projected from, where it is not `x`.

        Shape:
            x: (T, width); return: (T, width)
        """
        x = in_matmul_dtype(x)
        query = self.query(x, layout).view(x.shape[0], self.heads, self.head_width)  # (T, H, D)
        if self.query_norm is not None:
            query = self.query_norm(query)
        if self.rotary is not None:
            query = self.rotary(query, self.behind(layout))
        key, value, keys = self._keys(x, layout, cache) if source is None else self._keys(*source, None)
        return self.output(self.attend(query, key, value, layout, keys).flatten(1), layout)

    def cross(
        self, x: Tensor, layout: Layout, encoder_output: EncoderOutput | None, cache: LayerCache | None = None
    ) -> Tensor:
        """Lets rows attend to an encoder's output; with a cache its keys and values are computed once.

        Shape:
            x: (T, width); return: (T, width)
        """
        x = in_matmul_dtype(x)
        query = self.query(x, layout).view(x.shape[0], self.heads, self.head_width)
        cross_kv = None if cache is None else cache.get_cross_kv()
        if cross_kv is None:
            if encoder_output is None:
                raise ValueError("cross-attention needs the encoder's output, or a cache with its keys and values")
            cross_kv = self.project_keys(encoder_output)
            if cache is not None:
                cache.store_cross_kv(*cross_kv)
        return self.output(self._attend(query, *cross_kv, layout).flatten(1), layout)

    def project_keys(self, encoder_output: EncoderOutput) -> tuple[Tensor, Tensor, Layout]:
        """Keys and values of an encoder's output, behind the prefix, and where they lie. Shape: (Tk, Hk, D) twice."""
        key, value, keys = self.prefix.extend(*self._keys(encoder_output.hidden, encoder_output.layout, None))
        assert isinstance(keys, Layout)
        return key, value, keys

    def attend(self, query: Tensor, key: Tensor, value: Tensor, queries: Layout, keys: KeyLayout) -> Tensor:
        """Lets projected queries attend to projected keys, behind the prefix.

        Shape:
            query: (Tq, H, D); key, value: (Tk, Hk, D); return: (Tq, H, D)
        """
        return self._attend(query, *self.prefix.extend(key, value, keys), queries)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, keys: KeyLayout, queries: Layout) -> Tensor:
        """Attends to keys and values that have their prefix. Shape: as of `attend`."""
        structure = self.structure.behind(self.prefix.length)
        if self.relative is not None:
            structure = Biased(structure, self.relative)
        dropout = self.dropout if self.training else 0.0
        call = AttentionCall(query, key, value, queries, keys, structure, dropout, self.scale, self.site)
        return ragged_attention(call, preferred=self.preferred)

    def flops(self, queries: int, keys: int, *, cross: bool = False) -> float:
        """Floating-point operations of a forward for one sequence.

        Args:
            cross: every query sees every key, which come from an encoder.
        """
        keys_read = keys + self.prefix.length
        structure = self.structure.behind(self.prefix.length)
        pairs = queries * keys_read if cross else structure.pairs(queries, keys_read)
        projections = self.query.flops(queries) + self.key.flops(keys) + self.value.flops(keys)
        return projections + self.output.flops(queries) + 4.0 * self.heads * self.head_width * pairs

    def _keys(self, x: Tensor, layout: Layout, cache: LayerCache | None) -> tuple[Tensor, Tensor, KeyLayout]:
        """Projects keys and values of a run, and puts them behind those of its past.

        Shape:
            x: (T, width); return: (Tk, key_heads, head width) twice
        """
        x = in_matmul_dtype(x)
        shape = (x.shape[0], self.key_heads, self.head_width)
        key, value = self.key(x, layout).view(shape), self.value(x, layout).view(shape)
        if self.key_norm is not None:
            key = self.key_norm(key)
        if self.rotary is not None:
            key = self.rotary(key, self.behind(layout))
        return (key, value, layout) if cache is None else cache.append(key, value, layout)

    def extra_repr(self) -> str:
        """Shows heads and structure in the module tree."""
        grouped = f", key_heads={self.key_heads}" if self.key_heads != self.heads else ""
        return f"heads={self.heads}{grouped}, structure={self.structure}"
