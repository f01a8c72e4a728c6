"""Surgery by place: which bricks of a built model a method replaces, named by role and by layer.

A place's role is its path inside a layer, such as `attention.query` or `feedforward.up`, or its path in the model where
it is in none, such as `heads.classification.linear`. `vocabulary` is the table of tokens, with every head that
multiplies by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from pretune.errors import UsageError
from pretune.find import suggest
from pretune.nn.embedding import Embedding
from pretune.nn.heads import VocabularyHead
from pretune.nn.projection import Projection, ProjectionBrick, named_bricks
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick

VOCABULARY = "vocabulary"
_IN_LAYER = re.compile(r"(.*?)blocks\.(\d+)\.(.+)")
_PATTERN = re.compile(r"(?:layers\[(-?\d*):(-?\d*)\]\.)?([a-z_][a-z_0-9.]*)")


@dataclass(frozen=True)
class Place:
    """Where a brick stands in a model; one brick may stand in several.

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


def find_places(model: nn.Module, patterns: Sequence[str]) -> list[Place]:
    """The places that any of the patterns names, in the order of the model, each once.

    Args:
        patterns: roles, or parts of them, such as `attention`, `attention.query`, `feedforward`, `vocabulary`; before
            them, where wanted, a range of layers as in `layers[-2:].feedforward`.

    Raises:
        UsageError: a pattern that is no role, or names no place in this model.
    """
    known = [*projection_places(model), *vocabulary_places(model)]
    chosen: set[str] = set()
    for pattern in patterns:
        matches = _matches(pattern, known)
        if not matches:
            roles = sorted({place.role for place in known})
            raise UsageError(f"no place of this model is called {pattern!r}; {suggest(pattern, roles)}")
        chosen |= matches
    return [place for place in known if place.path in chosen]


def projection_places(model: nn.Module) -> list[Place]:
    """Every place where a projection stands, or what replaced one."""
    places = []
    for path, brick in named_bricks(model):
        if isinstance(brick, ProjectionBrick):
            parent, _, name = path.rpartition(".")
            stack, layer, role = _whereabouts(path)
            places.append(
                Place(path, role, stack, layer, brick, (partial(setattr, model.get_submodule(parent), name),))
            )
    return places


def vocabulary_places(model: nn.Module) -> list[Place]:
    """Every vocabulary, with all embeddings and heads that it serves."""
    places: list[Place] = []
    embeddings = [(name, module) for name, module in model.named_modules() if isinstance(module, Embedding)]
    heads = [(name, module) for name, module in model.named_modules() if isinstance(module, VocabularyHead)]
    for name, embedding in embeddings:
        word = embedding.word
        if not any(place.brick is cast(nn.Module, word) for place in places):
            served = [partial(setattr, module, "word") for _, module in embeddings if module.word is word]
            tied = [partial(_tie, head) for _, head in heads if head.is_tied(word)]
            places.append(Place(f"{name}.word", VOCABULARY, "", None, cast(nn.Module, word), (*served, *tied)))
    for name, head in heads:
        if not any(head.is_tied(embedding.word) for _, embedding in embeddings):
            own = cast(nn.Module, head.vocabulary)
            places.append(Place(name, VOCABULARY, "", None, own, (partial(_tie, head),)))
    return places


def _tie(head: VocabularyHead, brick: nn.Module) -> None:
    head.tie(cast(VocabularyBrick, brick))


@torch.no_grad()
def merge_bricks(model: nn.Module) -> None:
    """Replaces every projection and vocabulary by a plain one that computes the same."""
    for place in projection_places(model):
        if type(place.brick) is not Projection:
            weight, bias = cast(ProjectionBrick, place.brick).dense()
            place.replace(Projection.of(weight.detach().clone(), None if bias is None else bias.detach().clone()))
    for place in vocabulary_places(model):
        if not isinstance(place.brick, Vocabulary):
            place.replace(Vocabulary.of(nn.Parameter(cast(VocabularyBrick, place.brick).dense().detach().clone())))


def _whereabouts(path: str) -> tuple[str, int | None, str]:
    """Stack, layer and role of a path."""
    match = _IN_LAYER.fullmatch(path)
    return ("", None, path) if match is None else (match[1], int(match[2]), match[3])


def _matches(pattern: str, places: Sequence[Place]) -> set[str]:
    """Paths of the places that a pattern names."""
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise UsageError(f"{pattern!r} names no place; write a role such as attention.query or layers[-2:].feedforward")
    first, last, role = match.groups()
    counts: dict[str, int] = {}
    for place in places:
        if place.layer is not None:
            counts[place.stack] = max(counts.get(place.stack, 0), place.layer + 1)

    def inside(place: Place) -> bool:
        if first is None:
            return True
        bounds = slice(int(first) if first else None, int(last) if last else None)
        return place.layer is not None and place.layer in range(*bounds.indices(counts[place.stack]))

    return {place.path for place in places if f".{role}." in f".{place.role}." and inside(place)}
