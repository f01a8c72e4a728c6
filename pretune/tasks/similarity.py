"""Similarity of texts: trains vectors that are close for texts that belong together, and apart for others.

Data: pairs of a text and a second one that belongs to it (a question and its answer, a sentence and its translation),
with or without negatives that look alike and do not (`data.columns.third`: a text, or a list of texts, which
`pretune mine` finds). Or pairs whose label says how alike they are, as a number on any scale. Or a better model's
scores or vectors. `loss` is a file of `tasks/vector_losses`, or your own, by its name or as a table of its settings; by
default the labels decide: `cosent` where they differ, `margin_distillation` where they are lists, else `contrast`.

Each text is a sequence of its own, all of a step in one pass. With `dims` the first numbers of a vector are trained to
be a vector too (Matryoshka), by the same loss, whichever it is. Validation data are pairs whose label says how alike
they are, scored by Spearman's correlation of labels and cosines; or pairs without labels, among whose second texts each
first one finds its own, scored as a ranking.

Source: Reimers and Gurevych 2019 (arXiv 1908.10084); Kusupati et al. 2022 (arXiv 2205.13147) for `dims`; the losses
name their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.loss import Term
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.contrastive import InBatch
from pretune.objectives.objective import ModelLoader, refuse_to_load, target
from pretune.objectives.same_texts import TEXTS, text_marks
from pretune.objectives.text_teacher import Teacher
from pretune.tasks.shared.pair_scores import PairVectors
from pretune.tasks.shared.vector_task import PairAnswer, PairExample, VectorTask, number_of, pair_cosines, second
from pretune.tasks.task import RowBatch, tokens_of
from pretune.tasks.vector_losses.vector_loss import OLDER_NAMES, VectorLoss, VectorTable, build_loss, name_of
from pretune.text.samples.rows import Encoded, Ints, Row, names_of
from pretune.text.tokenizer.tokenizer import Tokenizer

_CELLS = "cells"  # the target that says which text of which example each sequence is
_LABELS = "labels"  # the target that holds what is learned beside scores, such as a teacher's vectors


class Similarity(VectorTask, InBatch):
    """Tell the text that belongs to one from those of all others."""

    name: ClassVar[str] = "similarity"
    reads_windows: ClassVar[bool] = True
    transient: ClassVar[tuple[str, ...]] = ("projection", "vector_loss")

    class Config(VectorTask.Config, InBatch.Config):
        """How vectors are read and compared.

        Attributes:
            pooling: how the vectors of a sequence's tokens become one: the first or the mean.
            projection: train through a dense layer and tanh that is dropped afterwards.
            loss: `contrast`, `cosent`, `angle`, `cosine`, `triplet`, `margin_distillation`, `vector_distillation`, or a
                file of your own; by default what fits the labels. Its settings are set below its name, as
                `--task.similarity.loss.triplet.margin 0.3`.
            negatives: of each example at most; by default as many as the example with most has.
            dims: lengths of vectors that are trained, such as 384,128,32; by default the whole length alone.
            dim_weights: weight of the loss at each of them; by default 1.
        """

        pooling: Literal["cls", "mean"] = "mean"
        projection: bool = False
        loss: str | dict[str, dict[str, Any]] | None = None
        negatives: int | None = Field(default=None, ge=0)
        dims: tuple[int, ...] = ()
        dim_weights: tuple[float, ...] = ()

        @field_validator("loss")
        @classmethod
        def _one_loss(cls, loss: str | dict[str, dict[str, Any]] | None) -> str | dict[str, dict[str, Any]] | None:
            if isinstance(loss, dict) and len(loss) != 1:
                raise ValueError(f"expected one loss with its settings, found {', '.join(loss) or 'none'}")
            return OLDER_NAMES.get(loss, loss) if isinstance(loss, str) else loss

        @model_validator(mode="after")
        def _lengths(self) -> Similarity.Config:
            if any(dim < 1 for dim in self.dims) or len(set(self.dims)) < len(self.dims):
                raise ValueError(f"dims {list(self.dims)}: give lengths of vectors, each once")
            if self.dim_weights and len(self.dim_weights) != len(self.dims):
                raise ValueError(f"{len(self.dim_weights)} dim_weights for {len(self.dims)} dims; give one for each")
            if any(not 0 < weight < float("inf") for weight in self.dim_weights):
                raise ValueError(f"dim_weights {list(self.dim_weights)}: give numbers above 0")
            return self

    config: Config

    @property
    def loss_of_vectors(self) -> VectorLoss:
        """The loss that is configured, made when it is first asked for: a model in use needs none."""
        if not hasattr(self, "vector_loss"):
            self.vector_loss = build_loss(self.config.loss or "contrast")
        return self.vector_loss

    @property
    def _known_loss(self) -> VectorLoss | None:
        """The loss; None where none is configured, or its file is gone, which only training would miss."""
        try:
            return None if self.config.loss is None else self.loss_of_vectors
        except (UsageError, MissingInputError):
            return None

    @property
    def teacher(self) -> str | None:
        """The folder of the model that the loss learns from."""
        return getattr(self.loss_of_vectors.config, "teacher", None)

    def label_by(self, examples: Sequence[PairExample], teacher: Teacher) -> list[PairExample]:
        """Vectors of the first texts, or scores of their pairs with all further texts."""
        return self.loss_of_vectors.label_by(examples, teacher)

    @property
    def needs_second(self) -> bool:
        """Whether the loss does."""
        return self._known_loss is None or self._known_loss.needs_second

    def resolve_config(self, examples: Sequence[PairExample]) -> Config:
        """The loss that fits the labels with its settings, and how many negatives are read.

        Raises:
            DataError: no examples, one without a second text, or labels that the loss does not learn from.
            UsageError: no such loss or setting.
        """
        if self.config.loss is None and examples:
            config = self.config.model_copy(update={"loss": _fitting_loss(examples)})
            return type(self)(config, self.vocabulary).resolve_config(examples)
        super().resolve_config(examples)
        assert self.config.loss is not None  # there are examples
        settings = self.loss_of_vectors.resolve_config(examples).model_dump(exclude_unset=True)
        name = name_of(self.config.loss)
        most = max(len(example.negatives) for example in examples)
        negatives = most if self.config.negatives is None else min(most, self.config.negatives)
        return self.config.model_copy(update={"loss": {name: settings} if settings else name, "negatives": negatives})

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """How labels are used, and how many negatives there are."""
        notes = self.loss_of_vectors.training_notes(examples)
        counts = [len(example.negatives) for example in examples]
        if max(counts) > self.columns_of_vectors - 2:
            notes.append(f"negatives beyond the first {self.columns_of_vectors - 2} of an example are not read")
        elif min(counts) < max(counts):
            notes.append(f"examples have from {min(counts)} to {max(counts)} negatives; each is compared with its own")
        return notes

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Checks the lengths of vectors against the model's.

        Raises:
            UsageError: vectors that are longer than the model's, or a model without a run of its own.
        """
        super().setup(model, draw, load)
        if longer := [dim for dim in self.config.dims if dim > model.width]:
            raise UsageError(
                f"task.similarity.dims: {longer[0]} is more than the {model.width} numbers of this model's vectors; "
                f"give lengths up to {model.width}"
            )
        _ = self.loss_of_vectors  # so that its parameters are trained

    @property
    def columns_of_vectors(self) -> int:
        """Texts of an example whose vectors are compared: the first, the second and the negatives."""
        return 2 + (1 if self.config.negatives is None else self.config.negatives)

    def targets_of(self, example: PairExample) -> NDArray[np.generic] | None:
        """What the loss learns from the label."""
        loss = self._known_loss
        values = None if loss is None else loss.targets(example)
        return None if values is None else np.array(values if len(values) > 1 else values[0])

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """All first texts, then all second ones, then the negatives; the target `cells` says which each is."""
        columns: list[list[Ints | None]] = [[row.tokens for row in rows]]
        columns.append([second(row) if self.needs_second else row.second for row in rows])
        columns += [[_negative(row, n) for row in rows] for n in range(self.columns_of_vectors - 2)]
        cells = [(n, k, text) for k, column in enumerate(columns) for n, text in enumerate(column) if text is not None]
        wrapped = [self.vocabulary.add_special_tokens(text) for _, _, text in cells]
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        batch = replace(batch, samples=names_of(rows)[[n for n, _, _ in cells]])
        known = np.flatnonzero([not self._learns or row.targets is not None for row in rows])
        batch.targets[self.name] = target(known, known)
        numbers = np.array([n * len(columns) + k for n, k, _ in cells], np.int64)
        batch.targets[_CELLS] = target(np.arange(len(cells)), numbers)
        batch.targets[TEXTS] = self.marks(rows)
        if self._learns == "vectors" and len(known):
            batch.targets[_LABELS] = (torch.arange(len(rows)), _stacked([row.targets for row in rows]))
        return batch

    @property
    def _learns(self) -> str | None:
        """What the loss learns from labels."""
        return None if self._known_loss is None else self._known_loss.learns

    def marks(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Those of all texts, and the scores."""
        further = self.columns_of_vectors - 1
        texts: list[list[Ints | None]] = [[row.tokens for row in rows], [row.second for row in rows]]
        texts += [[_negative(row, n) for row in rows] for n in range(further - 1)]
        if self._learns == "vectors":
            return text_marks(texts)
        return text_marks(texts, [_scores(row)[:further] for row in rows])

    def step_data_stats(self, parts: Sequence[Sequence[Row]]) -> dict[str, int]:
        """Negatives that are left out, of a loss that has those of other examples."""
        return super().step_data_stats(parts) if name_of(self.config.loss or "contrast") == "contrast" else {}

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> Tensor | None:
        """The table, where the loss compares examples."""
        return super().gather_across_step(model, batch, parts) if self.loss_of_vectors.compares_examples else None

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """The loss of the configured file, of the examples whose label says what it learns."""
        if self.loss_of_vectors.compares_examples:
            (term,) = super().loss(model, output, batch)
        else:
            labels = batch.targets.get(_LABELS)
            marks = batch.targets[TEXTS][1]
            table = VectorTable(
                self.table(output, batch), marks, self.config.temperature, None if labels is None else labels[1]
            )
            term = self._term(table, slice(None))
        return [replace(term, count=len(batch.targets[self.name][1]))]

    def contrast(self, table: Tensor, marks: Tensor, some: slice) -> Term:
        """The loss of some examples among all of a group."""
        return self._term(VectorTable(table, marks, self.config.temperature), some)

    def _term(self, table: VectorTable, some: slice) -> Term:
        """The loss of some examples at every length of vectors that is trained."""
        known = self._known(table)
        dims = self.config.dims or (table.vectors.shape[2],)
        weights = self.config.dim_weights or (1.0,) * len(dims)
        results = [self.loss_of_vectors(table.truncated(dim)) for dim in dims] if known is not None else []
        losses = [
            weight * result.losses[some].where(known[some], 0.0).sum()
            for weight, result in zip(weights, results, strict=False)
            if known is not None
        ]
        total = torch.stack([*losses, table.vectors[:0].sum()]).sum()
        longest = results[dims.index(max(dims))].correct if results else None
        return Term(
            self.name,
            total,
            len(table.vectors[some]),
            self.config.weight,
            None if longest is None else longest[some].sum(),
        )

    def _known(self, table: VectorTable) -> Tensor | None:
        """Which examples have a label that the loss learns; None where none has. Shape: return: (N,) bool"""
        if self._learns == "vectors":
            return None if table.targets is None else ~table.targets[:, 0].isnan()
        scores = table.scores[:, 0]
        return torch.ones_like(scores, dtype=torch.bool) if self._learns is None else ~scores.isnan()

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, Similarity, rows)

    def table(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Vectors of the first, the second and the further texts. Shape: return: (N, 2 + negatives, width)."""
        return self.arrange(self.vectors(output, batch, self.vector_count(batch)), batch)

    def vector_count(self, batch: Batch) -> int:
        """How many sequences of a batch are texts."""
        return len(batch.targets[_CELLS][1])

    def arrange(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Vectors of sequences as a table. Shape: (n, width) -> (N, 2 + negatives, width)."""
        count, (_, cells) = len(batch.targets[TEXTS][0]), batch.targets[_CELLS]
        table = vectors.new_zeros(count * self.columns_of_vectors, vectors.shape[1]).index_copy(0, cells, vectors)
        return table.view(count, self.columns_of_vectors, -1)

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[PairAnswer]:
        """The cosine of each pair, by the vectors that are used after training; or these, where texts have windows."""
        count = len([second(row) for row in rows])
        vectors = self.vectors(model(rows.batch), rows.batch, 2 * count, nn.Identity())
        if self.config.truncate == "windows":
            table = vectors.cpu().numpy()
            return [PairVectors(first, second) for first, second in zip(table[:count], table[count:], strict=True)]
        return pair_cosines(vectors[:count], vectors[count:])


def _fitting_loss(examples: Sequence[PairExample]) -> str:
    """The file of the loss that labels ask for where none is named.

    Raises:
        DataError: some pairs have a label and some none, one is no number, or all say that nothing is alike.
    """
    if any(example.values is not None for example in examples):
        return "vector_distillation" if all(example.third is None for example in examples) else "margin_distillation"
    if all(example.label is None for example in examples):
        return "contrast"
    try:
        scores = {number_of(example) for example in examples}
    except DataError:
        return "cosent"  # which says what is wrong
    return "contrast" if len(scores) == 1 and min(scores) > 0 else "cosent"


def _negative(row: Row, number: int) -> Ints | None:
    """A negative of a row by its number from 0; None where it has fewer."""
    negatives = [*([] if row.third is None else [row.third]), *row.others]
    return negatives[number] if number < len(negatives) else None


def _scores(row: Row) -> list[float]:
    """How alike a row's first text is to each further one, as far as it is known."""
    return [] if row.targets is None else np.atleast_1d(row.targets).astype(np.float64).tolist()


def _stacked(targets: Sequence[NDArray[np.generic] | None]) -> Tensor:
    """The targets of rows as one table; NaN where a row has none. Shape: return: (N, m)"""
    width = max(len(each) for each in targets if each is not None)
    out = np.full((len(targets), width), np.nan, np.float32)
    for row, each in zip(out, targets, strict=True):
        row[:] = np.nan if each is None else each
    return torch.from_numpy(out)
