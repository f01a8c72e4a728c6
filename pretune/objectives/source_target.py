"""The base of objectives of encoder-decoders: a source is read, a target is predicted token by token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import ModelLoader, Objective, name_samples, refuse_to_load, target
from pretune.text.samples.rows import Row

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary

Integers = NDArray[np.int64]
ROLE = "clm"
"""The head of these objectives: each token of the target is predicted from those before it."""


class SourceTarget(Objective):
    """Base of the objectives that make a source and a target of a text."""

    def __init__(self, config: Objective.Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self._start = vocabulary.end
        self.overhead = len(vocabulary.with_end([]))

    @abstractmethod
    def pairs(self, rows: Sequence[Row], draw: Draw) -> list[tuple[Integers, Integers]]:
        """Source and target of each row, special tokens included."""

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A causal head over the vocabulary.

        Raises:
            UsageError: the model has no encoder.
        """
        self._check_model(model)
        return {ROLE: model.vocabulary_head("next")}

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Learn with which token the model's decoder begins.

        Raises:
            UsageError: the model has no encoder.
        """
        self._check_model(model)
        if model.decoder_start is not None:
            self._start = model.decoder_start

    def _check_model(self, model: TrainableModel) -> None:
        if not model.has_encoder:
            raise UsageError(
                f"objective {self.name!r} is for encoder-decoders, and {model.family} is none; use bart, t5 or "
                "marian, or the objective clm"
            )

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Sources, and targets a place later."""
        pairs = self.pairs(rows, draw)
        batch = name_samples(ragged([np.append(self._start, label[:-1]) for _, label in pairs]), rows)
        run = np.concatenate([np.zeros(0, np.int64), *(label for _, label in pairs)])
        batch.targets[self.name] = target(np.arange(len(run)), run)
        return replace(batch, source=ragged([source for source, _ in pairs]))

    def passes(self, model: TrainableModel, batch: Batch) -> list[tuple[TrainableModel, Batch]]:
        """One, whose target the causal head sees."""
        return [(model, replace(batch, targets={ROLE: batch.targets[self.name]}))]

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy at every position of the target."""
        _, label = batch.targets[self.name]
        head = get_head(model, ROLE, VocabularyHead)
        total, correct = head.loss(output.last_hidden_state, label, keys=output.layout.keys)
        return [Term(self.name, total, len(label), self.config.weight, correct)]
