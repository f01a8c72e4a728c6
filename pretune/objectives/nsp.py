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

from pydantic import Field

from pretune.draw import Draw
from pretune.nn.heads import NSP_LABELS
from pretune.objectives.objective import Objective
from pretune.objectives.sentence_pair import Arrangement, Integers, SentencePair, draw_binary


class NextSentencePrediction(SentencePair):
    """Tell a continuation from a text of another document."""

    name: ClassVar[str] = "nsp"
    role: ClassVar[str] = "nsp"
    classes: ClassVar[tuple[str, ...]] = NSP_LABELS
    arrangements: ClassVar[tuple[Arrangement, ...]] = (Arrangement.IN_ORDER, Arrangement.BORROWED)
    head_dropout: ClassVar[float | None] = 0.0

    class Config(Objective.Config):
        """How the second text is chosen.

        Attributes:
            random: fraction of the pairs whose second text comes from another document.
        """

        random: float = Field(default=0.5, ge=0.0, le=1.0)

    config: Config

    def labels(self, samples: Integers, draw: Draw) -> Integers:
        """1 where the second text gives way to another document's."""
        return draw_binary(self.config.random, draw.at("other"), samples)
