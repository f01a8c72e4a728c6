"""A model whose matrices have the values that a type of weights stores, for comparing with what an engine computes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from pretune.interop.plain_parts import stored_format
from pretune.models.model import LanguageModel
from pretune.nn.formats.format import find_format, pack, vocabulary_format
from pretune.nn.projection import Projection, named_bricks
from pretune.nn.vocabulary import Vocabulary


@torch.no_grad()
def rounded_copy(model: LanguageModel, type: str, *, vocabulary: bool = True) -> LanguageModel:
    """The model with rounded values; the model itself where nothing is rounded.

    Args:
        type: `int8`, `q8_0` or `q4_0`, whose vocabulary has q8_0; anything else rounds nothing.
        vocabulary: round the vocabulary and the heads too, and not only the layers of the stacks.
    """
    if type not in ("int8", "q8_0", "q4_0"):
        return model
    out = copy.deepcopy(model)
    visited: set[int] = set()
    for name, brick in named_bricks(out):
        if not vocabulary and ".blocks." not in name:
            continue
        if isinstance(brick, Projection) and stored_format(brick) is None:
            _round(brick.weight, type, visited)
        elif isinstance(brick, Vocabulary):
            _round(brick.weight, vocabulary_format(type), visited)
    for head in out.heads.values() if vocabulary else ():
        weight = getattr(head, "weight", None)
        if isinstance(weight, Tensor):
            _round(weight, vocabulary_format(type), visited)
    return out


def _round(weight: Tensor, type: str, visited: set[int]) -> None:
    if id(weight) not in visited:
        visited.add(id(weight))
        form = find_format(type)
        weight.copy_(form.dense(pack(form, weight)))
