"""Sentence-structural prediction: does the second text follow the first, come before it, or from another document?

Data: as for next-sentence prediction (the view "pairs"). A third of the pairs stay, in a third the parts change places,
in a third the second gives way to a text of another document. The head, a dense layer and tanh under a linear one, is
the objective's own: no file format has a place for it, and it is not kept.

Label 0: next; 1: previous; 2: another document.

Source: Wang et al. 2020, StructBERT (arXiv 1908.04577), section 2.3.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw, bounded
from pretune.loss import Term, cross_entropy
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.objective import ModelLoader, Objective, refuse_to_load
from pretune.objectives.sentence_pair import Integers, SentencePair, borrow
from pretune.text.samples.rows import Row, Text

NEXT, PREVIOUS, OTHER = range(3)


class SentenceStructure(SentencePair):
    """Tell a continuation from what stands before, and both from another document's text."""

    name: ClassVar[str] = "structure"
    default_family: ClassVar[str] = "bert"
    view: ClassVar[str] = "pairs"

    class Config(Objective.Config):
        """Nothing but its weight."""

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """None: its head is its own, and is made in `setup`."""
        return {}

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Make the head."""
        self.head = nn.Sequential(nn.Linear(model.width, model.width), nn.Tanh(), nn.Linear(model.width, 3))
        generator = torch.Generator().manual_seed(draw.at(self.name).key & (2**63 - 1))
        for name, parameter in self.head.named_parameters():
            with torch.no_grad():
                parameter.normal_(0, model.std, generator=generator) if name.endswith("weight") else parameter.zero_()

    def labels(self, samples: Integers, draw: Draw) -> Integers:
        """One of the three, each as often."""
        return bounded(draw.at("kind").keys(samples), 3)

    def pair(self, row: Row, first: Text, second: Text, label: int, account: dict[str, int]) -> tuple[Text, Text]:
        """The parts in their order, in the other, or the first with another document's text."""
        if label == PREVIOUS:
            return second, first
        return first, borrow(row, second, account) if label == OTHER else second

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the paired sequences."""
        index, label = batch.targets[self.name]
        logits = self.head(output.at(batch.layout.first.index_select(0, index)))
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, cross_entropy(logits, label), len(label), self.config.weight, correct)]
