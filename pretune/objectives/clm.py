"""Causal language modelling: predict each token from those before it.

Data: windows of a stream or of documents that read one token past their end, so that every position has a target.

Source: Radford et al. 2019, "Language models are unsupervised multitask learners".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from pretune.batch import Batch, Layout
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.nn.heads import TokenPrediction, VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import ModelLoader, Objective, refuse_to_load
from pretune.text.samples.rows import Row, names_of, run_of


class CausalLanguageModelling(Objective):
    """Next-token prediction at every position."""

    name: ClassVar[str] = "clm"
    predicts: ClassVar[TokenPrediction | None] = "next"
    role: ClassVar[str] = "clm"
    default_family: ClassVar[str] = "gpt2"
    view: ClassVar[str] = "stream"
    lookahead = 1

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head over the vocabulary.

        Raises:
            UsageError: the model would read what is to be predicted.
        """
        self._check_model(model)
        return {self.role: model.vocabulary_head("next")}

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Make sure that the model reads nothing but what comes before.

        Raises:
            UsageError: the model would read what is to be predicted.
        """
        self._check_model(model)

    def _check_model(self, model: TrainableModel) -> None:
        if model.has_encoder:
            raise UsageError(
                f"objective 'clm' is for decoders alone: the encoder of {model.family} would read what is to be "
                "predicted; use denoise, span or prefix"
            )
        if not model.is_causal:
            raise UsageError(
                f"objective 'clm' is for causal models: {model.family} sees the tokens that are to be predicted; use "
                "the objective mlm, or a family such as gpt2"
            )

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Sequences of all tokens but the last; targets are all but the first. Shape: n + 1 tokens -> n positions."""
        tokens, sizes = run_of(rows)
        ends = np.cumsum(sizes)
        inputs = torch.from_numpy(np.delete(tokens, ends - 1))
        batch = Batch(inputs, Layout.of(sizes - 1), samples=names_of(rows))
        following = torch.from_numpy(np.delete(tokens, ends - sizes))
        batch.targets[self.name] = (torch.arange(len(following)), following)
        return batch

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy at every position."""
        _, label = batch.targets[self.name]
        head = get_head(model, self.role, VocabularyHead)
        total, correct = head.loss(output.last_hidden_state, label, keys=output.layout.keys)
        return [Term(self.name, total, len(label), self.config.weight, correct)]
