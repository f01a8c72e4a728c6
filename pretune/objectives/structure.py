"""Sentence-structural prediction: does the second text follow the first, come before it, or from another document?

Data: as for next-sentence prediction (the view "pairs"). A third of the pairs stay, in a third the parts change places,
in a third the second gives way to a text of another document. Windows of one sentence stay whole and are not predicted.
No format has a place for its head, a dense layer and tanh under a linear one: it is saved as `heads.structure`.

Label 0: next; 1: previous; 2: other, from another document.

Source: Wang et al. 2020, StructBERT (arXiv 1908.04577), section 2.3.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from pretune.draw import Draw, bounded
from pretune.nn.heads import Pooler, SequenceHead
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.objective import Objective
from pretune.objectives.sentence_pair import Arrangement, Integers, SentencePair

LABELS = ("next", "previous", "other")
NEXT, PREVIOUS, OTHER = range(3)


class SentenceStructure(SentencePair):
    """Tell a continuation from what stands before, and both from another document's text."""

    name: ClassVar[str] = "structure"
    role: ClassVar[str] = "structure"
    classes: ClassVar[tuple[str, ...]] = LABELS
    arrangements: ClassVar[tuple[Arrangement, ...]] = tuple(Arrangement)

    class Config(Objective.Config):
        """Nothing but its weight."""

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A pooler of its own under three classes."""
        return {self.role: SequenceHead(model.width, self.classes, model.pool_position, pooler=Pooler(model.width))}

    def labels(self, samples: Integers, draw: Draw) -> Integers:
        """One of the three, each as often."""
        return bounded(draw.at("kind").keys(samples), 3)
