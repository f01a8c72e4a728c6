"""Attention over two ragged runs, queries and keys, and the brick that projects into and out of it."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.backends import flash, matmul, padded, reference, sdpa, varlen
from pretune.nn.cache import LayerCache, Memory
from pretune.nn.projection import Projection, working
from pretune.nn.relative import RelativeBias
from pretune.nn.rotary import Rotary
from pretune.nn.spans import KeyLayout
from pretune.nn.structure import Biased, Causal, Structure

BACKENDS: dict[str, ModuleType] = {
    "varlen": varlen,
    "matmul": matmul,
    "flash": flash,
    "sdpa": sdpa,
    "padded": padded,
    "reference": reference,
}
_ORDER = (varlen, matmul, flash, sdpa)


def ragged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Layout,
    keys: KeyLayout,
    structure: Structure,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention of each sequence's queries to the same sequence's keys.

    Args:
        queries, keys: where the sequences lie; self-attention gives the same layout twice.
        structure: which keys a query sees.
        dropout: share of attention probabilities dropped; above 0 it leaves the fast kernels.
        scale: factor of the scores; `D ** -0.5` by default.
        backend: a name of `BACKENDS` instead of the first that can do the call.

    Shape:
        query: (Tq, H, D); key, value: (Tk, Hk, D), Hk dividing H; return: (Tq, H, D)

    Raises:
        ValueError: the runs do not fit each other, or the named back end cannot do the call.
    """
    if keys is not queries:
        _check(queries, keys, structure)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    structure = structure.within(keys)
    for module in _ORDER if backend is None else (BACKENDS[backend],):
        reason = module.refuse(query, key, queries, keys, structure, dropout)
        if reason is None:
            out: Tensor = module.attend(query, key, value, queries, keys, structure, dropout, scale)
            return out
    raise ValueError(f"attention back end {backend!r}: {reason}")


def _check(queries: Layout, keys: KeyLayout, structure: Structure) -> None:
    if len(queries.lengths) != len(keys.lengths):
        raise ValueError(f"{len(queries.lengths)} sequences of queries, {len(keys.lengths)} of keys")
    if isinstance(structure, Causal):
        for n, (q, k) in enumerate(zip(queries.lengths, keys.lengths, strict=True)):
            if q > k:
                raise ValueError(f"causal attention: sequence {n} has {q} queries and {k} keys; the last of both align")


class Attention(nn.Module):
    """Multi-head attention with separate projections.

    Args:
        width: of the hidden run.
        heads: of the queries.
        key_heads: of keys and values, each of which serves `heads / key_heads` heads of queries; `heads` by default.
        head_width: `width / heads` by default.
        dropout: of attention probabilities, while training.
        scale: factor of the scores; `head_width ** -0.5` by default.
        bias, output_bias: of the projections into it and out of it; the second is as the first by default.
        rotary: turns queries and keys by their positions.
        norms: of each head's queries and of its keys, before they are turned.
        relative: gives what is added to the scores by distance; layers may share one.
    """

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
        self.scale = scale
        self.rotary = rotary
        of_head = head_width or width // heads
        self.query = Projection(width, heads * of_head, bias=bias)
        self.key = Projection(width, self.key_heads * of_head, bias=bias)
        self.value = Projection(width, self.key_heads * of_head, bias=bias)
        self.output = Projection(heads * of_head, width, bias=bias if output_bias is None else output_bias)
        self.query_norm: nn.Module | None = None
        self.key_norm: nn.Module | None = None
        if norms is not None:
            self.query_norm, self.key_norm = norms
        self.relative = relative

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
        """Mix rows of the same sequence, and of its cached past.

        Args:
            source: the run that keys and values are made of, where it is not `x`.

        Shape:
            x: (T, width); return: (T, width)
        """
        x = working(x)
        query = self.query(x, layout).unflatten(1, (self.heads, -1))
        if self.query_norm is not None:
            query = self.query_norm(query)
        if self.rotary is not None:
            query = self.rotary(query, layout)
        key, value, keys = self._keys(x, layout, cache) if source is None else self._keys(*source, None)
        return self._mix(query, key, value, layout, keys)

    def cross(self, x: Tensor, layout: Layout, memory: Memory | None, cache: LayerCache | None = None) -> Tensor:
        """Mix rows of another run, that of an encoder, into `x`; with a cache they are projected once.

        Shape:
            x: (T, width); return: (T, width)
        """
        x = working(x)
        query = self.query(x, layout).unflatten(1, (self.heads, -1))
        known = None if cache is None else cache.recall()
        if known is None:
            if memory is None:
                raise ValueError("attention to an encoder's run needs that run, or a cache that remembers it")
            key, value, _ = self._keys(memory.hidden, memory.layout, None)
            known = (key, value, memory.layout)
            if cache is not None:
                cache.remember(*known)
        return self._mix(query, *known[:2], layout, known[2])

    def _keys(self, x: Tensor, layout: Layout, cache: LayerCache | None) -> tuple[Tensor, Tensor, KeyLayout]:
        """Keys and values of a run, behind those of its past.

        Shape:
            x: (T, width); return: (Tk, key_heads, head width) twice
        """
        x = working(x)
        key = self.key(x, layout).unflatten(1, (self.key_heads, -1))
        value = self.value(x, layout).unflatten(1, (self.key_heads, -1))
        if self.key_norm is not None:
            key = self.key_norm(key)
        if self.rotary is not None:
            key = self.rotary(key, layout)
        return (key, value, layout) if cache is None else cache.append(key, value, layout)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, queries: Layout, keys: KeyLayout) -> Tensor:
        structure = self.structure if self.relative is None else Biased(self.structure, self.relative)
        dropout = self.dropout if self.training else 0.0
        mixed = ragged_attention(query, key, value, queries, keys, structure, dropout=dropout, scale=self.scale)
        return self.output(mixed.flatten(1), queries)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Heads and structure, for the module tree."""
        grouped = f", key_heads={self.key_heads}" if self.key_heads != self.heads else ""
        return f"heads={self.heads}{grouped}, structure={self.structure}"
