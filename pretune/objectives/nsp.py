"""Next-sentence prediction: does the second text follow the first in its document, or come from another one?

Data: windows of whole sentences of one document, each with a candidate second text from another document (the view
"pairs"). In half of the samples the second part of a window gives way to the other document's text, cut at the sentence
end that comes nearest to the displaced length. So neither the length nor a broken sentence tells the answer. Windows of
one sentence stay whole and are not predicted.

Label 0: the second text follows; 1: it does not (as in Hugging Face's `BertForPreTraining`).

Source: Devlin et al. 2019 (arXiv 1810.04805), section 3.1.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import nn

from pretune.draw import Draw, unit
from pretune.nn.heads import NSP_LABELS
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.objective import Objective
from pretune.objectives.sentence_pair import Integers, SentencePair, borrow
from pretune.text.samples.rows import Row, Text


class NextSentencePrediction(SentencePair):
    """Tell a continuation from a text of another document."""

    name: ClassVar[str] = "nsp"
    role: ClassVar[str] = "nsp"
    default_family: ClassVar[str] = "bert"
    view: ClassVar[str] = "pairs"

    class Config(Objective.Config):
        """How the second text is chosen.

        Attributes:
            random: fraction of the pairs whose second text comes from another document.
        """

        random: float = Field(default=0.5, ge=0.0, le=1.0)

    config: Config

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that decides for a pair."""
        return {self.role: model.sequence_head(NSP_LABELS, dropout=0.0)}

    def labels(self, samples: Integers, draw: Draw) -> Integers:
        """1 where the second text gives way to another document's."""
        return (unit(draw.at("other").keys(samples)) < self.config.random).astype(np.int64)

    def pair(self, row: Row, first: Text, second: Text, label: int, stats: dict[str, int]) -> tuple[Text, Text]:
        """The parts as they are, or the first with another document's text."""
        return first, borrow(row, second, stats) if label else second
