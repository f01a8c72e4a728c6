"""Surgery: the sites of a built model where a method replaces bricks, found by role and by layer.

Roles and patterns are those of `places`. The role `vocabulary` is the table of tokens, with every head that multiplies
by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from pretune.errors import UsageError
from pretune.find import nearest, suggest
from pretune.nn.embedding import Embedding
from pretune.nn.heads import VocabularyHead
from pretune.nn.projection import Projection, ProjectionBrick, named_bricks
from pretune.nn.rounded import rounded_bricks
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick
from pretune.places import Place, PlacePattern

VOCABULARY = "vocabulary"
_QUERY_AND_VALUE = {f"{attention}.{name}" for attention in ("attention", "cross") for name in ("query", "value")}


@dataclass(frozen=True)
class Site:
    """Where a brick stands in a model, which may be in several modules.

    Attributes:
        path: of the brick, in the model.
        role: what it does there.
        stack: path of its stack; empty outside of layers.
        layer: number of its layer, None outside of layers.
        brick: what stands there.
    """

    path: str
    role: str
    stack: str
    layer: int | None
    brick: nn.Module
    _setters: tuple[Callable[[nn.Module], None], ...]

    def replace(self, brick: nn.Module) -> None:
        """Puts another brick there."""
        for setter in self._setters:
            setter(brick)


def find_sites(model: nn.Module, patterns: Sequence[str], field: str = "places") -> list[Site]:
    """Finds the sites that any of the patterns names, in the order of the model, each once.

    Args:
        patterns: roles, or parts of them, such as `attention`, `attention.query`, `feedforward`, `vocabulary`, `head`;
            before them, or alone, a range of layers as in `layers[-2:].feedforward`.
        field: of the settings that has the patterns.

    Raises:
        UsageError: a pattern that is no role, or names no site of this model.
    """
    return select_sites([*projection_sites(model), *vocabulary_sites(model)], patterns, field)


def select_sites(known: Sequence[Site], patterns: Sequence[str], field: str = "places") -> list[Site]:
    """Selects the sites that any of the patterns names, in their order; arguments and errors as of `find_sites`."""
    chosen: set[str] = set()
    for pattern in patterns:
        matches = _matches(pattern, known, field)
        if not matches:
            raise UsageError(f"{field}: {_unmatched(pattern, known)}")
        chosen |= matches
    return [site for site in known if site.path in chosen]


def projection_sites(model: nn.Module) -> list[Site]:
    """Finds every projection, and what replaced one."""
    sites = []
    for path, brick in named_bricks(model):
        if isinstance(brick, ProjectionBrick):
            parent, _, name = path.rpartition(".")
            location, setter = Place.of(path), partial(setattr, model.get_submodule(parent), name)
            sites.append(Site(path, location.role, location.stack, location.layer, brick, (setter,)))
    return sites


def vocabulary_sites(model: nn.Module) -> list[Site]:
    """Finds every vocabulary, with all embeddings and heads that it serves."""
    sites: list[Site] = []
    embeddings = [(name, module) for name, module in model.named_modules() if isinstance(module, Embedding)]
    heads = [(name, module) for name, module in model.named_modules() if isinstance(module, VocabularyHead)]
    for name, embedding in embeddings:
        word = embedding.word
        if not any(site.brick is cast(nn.Module, word) for site in sites):
            served = [partial(setattr, module, "word") for _, module in embeddings if module.word is word]
            tied = [partial(_tie, head) for _, head in heads if head.is_tied(word)]
            sites.append(Site(f"{name}.word", VOCABULARY, "", None, cast(nn.Module, word), (*served, *tied)))
    for name, head in heads:
        if not any(head.is_tied(embedding.word) for _, embedding in embeddings):
            own = cast(nn.Module, head.vocabulary)
            sites.append(Site(name, VOCABULARY, "", None, own, (partial(_tie, head),)))
    return sites


def _tie(head: VocabularyHead, brick: nn.Module) -> None:
    head.tie(cast(VocabularyBrick, brick))


def query_and_value(model: nn.Module) -> list[Site]:
    """Finds the query and the value of every attention, that of a decoder to its encoder included.

    Raises:
        UsageError: the model has none.
    """
    sites = [site for site in projection_sites(model) if site.role in _QUERY_AND_VALUE]
    if not sites:
        roles = sorted({site.role for site in projection_sites(model)})
        raise UsageError(f"this model has no attention.query; name places among {', '.join(roles)}")
    return sites


def freeze_body(model: nn.Module, *, vocabulary: bool = False) -> None:
    """Freezes everything but the heads' own parameters; a weight that a head shares with the body stays frozen.

    So does the vocabulary that a head has for itself, where the model's files hold it: it is as large as the embedding,
    and as much the base as that.

    Args:
        model: with its heads in `model.heads`.
        vocabulary: let these vocabularies learn.
    """
    body = {id(p) for name, p in model.named_parameters(remove_duplicate=False) if not name.startswith("heads.")}
    if not vocabulary:
        body |= {id(weight) for weight in _read_vocabularies(model)}
    model.requires_grad_(False)
    for parameter in model.get_submodule("heads").parameters():
        parameter.requires_grad_(id(parameter) not in body)


def _read_vocabularies(model: nn.Module) -> Iterator[nn.Parameter]:
    """The vocabularies of heads whose weights were read from files; none of a model that was built anew."""
    loaded = getattr(model, "loaded", None)
    if loaded is None:
        return
    fresh = set(loaded.initialised)
    for path, head in model.named_modules():
        if isinstance(head, VocabularyHead):
            own = cast(nn.Module, head.vocabulary).named_parameters()
            yield from (weight for name, weight in own if f"{path}.{name}" not in fresh)


def refuse_rounded(method: str, *modules: nn.Module) -> None:
    """Refuses to let matrices learn that are rounded.

    Args:
        method: its name.
        modules: all of whose matrices it would train.

    Raises:
        UsageError: some are rounded.
    """
    bricks = [brick for module in modules for _, brick in rounded_bricks(module)]
    if bricks:
        names = sorted({brick.packed.format.NAME for brick in bricks})
        raise UsageError(
            f"tune.{method} would train {len(bricks)} matrices of this model that are rounded ({', '.join(names)}), "
            "and rounded ones cannot learn: choose --tune lora or another method that leaves them as they are, or "
            "write a plain model first (pretune export)"
        )


@torch.no_grad()
def merge_bricks(model: nn.Module) -> None:
    """Replaces every projection and vocabulary by a plain one that computes the same."""
    for site in projection_sites(model):
        if type(site.brick) is not Projection:
            weight, bias = cast(ProjectionBrick, site.brick).dense()
            site.replace(Projection.of(weight.detach().clone(), None if bias is None else bias.detach().clone()))
    for site in vocabulary_sites(model):
        if not isinstance(site.brick, Vocabulary):
            site.replace(Vocabulary.of(nn.Parameter(cast(VocabularyBrick, site.brick).dense().detach().clone())))


def _matches(text: str, sites: Sequence[Site], field: str) -> set[str]:
    """Finds the paths of the sites that a pattern names."""
    pattern, counts = PlacePattern.parse(text, field), _layer_counts(sites)
    return {site.path for site in sites if pattern.matches(site.role, site.layer, counts.get(site.stack, 0))}


def _layer_counts(sites: Sequence[Site]) -> dict[str, int]:
    """Counts the layers of each stack."""
    counts: dict[str, int] = {}
    for site in sites:
        if site.layer is not None:
            counts[site.stack] = max(counts.get(site.stack, 0), site.layer + 1)
    return counts


def _unmatched(pattern: str, sites: Sequence[Site]) -> str:
    """Says of a pattern that matches nothing what there is."""
    roles = sorted({site.role for site in sites})
    role = pattern.rpartition("].")[2]
    is_known = any(f".{role}." in f".{known}." for known in roles)
    hint = "" if is_known or nearest(role, roles, 0.5) is None else f" {suggest(role, roles)}"
    counts = " and ".join(f"{count:,}" for count in _layer_counts(sites).values())
    return f"no place of this model is called {pattern!r};{hint} it has {counts} layers, and in all: {', '.join(roles)}"
