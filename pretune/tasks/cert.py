"""CERT from views that were made beforehand, such as translations there and back: `pretune augment --pairs`.

Data: pairs of a text and another view of it. The second one is read by a copy of the model whose weights follow the
model's, and the vectors of the last `queue` second texts are the negatives; all else is as in the objective `cert`,
which makes its views itself. Validation data are pairs whose label says how alike they are.

Source: Fang et al. 2020, CERT (arXiv 2005.12766); He et al. 2020, MoCo (arXiv 1911.05722), for the copy and the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.cert import Cert
from pretune.objectives.objective import target
from pretune.objectives.same_texts import TEXTS, text_marks
from pretune.tasks.shared.vector_task import (
    PairAnswer,
    PairExample,
    VectorTask,
    is_number,
    number_of,
    pair_cosines,
    second,
)
from pretune.tasks.task import RowBatch
from pretune.text.samples.rows import Row
from pretune.text.tokenizer.tokenizer import Tokenizer


class CertOfPairs(VectorTask, Cert):
    """Tell the other view of a text from those of earlier texts."""

    name: ClassVar[str] = "cert"

    class Config(VectorTask.Config, Cert.Config):
        """The copy and the queue; `deleted` and `moved` alter both views on top, and are 0 here.

        Attributes:
            deleted: fraction of a text's tokens that a view leaves out, rounded; one token stays.
            moved: fraction of the rest that is swapped in pairs, rounded.
        """

        deleted: float = Field(default=0.0, ge=0.0, lt=1.0)
        moved: float = Field(default=0.0, ge=0.0, le=1.0)

    config: Config

    def resolve_config(self, examples: Sequence[PairExample]) -> VectorTask.Config:
        """Nothing is filled in.

        Raises:
            DataError: no examples, one without a second text, or labels that are scores: numbers that differ, or that
                say that nothing is alike.
        """
        super().resolve_config(examples)
        scored = [example for example in examples if is_number(example.label)]
        remedy = (
            "cert takes each pair for two views of one text; train the task similarity, which learns labels as scores, "
            "or keep the pairs that belong together, without labels"
        )
        for example in scored:
            if number_of(example) != number_of(scored[0]):
                raise DataError(f"{example.origin}: label {example.label!r}, after {scored[0].label!r}: {remedy}")
        if scored and number_of(scored[0]) <= 0:
            raise DataError(f"{scored[0].origin}: label {scored[0].label!r} says that nothing is alike: {remedy}")
        return self.config

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """The texts, with the second ones as their source."""
        firsts = [replace(row, second=None) for row in rows]
        seconds = [replace(row, tokens=second(row), second=None) for row in rows]
        first, other = (self._views(texts, draw.at(self.name, side)) for side, texts in enumerate((firsts, seconds)))
        first.targets[self.name] = target(np.arange(len(rows)), np.zeros(len(rows)))
        first.targets[TEXTS] = text_marks([[row.tokens for row in rows], [second(row) for row in rows]])
        return replace(first, source=other)

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[PairAnswer]:
        """The cosine of each pair, by the vectors that are used after training."""
        batch, count = rows.batch, len(rows)
        assert batch.source is not None  # `prepare` gave it
        plain = nn.Identity()
        first = self.vectors(model(batch), batch, count, plain)
        other = self.vectors(model(batch.source), batch.source, count, plain)
        return pair_cosines(first, other)
