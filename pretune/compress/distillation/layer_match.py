"""Finds which layers of a student and a teacher are compared, and refuses those that cannot be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pretune.compress.distillation.config import DistilConfig
from pretune.errors import UsageError
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.model_protocol import TrainableModel
from pretune.nn.stack import Stack

LAYER_TERMS = frozenset({"hidden", "attention", "relations"})
_SEEN = frozenset({"attention", "relations"})


@dataclass(frozen=True)
class LayerMatch:
    """The layers that are compared.

    Attributes:
        pairs: of the student and the teacher, counted from 1, for hidden states and attention; 0 is the embedding.
        relation: of the student and the teacher, from 0, whose relations are compared.
        heads: relations of each sort.
    """

    pairs: tuple[tuple[int, int], ...] = ()
    relation: tuple[int, int] = (0, 0)
    heads: int = 1

    @classmethod
    def of(
        cls, model: TrainableModel, teacher: LanguageModel, config: DistilConfig, chosen: Sequence[int] = ()
    ) -> Self:
        """Those of two models.

        Args:
            chosen: layers of the teacher, from 0, that the student was made of.

        Raises:
            UsageError: layers that are not there, or an attention that cannot be compared.
        """
        wanted = config.weights.keys()
        stacks: list[Stack] = [model.stack, teacher.stack]  # type: ignore[attr-defined]
        counts = [len(stack.order) for stack in stacks]
        if not all(counts):
            raise UsageError(
                f"distil.{min(wanted & LAYER_TERMS)}: the decoder was dropped, and the encoder's layers are not "
                "compared; set it to 0 and use distil.soft"
            )
        pairs = config.layer_map or default_pairs(counts[0], counts[1], chosen)
        least = 1 if "attention" in wanted else 0
        for ours, theirs in pairs if wanted & {"hidden", "attention"} else ():
            if not least <= ours <= counts[0] or not least <= theirs <= counts[1]:
                raise UsageError(
                    f"distil.layer_map = {[ours, theirs]}: the student has layers {least} to {counts[0]}, the teacher "
                    f"{least} to {counts[1]}; name a pair of these"
                )
        last = config.relation_layer or counts[1]
        if last > counts[1]:
            raise UsageError(f"distil.relation_layer = {last}: the teacher has layers 1 to {counts[1]}; name one")
        relation, heads = (counts[0] - 1, last - 1), 1
        if wanted & _SEEN:
            for name, stack in zip(("student", "teacher"), stacks, strict=True):
                _check_attention(name, stack)
        if "attention" in wanted:
            _check_heads(stacks, pairs)
        if "relations" in wanted:
            heads = relation_heads([_attention(s, n) for s, n in zip(stacks, relation, strict=True)], config)
        return cls(pairs, relation, heads)


def default_pairs(student: int, teacher: int, chosen: Sequence[int] = ()) -> tuple[tuple[int, int], ...]:
    """Each layer of the student with the one that it was made of, else with one of the teacher's, evenly spread."""
    if len(chosen) == student and chosen and max(chosen) < teacher:
        return tuple((n + 1, layer + 1) for n, layer in enumerate(chosen))
    return tuple((n, max(1, round(n * teacher / student))) for n in range(1, student + 1))


def relation_heads(attentions: Sequence[Attention], config: DistilConfig) -> int:
    """How many relations of each sort there are: as configured, or as many as the teacher has heads.

    Args:
        attentions: of the student and the teacher.

    Raises:
        UsageError: the vectors of one cannot be parted into as many.
    """
    sizes = [count * each.head_width for each in attentions for count in (each.heads, each.key_heads)]
    heads = config.relation_heads or attentions[1].heads
    if any(size % heads for size in sizes):
        common = math.gcd(*sizes)
        raise UsageError(
            f"distil.relation_heads = {heads}: the queries, keys and values of student and teacher are "
            f"{', '.join(map(str, dict.fromkeys(sizes)))} wide, which it does not divide; name a divisor of {common}"
        )
    return heads


def _attention(stack: Stack, layer: int) -> Attention:
    attention = stack.in_order[layer].attention
    assert isinstance(attention, Attention)
    return attention


def _check_attention(name: str, stack: Stack) -> None:
    """Raises a UsageError where an attention is not seen from outside."""
    for block in stack.in_order:
        attention = block.attention
        if not isinstance(attention, Attention):
            raise UsageError(
                f"distil: the attention of the {name} has no queries and keys that could be compared; set "
                "distil.attention and distil.relations to 0 and use distil.hidden"
            )
        if attention.prefix.length:
            raise UsageError(
                f"distil: a tuning method put a prefix before the keys of the {name}; set distil.attention and "
                "distil.relations to 0 and use distil.hidden"
            )


def _check_heads(stacks: Sequence[Stack], pairs: Sequence[tuple[int, int]]) -> None:
    """Raises a UsageError where two layers have different numbers of heads."""
    for ours, theirs in pairs:
        heads = [_attention(stack, layer - 1).heads for stack, layer in zip(stacks, (ours, theirs), strict=True)]
        if heads[0] != heads[1]:
            raise UsageError(
                f"distil.attention: layer {ours} of the student has {heads[0]} heads, layer {theirs} of the teacher "
                f"{heads[1]}; set it to 0 and use distil.relations, which any numbers of heads have"
            )
