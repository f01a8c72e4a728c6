"""Learning rates by place: factors for parts of a model, by patterns of their names, and a decay from layer to layer.

A pattern is one of `places`, which may name any part of the path of a parameter, such as `encoder` or `embedding`.

Source: layer-wise decay as in Clark et al. 2020, ELECTRA (arXiv 2003.10555), after the discriminative rates of Howard
and Ruder 2018 (arXiv 1801.06146).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from pretune.errors import UsageError
from pretune.find import suggest
from pretune.places import Place, PlacePattern

_LAST = (".stack.norm.weight", ".stack.norm.bias")
_MODEL, _OBJECTIVE = "model.", "objective."  # what a root module has


def _place_of(name: str) -> Place:
    """The place of a parameter of a root module; an embedding is on the side of its stack."""
    path = name.removeprefix(_MODEL)
    location = Place.of(path)
    before, is_embedding, _ = f".{path}".rpartition(".embedding.")
    if is_embedding and location.layer is None:
        return replace(location, side=f"{before[1:]}." if before else "")
    return location


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
    places = {name: _place_of(name) for name in names}
    counts: dict[str, int] = {}
    for location in places.values():
        if location.layer is not None:
            counts[location.side] = max(counts.get(location.side, 0), location.layer + 1)
    factors = {name: layer_decay ** _depth(places[name], name, counts) for name in learning}
    for pattern, factor in rates.items():
        parsed = PlacePattern.parse(pattern, "optimizer.rates")
        matches = {
            name
            for name, location in places.items()
            if parsed.matches(location.role, location.layer, counts.get(location.side, 0), name)
        }
        if not matches & factors.keys():
            raise UsageError(_nothing(pattern, matches, [places[name] for name in factors], counts))
        for name in matches & factors.keys():
            factors[name] *= factor
    return factors


def _depth(location: Place, name: str, counts: Mapping[str, int]) -> int:
    """How many layers are above a parameter, and itself."""
    is_last = location.role.startswith("heads.") or f".{location.role}".endswith(_LAST)
    if is_last or name.startswith(_OBJECTIVE):
        return 0
    return counts.get(location.side, 0) + 1 if location.layer is None else counts[location.side] - location.layer


def _nothing(pattern: str, frozen: Collection[str], learning: Iterable[Place], counts: Mapping[str, int]) -> str:
    """What is said of a pattern that names nothing that learns."""
    if frozen:
        return (
            f"optimizer.rates: what {pattern!r} names does not learn with this tuning method; remove it, or choose "
            "another method"
        )
    roles = {re.sub(r"\.(weight|bias)$", "", location.role) for location in learning}
    roles |= {role.split(".")[0] for role in roles}
    layers = f" (layers[0:{max(counts.values())}])" if counts else ""
    return f"optimizer.rates: nothing that learns is called {pattern!r}; {suggest(pattern, sorted(roles))}{layers}"
