"""The base of contrastive objectives: a vector for each sequence, and a loss that tells its partner from all others."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.nn.vectors import PoolingMode
from pretune.objectives.objective import ModelLoader, Objective, refuse_to_load
from pretune.objectives.same_texts import TEXTS, false_negatives
from pretune.text.samples.rows import Row

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary


Copied = TypeVar("Copied", nn.Module, TrainableModel)


class Contrastive(Objective):
    """Base of the objectives on vectors of whole sequences.

    Sequences are numbered by the targets of a batch: fillers that come after them are never looked at.

    Attributes:
        projection: a layer over the vectors that only training has; without it training and use see the same.
    """

    view: ClassVar[str] = "sentence"
    pack: ClassVar[str] = "document"
    transient: ClassVar[tuple[str, ...]] = ("projection",)
    repeats_in_step: ClassVar[bool] = False

    class Config(Objective.Config):
        """How vectors are read and compared.

        Attributes:
            pooling: how the vectors of a sequence's tokens become one: the first or the mean.
            projection: train through a dense layer and tanh that is dropped afterwards.
            temperature: divides the cosines.
        """

        pooling: Literal["cls", "mean"] = "cls"
        projection: bool = True
        temperature: float = Field(default=0.05, gt=0.0, allow_inf_nan=False)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.overhead = vocabulary.overhead(False)
        self.projection: nn.Module = nn.Identity()

    @property
    def pooling(self) -> PoolingMode | None:
        """As configured."""
        return self.config.pooling

    @property
    def false_negatives(self) -> int:
        """Negatives of all steps so far that were left out, as far as `step_data_stats` does not count them."""
        return 0

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Make the projection as wide as the model.

        Raises:
            UsageError: the model has no run of its own to read vectors from.
        """
        if model.has_encoder:
            raise UsageError(f"objective {self.name!r} reads one run of text, and {model.family} has two; use bert")
        if self.config.projection:
            dense = nn.Linear(model.width, model.width)
            generator = torch.Generator().manual_seed(draw.at(self.name, "projection").key & (2**63 - 1))
            with torch.no_grad():
                dense.weight.normal_(0, model.std, generator=generator)
                dense.bias.zero_()
            self.projection = nn.Sequential(dense, nn.Tanh())

    def output_rows(self, batch: Batch) -> NDArray[np.int64] | None:
        """The first row of each sequence, or all."""
        return np.array(batch.layout.bounds[:-1], np.int64) if self.config.pooling == "cls" else None

    def vectors(self, output: ModelOutput, batch: Batch, count: int, projection: nn.Module | None = None) -> Tensor:
        """The first `count` sequences as vectors of length 1.

        Args:
            projection: another than the objective's own.

        Shape:
            return: (count, width) fp32
        """
        if self.config.pooling == "cls":
            pooled = output.at(batch.layout.first[:count])
        else:
            hidden = output.last_hidden_state.float()
            lengths = batch.layout.offsets.diff().long()
            owner = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
            total = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, owner, hidden)
            pooled = (total / lengths.clamp(min=1)[:, None])[:count]
        return F.normalize((projection or self.projection)(pooled).float(), dim=1)

    def term(self, scores: Tensor, label: Tensor) -> Term:
        """Cross-entropy of cosines at the temperature. Shape: scores (N, M), label (N,)."""
        if not len(label):
            return Term(self.name, scores.sum() * 0.0, 0, self.config.weight, label.sum())
        loss = F.cross_entropy(scores / self.config.temperature, label, reduction="sum")
        correct = (scores.detach().argmax(dim=1) == label).sum()
        return Term(self.name, loss, len(label), self.config.weight, correct)


