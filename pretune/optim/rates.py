"""Learning rates by place: factors for parts of a model, by patterns of their names, and a decay from layer to layer.

A pattern names a part of the path of a parameter, such as `heads`, `attention.query` or `embedding`; a range of layers,
such as `layers[0:2]`; or both, as in `layers[-2:].feedforward`; `head` is all that the heads have.

Source: layer-wise decay as in Clark et al. 2020, ELECTRA (arXiv 2003.10555), after the discriminative rates of Howard
and Ruder 2018 (arXiv 1801.06146).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pretune.errors import UsageError
from pretune.find import suggest

_IN_LAYER = re.compile(r"(?:(.*?)\.)??(?:stack\.)?blocks\.(\d+)\.(.+)")
_PATTERN = re.compile(r"(layers(?:\[(-?\d*):(-?\d*)\])?(?:\.|$))?([\w.]*)")
_HEAD = re.compile(r"^head(?=\.|$)")
_MODEL, _OBJECTIVE = "model.", "objective."  # what a root module has


@dataclass(frozen=True)
class _Place:
    """Where a parameter stands.

    Attributes:
        side: path of what holds its stack and its embedding: empty, or that of an encoder.
        layer: number of its layer; None outside of layers.
        role: its path inside of its layer, or in the model.
    """

    side: str
    layer: int | None
    role: str

    @classmethod
    def of(cls, name: str) -> _Place:
        path = name.removeprefix(_MODEL)
        if match := _IN_LAYER.fullmatch(path):
            return cls(match[1] or "", int(match[2]), match[3])
        return cls(f".{path}".rpartition(".embedding.")[0][1:], None, path)


def rate_factors(
    names: Iterable[str], learning: Iterable[str], rates: Mapping[str, float], layer_decay: float
) -> dict[str, float]:
    """By what the learning rate of each parameter that learns is multiplied.

    Args:
        names: of all parameters of a root module.
        learning: those of them that learn.
        rates: factors by pattern; a parameter that several patterns name gets the product of them.
        layer_decay: each layer has this times the rate of the layer above it, and the embedding below the first layer
            too. The heads, the last norm and what an objective has of its own have the full rate. An encoder's last
            layer has that of its decoder's last layer.

    Raises:
        UsageError: a pattern that is none, or that names nothing that learns.
    """
    places = {name: _Place.of(name) for name in names}
    counts: dict[str, int] = {}
    for part in places.values():
        if part.layer is not None:
            counts[part.side] = max(counts.get(part.side, 0), part.layer + 1)
    factors = {name: layer_decay ** _depth(places[name], name, counts) for name in learning}
    for pattern, factor in rates.items():
        matches = {name for name, part in places.items() if _matches(pattern, name, part, counts)}
        if not matches & factors.keys():
            raise UsageError(_nothing(pattern, matches, [places[name] for name in factors], counts))
        for name in matches & factors.keys():
            factors[name] *= factor
    return factors


def _depth(part: _Place, name: str, counts: Mapping[str, int]) -> int:
    """How many layers are above a parameter, and itself."""
    is_last = part.role.startswith("heads.") or f".{part.role}".endswith((".stack.norm.weight", ".stack.norm.bias"))
    if is_last or name.startswith(_OBJECTIVE):
        return 0
    return counts.get(part.side, 0) + 1 if part.layer is None else counts[part.side] - part.layer


def _matches(pattern: str, name: str, part: _Place, counts: Mapping[str, int]) -> bool:
    match = _PATTERN.fullmatch(pattern)
    if match is None or not pattern:
        raise UsageError(
            f"optimizer.rates: {pattern!r} names no place; write one such as heads, layers[0:2] or "
            "layers[-2:].attention.query"
        )
    layers, first, last, role = match.groups()
    if layers is not None:
        bounds = slice(int(first) if first else None, int(last) if last else None)
        if part.layer is None or part.layer not in range(*bounds.indices(counts[part.side])):
            return False
    wanted = _HEAD.sub("heads", role)
    return not wanted or f".{wanted}." in f".{name if layers is None else part.role}."


def _nothing(pattern: str, frozen: Collection[str], learning: Iterable[_Place], counts: Mapping[str, int]) -> str:
    """What is said of a pattern that names nothing that learns."""
    if frozen:
        return (
            f"optimizer.rates: what {pattern!r} names does not learn with this tuning method; remove it, or choose "
            "another method"
        )
    roles = {re.sub(r"\.(weight|bias)$", "", part.role) for part in learning}
    roles |= {role.split(".")[0] for role in roles}
    layers = f" (layers[0:{max(counts.values())}])" if counts else ""
    return f"optimizer.rates: nothing that learns is called {pattern!r}; {suggest(pattern, sorted(roles))}{layers}"
