"""Sentence-order prediction: do two neighbouring parts of a document stand in their order, or were they exchanged?

Data: windows of whole sentences of one document (the view "sentences"). By key a window is split at one of its sentence
boundaries, and in half of the samples its parts change places. Both parts are of the same document, so the topic tells
nothing. Windows of one sentence stay whole, are not predicted and are counted as `unpaired`.

Label 0: in order; 1: exchanged (as in Hugging Face's `AlbertForPreTraining`).

Source: Lan et al. 2019 (arXiv 1909.11942), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw, bounded, unit
from pretune.errors import DataError
from pretune.loss import Term, cross_entropy
from pretune.nn.heads import SOP_LABELS, SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import Objective, ends, name_samples, target
from pretune.text.samples.rows import Row, names_of

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary


class SentenceOrderPrediction(Objective):
    """Tell two neighbouring texts in their order from the same in the other."""

    name: ClassVar[str] = "sop"
    default_family: ClassVar[str] = "albert"
    view: ClassVar[str] = "sentences"

    class Config(Objective.Config):
        """How often parts change places.

        Attributes:
            swapped: share of the pairs that are exchanged.
        """

        swapped: float = Field(default=0.5, ge=0.0, le=1.0)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        if vocabulary.sep is None:
            raise DataError(
                "objective 'sop' needs a tokenizer with a separator token, and this one has none; "
                "train one of kind wordpiece, or drop sop"
            )
        self.overhead = vocabulary.overhead(True)

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that decides for a pair."""
        return {self.name: model.sequence_head(SOP_LABELS)}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Split windows, exchange parts, wrap, and set the target "sop", whose index counts sequences.

        The account gives samples: `unpaired`.
        """
        samples = names_of(rows)
        boundaries = np.array([0 if row.sentences is None else len(row.sentences) - 1 for row in rows], dtype=np.int64)
        picked = 1 + bounded(draw.at(self.name, "split").keys(samples), boundaries)
        swapped = unit(draw.at(self.name, "swap").keys(samples)) < self.config.swapped
        wrapped, paired = [], []
        for n, row in enumerate(rows):
            if row.sentences is None or not boundaries[n]:
                wrapped.append(self.vocabulary.wrap(row.tokens))
                continue
            edge = int(row.sentences[picked[n]])
            parts = (row.tokens[edge:], row.tokens[:edge]) if swapped[n] else (row.tokens[:edge], row.tokens[edge:])
            wrapped.append(self.vocabulary.wrap(*parts))
            paired.append(n)
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        index = np.array(paired, dtype=np.int64)
        batch = name_samples(batch, rows, {"unpaired": len(rows) - len(paired)})
        batch.targets[self.name] = target(index, swapped[index])
        return batch

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The ends of every sequence."""
        return ends(batch.layout)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the paired sequences."""
        index, label = batch.targets[self.name]
        logits = get_head(model, self.name, SequenceHead)(output.last_hidden_state, output.layout).index_select(
            0, index
        )
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, cross_entropy(logits, label), len(label), self.config.weight, correct)]
