"""Attention over two ragged runs, queries and keys, and the brick that projects into and out of it."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.backends import flash, matmul, padded, reference, sdpa, varlen
from pretune.nn.cache import LayerCache
from pretune.nn.projection import Projection, working
from pretune.nn.rotary import Rotary
from pretune.nn.spans import Run
from pretune.nn.structure import Causal, Structure

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
    keys: Run,
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


def _check(queries: Layout, keys: Run, structure: Structure) -> None:
    if len(queries.lengths) != len(keys.lengths):
        raise ValueError(f"{len(queries.lengths)} sequences of queries, {len(keys.lengths)} of keys")
    if isinstance(structure, Causal):
        for n, (q, k) in enumerate(zip(queries.lengths, keys.lengths, strict=True)):
            if q > k:
                raise ValueError(f"causal attention: sequence {n} has {q} queries and {k} keys; the last of both align")


class Attention(nn.Module):
    """Multi-head attention with separate projections.

    Args:
        width: of the hidden run, a multiple of `heads`.
        dropout: of attention probabilities, while training.
        scale: factor of the scores; `head_width ** -0.5` by default.
        rotary: turns queries and keys by their positions.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        structure: Structure,
        *,
        dropout: float = 0.0,
        scale: float | None = None,
        bias: bool = True,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.structure = structure
        self.dropout = dropout
        self.scale = scale
        self.rotary = rotary
        self.query = Projection(width, width, bias=bias)
        self.key = Projection(width, width, bias=bias)
        self.value = Projection(width, width, bias=bias)
        self.output = Projection(width, width, bias=bias)

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
        other, at = (x, layout) if source is None else (working(source[0]), source[1])
        query = self.query(x, layout).unflatten(1, (self.heads, -1))
        key = self.key(other, at).unflatten(1, (self.heads, -1))
        value = self.value(other, at).unflatten(1, (self.heads, -1))
        if self.rotary is not None:
            query, key = self.rotary(query, layout), self.rotary(key, at)
        keys: Run = at
        if cache is not None:
            key, value, keys = cache.append(key, value, layout)
        dropout = self.dropout if self.training else 0.0
        mixed = ragged_attention(query, key, value, layout, keys, self.structure, dropout=dropout, scale=self.scale)
        return self.output(mixed.flatten(1), layout)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Heads and structure, for the module tree."""
        return f"heads={self.heads}, structure={self.structure}"
