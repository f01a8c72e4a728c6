"""Extends a model's vocabulary for a tokenizer with more tokens: new rows at the end, everything else as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pretune.errors import DataError
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.nn.vocabulary import Vocabulary, longer


@torch.no_grad()
def extend_vocabulary(model: LanguageModel, size: int, origins: Mapping[int, Sequence[int]]) -> None:
    """Adds rows to a model's vocabulary in place: in the embedding and in every head over it.

    A new row is the mean of the rows of its subwords, so that the model begins with what it knew of them.

    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models".

    Args:
        size: of the new vocabulary, at least; rows that the model has beyond its tokenizer's are used first.
        origins: for each new id the old ids whose mean it is.

    Raises:
        DataError: an id that is not there.
    """
    old = model.vocab_size
    bad = next((n for new, ids in origins.items() for n in (new, *ids) if not 0 <= n < size), None)
    if bad is not None or any(n >= old for ids in origins.values() for n in ids):
        raise DataError(f"a new token's row or subwords are outside the vocabulary of {size} (token {bad})")
    size = max(size, old)
    words = model.embedding.word
    if not isinstance(words, Vocabulary):
        raise DataError("the model's vocabulary is under a tuning method; merge it before adding tokens")
    heads = [head for head in model.heads.values() if isinstance(head, VocabularyHead)]
    tied = [head for head in heads if head.is_tied(words)]
    words.extend(size, origins)
    for head in heads:
        if head not in tied:
            own = head.vocabulary
            assert isinstance(own, Vocabulary)
            own.extend(size, origins)
            head.tie(own)
        else:
            head.tie(words)
        if head.bias is not None:
            head.bias = nn.Parameter(longer(head.bias, size, origins))
    model.config = model.config.model_copy(update={"vocab_size": size})
