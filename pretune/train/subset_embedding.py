"""Trains the embedding of a large vocabulary only on the tokens that the data hold.

A fine-tuning set has some thousand of 30,000 tokens. Rows of the others never have a gradient, yet each step would fill
theirs with zeros, measure it, and update their weights and two means: of MiniLM's 23 million weights 12 million stand
there. The finished model has all rows again, as if they had been there: see `SubsetEmbedding`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.models.model import LanguageModel
from pretune.nn.vocabulary import SubsetEmbedding, Vocabulary

_FRACTION = 0.75  # of the vocabulary at most, for it to be worth it


def shrink_embedding(model: LanguageModel, tokens: NDArray[np.int64] | None) -> None:
    """Leave rows out that cannot be looked up, where the table learns and nothing else reads it.

    Args:
        model: changed in place, until `restore_embedding`.
        tokens: that batches may hold; None where that is not known, and all rows stay.

    Shape:
        tokens: (any,)
    """
    table = model.embedding.word
    if tokens is None or type(table) is not Vocabulary:  # a tuning method put another brick there
        return
    if not table.weight.requires_grad or _shared(model, table.weight):
        return
    used = np.unique(tokens)
    if len(used) <= _FRACTION * table.size:
        model.embedding.word = SubsetEmbedding(table, torch.from_numpy(used))


def restore_embedding(model: LanguageModel) -> None:
    """Undo `shrink_embedding`, with what was learned in it."""
    table = model.embedding.word
    if isinstance(table, SubsetEmbedding):
        model.embedding.word = table.restore()


def _shared(model: nn.Module, weight: Tensor) -> bool:
    """Whether a weight stands at several places, as the vocabulary of an encoder-decoder does on both sides."""
    return sum(own is weight for _, own in model.named_parameters(remove_duplicate=False)) > 1
