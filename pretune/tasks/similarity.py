"""Similarity of texts: trains vectors that are close for texts that belong together, and apart for others.

Data: pairs of a text and a second one that belongs to it (a question and its answer, a sentence and its paraphrase), or
triplets with a third text that looks alike and does not (`data.columns.third`). Each text is a sequence of its
own, all of a step in one pass; its negatives are the second and third texts of all others of its `group`, but for those
that are the same text or answer the same one.

Or pairs whose label says how alike they are, as a number on any scale (`loss = "scores"`): the cosines of a step's
pairs are put in the order of the labels. Validation data are such pairs in any case: the score is Spearman's
correlation of labels and cosines.

Source: Gao et al. 2021, SimCSE (arXiv 2104.08821), section 4; Henderson et al. 2017 (arXiv 1705.00652) for negatives
from the batch; CoSENT (Su 2022, https://kexue.fm/archives/8847) for scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.loss import Term
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.contrastive import InBatch
from pretune.objectives.objective import target
from pretune.objectives.same_texts import DIGEST, TEXTS, text_marks
from pretune.tasks.shared.vector_task import PairAnswer, PairExample, PairVectors, VectorTask, number_of, second
from pretune.tasks.task import RowBatch, tokens_of
from pretune.text.samples.rows import Encoded, Ints, Row, names_of
from pretune.text.tokenizer.tokenizer import Tokenizer

_THIRD = "third"  # the target that says which sequences are hard negatives, and whose


class Similarity(VectorTask, InBatch):
    """Tell the text that belongs to one from those of all others."""

    name: ClassVar[str] = "similarity"
    reads_windows: ClassVar[bool] = True

    class Config(VectorTask.Config, InBatch.Config):
        """How vectors are read and compared.

        Attributes:
            pooling: how the vectors of a sequence's tokens become one: the first or the mean.
            projection: train through a dense layer and tanh that is dropped afterwards.
            loss: `contrast` of texts that belong together with all others, or order of the `scores` in the labels; by
                default scores where the labels of the training pairs differ, else contrast.
        """

        pooling: Literal["cls", "mean"] = "mean"
        projection: bool = False
        loss: Literal["contrast", "scores"] | None = None

    config: Config

    def resolve_config(self, examples: Sequence[PairExample]) -> Config:
        """The loss that fits the labels.

        Raises:
            DataError: no examples, one without a second text, labels that are no scores or are not there.
        """
        super().resolve_config(examples)
        if self.config.loss == "contrast":
            return self.config
        return self.config.model_copy(update={"loss": _fitting_loss(examples, self.config.loss)})

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """That labels are used as scores, or are not used."""
        if self.config.loss != "scores":
            return super().training_notes(examples)
        scores = [number_of(example) for example in examples]
        return [f"labels are used as scores of how alike pairs are, {min(scores):g} to {max(scores):g}"]

    def score_of(self, example: PairExample) -> float | None:
        """The label, where scores are learned and it is known."""
        return None if self.config.loss != "scores" or example.label is None else number_of(example)

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """All texts, then all second ones, then the third ones that there are."""
        thirds = [(n, row.third) for n, row in enumerate(rows) if row.third is not None]
        texts = [*(row.tokens for row in rows), *map(second, rows), *(text for _, text in thirds)]
        wrapped = [self.vocabulary.add_special_tokens(text) for text in texts]
        owners = np.array([n for n, _ in thirds], dtype=np.int64)
        names, count = names_of(rows), len(rows)
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        batch = replace(batch, samples=np.concatenate([names, names, names[owners]]))
        batch.targets[self.name] = target(np.arange(count), np.arange(count, 2 * count))
        batch.targets[_THIRD] = target(owners, np.arange(2 * count, 2 * count + len(owners)))
        batch.targets[TEXTS] = self.marks(rows)
        return batch

    def marks(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Those of the three texts, and the scores."""
        texts: list[list[Ints | None]] = [[row.tokens for row in rows], [row.second for row in rows]]
        texts.append([row.third for row in rows])
        known = [row.targets for row in rows if row.targets is not None]
        return text_marks(texts, [float(score) for score in known] if len(known) == len(rows) else None)

    def step_data_stats(self, parts: Sequence[Sequence[Row]]) -> dict[str, int]:
        """Negatives that are left out; scores have none."""
        return {} if self.config.loss == "scores" else super().step_data_stats(parts)

    def contrast(self, table: Tensor, marks: Tensor, some: slice) -> Term:
        """As of all, or how far the cosines are from the order of the scores."""
        if self.config.loss != "scores":
            return super().contrast(table, marks, some)
        scores, cosines = marks[:, 0, DIGEST], (table[:, 0] * table[:, 1]).sum(dim=1) / self.config.temperature
        is_higher = scores[:, None] > scores
        gaps = (cosines - cosines[:, None]).masked_fill(~is_higher, -torch.inf)
        loss = F.pad(gaps.flatten(), (1, 0)).logsumexp(dim=0)
        count = len(cosines[some])
        return Term(self.name, loss * count, count, self.config.weight)

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Similarity, rows)

    def table(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Vectors of the texts, of the second and of the third ones. Shape: return: (N, 3, width)."""
        count, (owners, _) = len(batch.targets[self.name][0]), batch.targets[_THIRD]
        vectors = self.vectors(output, batch, 2 * count + len(owners))
        third = vectors.new_zeros(count, vectors.shape[1]).index_copy(0, owners, vectors[2 * count :])
        return torch.stack([vectors[:count], vectors[count : 2 * count], third], dim=1)

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[PairAnswer]:
        """The cosine of each pair, by the vectors that are used after training; or these, where texts have windows."""
        count = len(rows)
        vectors = self.vectors(model(rows.batch), rows.batch, 2 * count, nn.Identity())
        if self.config.truncate == "windows":
            table = vectors.cpu().numpy()
            return [PairVectors(first, second) for first, second in zip(table[:count], table[count:], strict=True)]
        return [float(cosine) for cosine in (vectors[:count] * vectors[count:]).sum(dim=1).cpu()]


def _fitting_loss(examples: Sequence[PairExample], wanted: Literal["scores"] | None) -> Literal["contrast", "scores"]:
    """Scores where the labels differ, contrast where there are none or all say the same.

    Raises:
        DataError: some pairs have a label and some none, one is no number, all say that nothing is alike, or there are
            third texts beside labels that differ.
    """
    remedy = "name another column with --label, or set task.similarity.loss to contrast to take all as alike"
    missing = [example for example in examples if example.label is None]
    if len(missing) == len(examples) and wanted is None:
        return "contrast"
    if missing:
        raise DataError(f"{missing[0].origin}: no label, where other pairs have one; give all pairs one, {remedy}")
    try:
        scores = {number_of(example) for example in examples}
    except DataError as error:
        raise DataError(f"{error}; or {remedy}") from None
    if len(scores) == 1:
        score = scores.pop()
        if score > 0 and wanted is None:
            return "contrast"
        raise DataError(
            f"{examples[0].origin.source}: all labels are {score:g}, so that they put pairs in no order; give pairs "
            f"with other labels, {remedy}"
        )
    third = next((example for example in examples if example.third is not None), None)
    if third is not None:
        raise DataError(
            f"{third.origin}: a third text beside labels that differ: leave --third out to learn the "
            f"labels as scores, or {remedy}"
        )
    return "scores"