class InBatch(Contrastive):
    """Contrast with the partners of the other sequences, and with hard negatives where there are some.

    Negatives are of the `group`:

    - `global`: the whole step, whatever the number of ranks and micro-batches. What the others' vectors are is found
      out first, in a pass without gradients, where there is more than one micro-batch; the gradient is that of the
      whole step.
    - `micro`: one's own micro-batch on its own rank; no second pass, but the loss depends on how a step is divided.

    What is the same as a text or its partner, or the partner of the same text, is no negative of it: `same_texts`.

    Source: a gradient by two passes as in Gao et al. 2021, arXiv 2101.06983.
    """

    class Config(Contrastive.Config):
        """Whose partners are negatives.

        Attributes:
            group: which texts serve as in-batch negatives: those of the global batch (`global`) or of the micro-batch
                (`micro`).
        """

        group: Literal["global", "micro"] = "global"

    config: Config

    @abstractmethod
    def table(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Vectors of sequences, of their partners and of hard negatives, which are 0 where there is none.

        Shape:
            return: (N, 2 or more, width)
        """

    @abstractmethod
    def marks(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The marks of the texts whose vectors the table holds, as a target: see `text_marks`."""

    def step_data_stats(self, parts: Sequence[Sequence[Row]]) -> dict[str, int]:
        """Negatives of the step's texts that are left out."""
        groups = parts if self.config.group == "micro" else [[row for rows in parts for row in rows]]
        return {"false_negatives": sum(int(false_negatives(self.marks(rows)[1]).sum()) for rows in groups)}

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> Tensor | None:
        """The table with the marks of its texts, where other micro-batches need it."""
        if not self.needs_others(batch, parts):
            return None
        return torch.cat([self.table(model(batch), batch), batch.targets[TEXTS][1]], dim=2)

    def needs_others(self, batch: Batch, parts: int) -> bool:
        """Whether a micro-batch is compared with the other ones of its step."""
        return parts > 1 and self.config.group != "micro" and self.name in batch.targets

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of each sequence's partner among all of the group."""
        return self.terms(self.table(output, batch), batch)

    def terms(self, own: Tensor, batch: Batch) -> list[Term]:
        """All terms of a micro-batch's table. Shape: own: (N, k, width)"""
        marks = batch.targets[TEXTS][1]
        count, width = len(own), own.shape[2]
        if batch.step_context is None:
            return self.group_terms(own, marks, slice(None), batch)
        start, others = batch.step_context.start, batch.step_context.table
        every = torch.cat([others[:start, :, :width], own, others[start + count :, :, :width]])
        some = slice(start, start + count)
        marks = others[:, :, width:]
        local, whole = (self.group_terms(every, marks, part, batch) for part in (some, slice(None)))
        # The value is that of these sequences; the gradient that of all, as all have these among their negatives.
        return [
            replace(term, sum=term.sum.detach() + (total.sum - total.sum.detach()))
            for term, total in zip(local, whole, strict=True)
        ]

    def group_terms(self, table: Tensor, marks: Tensor, some: slice, batch: Batch) -> list[Term]:
        """All terms of some sequences of a group; by default the contrast alone.

        Shape:
            table: (N, k, width); marks: (N, k, MARKS)
        """
        return [self.contrast(table, marks, some)]

    def contrast(self, table: Tensor, marks: Tensor, some: slice) -> Term:
        """The term of some sequences of a group.

        Shape:
            table: (N, k, width); marks: (N, k, MARKS)
        """
        scores = _scores(table).masked_fill(false_negatives(marks), -torch.inf)
        return self.term(scores[some], torch.arange(len(table), device=scores.device)[some])


def _scores(table: Tensor) -> Tensor:
    """Cosines of each sequence with all partners, then with hard negatives. Shape: (N, k, width) -> (N, (k - 1) N)."""
    scores = table[:, 0] @ table[:, 1].T
    if table.shape[1] == 2:
        return scores
    hard = table[:, 2:].flatten(0, 1)
    absent = ~hard.detach().any(dim=1)
    return torch.cat([scores, (table[:, 0] @ hard.T).masked_fill(absent, -torch.inf)], dim=1)


def detached(module: Copied) -> Copied:
    """A copy of a model or module that no gradient reaches."""
    twin = copy.deepcopy(module)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin
