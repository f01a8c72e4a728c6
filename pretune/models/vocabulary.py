"""A model for a tokenizer with more tokens: new rows at the end, everything else as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pretune.errors import DataError
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead


@torch.no_grad()
def extend_vocabulary(model: LanguageModel, size: int, origins: Mapping[int, Sequence[int]]) -> None:
    """Give a model's vocabulary more rows, in place: in the embedding and in every head over it.

    A new row is the mean of the rows of its pieces, so that the model begins with what it knew of them. Source: Hewitt
    2021, "Initializing new word embeddings for pretrained language models".

    Args:
        size: of the new vocabulary, at least; rows that the model has beyond its tokenizer's are taken first.
        origins: for each new id the old ids whose mean it is.

    Raises:
        DataError: an id that is not there.
    """
    old = model.vocab_size
    bad = next((n for new, ids in origins.items() for n in (new, *ids) if not 0 <= n < size), None)
    if bad is not None or any(n >= old for ids in origins.values() for n in ids):
        raise DataError(f"a new token's row or pieces are outside the vocabulary of {size} (token {bad})")
    owners: list[tuple[nn.Module, str]] = [(model.embedding.word, "weight")]
    for head in model.heads.values():
        if isinstance(head, VocabularyHead):
            owners += [(head, "weight"), (head, "bias")]
    made: dict[int, nn.Parameter] = {}
    for module, name in owners:
        weight = getattr(module, name)
        if weight is None:
            continue
        if id(weight) not in made:
            made[id(weight)] = nn.Parameter(_longer(weight, max(size, old), origins))
        setattr(module, name, made[id(weight)])
    model.embedding.word.num_embeddings = max(size, old)
    model.config = model.config.model_copy(update={"vocab_size": max(size, old)})


def _longer(weight: Tensor, size: int, origins: Mapping[int, Sequence[int]]) -> Tensor:
    """Shape: (V, ...) -> (size, ...)."""
    out = weight.new_zeros(size, *weight.shape[1:])
    out[: len(weight)] = weight
    for new, ids in origins.items():
        out[new] = weight[list(ids)].mean(dim=0)
    return out
