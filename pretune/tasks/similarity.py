"""Similarity of texts: vectors in which texts that belong together are close, and others are not.

Data: pairs of a text and a second one that belongs to it (a question and its answer, a sentence and its paraphrase), or
triplets with a third text that looks alike and does not (`data.columns.third_column`). Each text is a sequence of its
own, all of a step in one pass; its negatives are the second and third texts of all others of its `group`. Validation
data are pairs whose label says how alike they are, as a number: the score is Spearman's correlation with the cosines.

Source: Gao et al. 2021, SimCSE (arXiv 2104.08821), section 4; Henderson et al. 2017 (arXiv 1705.00652) for negatives
from the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.contrastive import InBatch
from pretune.objectives.objective import name_samples, target
from pretune.tasks.task import RowBatch, tokens_of
from pretune.tasks.vector_task import VectorTask, second
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.tokenizer.tokenizer import Tokenizer

_THIRD = "third"  # the target that says which sequences are hard negatives, and whose


class Similarity(VectorTask, InBatch):
    """Tell the text that belongs to one from those of all others."""

    name: ClassVar[str] = "similarity"

    class Config(VectorTask.Config, InBatch.Config):
        """How vectors are read and compared.

        Attributes:
            pooling: how the vectors of a sequence's tokens become one: the first or the mean.
            projection: train through a dense layer and tanh that is dropped afterwards.
        """

        pooling: Literal["cls", "mean"] = "mean"
        projection: bool = False

    config: Config

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """All texts, then all second ones, then the third ones that there are."""
        thirds = [(n, row.third) for n, row in enumerate(rows) if row.third is not None]
        texts = [*(row.tokens for row in rows), *map(second, rows), *(text for _, text in thirds)]
        wrapped = [self.vocabulary.add_special_tokens(text) for text in texts]
        batch = name_samples(ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped]), rows)
        count = len(rows)
        batch.targets[self.name] = target(np.arange(count), np.arange(count, 2 * count))
        owners = np.array([n for n, _ in thirds], dtype=np.int64)
        batch.targets[_THIRD] = target(owners, np.arange(2 * count, 2 * count + len(owners)))
        return batch

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Similarity, rows)

    def table(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Vectors of the texts, of the second and of the third ones. Shape: return: (N, 3, width)."""
        count, (owners, _) = len(batch.targets[self.name][0]), batch.targets[_THIRD]
        vectors = self.vectors(output, batch, 2 * count + len(owners))
        third = vectors.new_zeros(count, vectors.shape[1]).index_copy(0, owners, vectors[2 * count :])
        return torch.stack([vectors[:count], vectors[count : 2 * count], third], dim=1)

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[float]:
        """The cosine of each pair, by the vectors that are used after training."""
        count = len(rows)
        vectors = self.vectors(model(rows.batch), rows.batch, 2 * count, nn.Identity())
        return [float(cosine) for cosine in (vectors[:count] * vectors[count:]).sum(dim=1).cpu()]
