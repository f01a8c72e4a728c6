"""Sentence-order prediction: do two neighbouring parts of a document stand in their order, or were they exchanged?

Data: windows of whole sentences of one document (the view "sentences"), split at one of their sentence boundaries. In
half of the samples the parts change places. Both are of the same document, so the topic tells nothing. Windows of one
sentence stay whole and are not predicted.

Label 0: in order; 1: exchanged (as in Hugging Face's `AlbertForPreTraining`).

Source: Lan et al. 2019 (arXiv 1909.11942), section 3.1.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pretune.draw import Draw
from pretune.nn.heads import SOP_LABELS
from pretune.objectives.objective import Objective
from pretune.objectives.sentence_pair import Arrangement, Integers, SentencePair, draw_binary


class SentenceOrderPrediction(SentencePair):
    """Tell two neighbouring texts in their order from the same in the other."""

    name: ClassVar[str] = "sop"
    role: ClassVar[str] = "sop"
    default_family: ClassVar[str] = "albert"
    view: ClassVar[str] = "sentences"
    classes: ClassVar[tuple[str, ...]] = SOP_LABELS
    arrangements: ClassVar[tuple[Arrangement, ...]] = (Arrangement.IN_ORDER, Arrangement.SWAPPED)

    class Config(Objective.Config):
        """How often parts change places.

        Attributes:
            swapped: fraction of the pairs whose two texts are swapped.
        """

        swapped: float = Field(default=0.5, ge=0.0, le=1.0)

    config: Config

    def labels(self, samples: Integers, draw: Draw) -> Integers:
        """1 where the parts change places."""
        return draw_binary(self.config.swapped, draw.at("swap"), samples)
