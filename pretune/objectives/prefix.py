"""Prefix language modelling: the encoder reads the beginning of a text, the decoder goes on.

Data: windows of a stream, cut in two at a place drawn by the sample's key; both parts end with the end token.
Related: `clm` for decoders alone, `span`.

Source: Raffel et al. 2019 (arXiv 1910.10683), section 3.2.3; Liu et al. 2018, arXiv 1801.10198.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, model_validator

from pretune.batch import Batch, ragged
from pretune.draw import Draw, bounded
from pretune.loss import Term
from pretune.objectives.objective import Model, Objective, Output, name_samples, target
from pretune.text.rows import Row, names_of

if TYPE_CHECKING:
    from pretune.text.tokenizer import Vocabulary


class PrefixLanguageModelling(Objective):
    """Go on from the beginning of a text."""

    name: ClassVar[str] = "prefix"
    view: ClassVar[str] = "stream"
    roles: ClassVar[tuple[str, ...]] = ("clm",)

    class Config(Objective.Config):
        """Where a text is cut.

        Attributes:
            least, most: shares of the text between which the place is drawn uniformly.
        """

        least: float = Field(default=0.0, ge=0.0, le=1.0)
        most: float = Field(default=1.0, ge=0.0, le=1.0)

        @model_validator(mode="after")
        def _in_order(self) -> PrefixLanguageModelling.Config:
            if self.least > self.most:
                raise ValueError(f"least {self.least} is above most {self.most}")
            return self

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.overhead = 1
        self._start = vocabulary.end

    def attach(self, model: Model, draw: Draw) -> None:
        """Learn with which token the model's decoder begins."""
        self._start = model.start

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Beginnings as the source, the rest as the target a place later; each part has a token at least."""
        end, config = self.vocabulary.end, self.config
        sizes = np.array([len(row.tokens) for row in rows], np.int64)
        first = np.clip(np.floor(sizes * config.least).astype(np.int64), 1, np.maximum(sizes - 1, 1))
        last = np.clip(np.ceil(sizes * config.most).astype(np.int64), first, np.maximum(sizes - 1, first))
        edges = first + bounded(draw.at(self.name).keys(names_of(rows)), last - first + 1)
        sources = [np.append(row.tokens[:edge], end) for row, edge in zip(rows, edges.tolist(), strict=True)]
        labels = [np.append(row.tokens[edge:], end) for row, edge in zip(rows, edges.tolist(), strict=True)]
        batch = name_samples(ragged([np.append(self._start, label[:-1]) for label in labels]), rows)
        run = np.concatenate([np.zeros(0, np.int64), *labels])
        batch.targets[self.name] = target(np.arange(len(run)), run)
        return replace(batch, source=ragged(sources))

    def passes(self, model: Model, batch: Batch) -> list[tuple[Model, Batch]]:
        """One, whose target the causal head sees."""
        return [(model, replace(batch, targets={"clm": batch.targets[self.name]}))]

    def loss(self, model: Model, output: Output, batch: Batch) -> list[Term]:
        """Cross-entropy at every position of the target."""
        _, label = batch.targets[self.name]
        total, correct = model.heads["clm"].loss(output.last_hidden_state, label)
        return [Term(self.name, total, len(label), self.config.weight, correct)]
