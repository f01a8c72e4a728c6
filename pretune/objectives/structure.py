"""Sentence-structural prediction: does the second text follow the first, come before it, or from another document?

Data: as for next-sentence prediction (the view "pairs"). By key a window is split at one of its sentence boundaries; a
third of the pairs stay, in a third the parts change places, in a third the second gives way to a text of another
document. Windows of one sentence stay whole, are not predicted and are counted as `unpaired`. The head, a dense layer
and tanh under a linear one, is the objective's own: no file format has a place for it, and it is not kept.

Label 0: next; 1: previous; 2: another document.

Source: Wang et al. 2020, StructBERT (arXiv 1908.04577), section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw, bounded
from pretune.loss import Term, cross_entropy
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.nsp import NextSentencePrediction, substitute
from pretune.objectives.objective import ModelLoader, Objective, name_samples, refuse_to_load, target
from pretune.text.samples.rows import Row, names_of

NEXT, PREVIOUS, OTHER = range(3)


class SentenceStructure(NextSentencePrediction):
    """Tell a continuation from what stands before, and both from another document's text."""

    name: ClassVar[str] = "structure"

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

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Split windows, exchange parts, wrap, and set the target "structure", whose index counts sequences.

        The account gives samples: `unpaired`; and tokens: `displaced` from windows, `borrowed` for them.
        """
        samples = names_of(rows)
        boundaries = np.array([0 if row.sentences is None else len(row.sentences) - 1 for row in rows], dtype=np.int64)
        picked = 1 + bounded(draw.at(self.name, "split").keys(samples), boundaries)
        kinds = bounded(draw.at(self.name, "kind").keys(samples), 3)
        account = {"unpaired": 0, "displaced": 0, "borrowed": 0}
        wrapped, paired = [], []
        for n, row in enumerate(rows):
            if row.sentences is None or not boundaries[n]:
                wrapped.append(self.vocabulary.wrap(row.tokens))
                account["unpaired"] += 1
                continue
            edge = int(row.sentences[picked[n]])
            first, second = row.tokens[:edge], row.tokens[edge:]
            if kinds[n] == PREVIOUS:
                first, second = second, first
            elif kinds[n] == OTHER:
                account["displaced"] += len(second)
                second = substitute(row, len(second))
                account["borrowed"] += len(second)
            wrapped.append(self.vocabulary.wrap(first, second))
            paired.append(n)
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        index = np.array(paired, dtype=np.int64)
        batch = name_samples(batch, rows, account)
        batch.targets[self.name] = target(index, kinds[index])
        return batch

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the paired sequences."""
        index, label = batch.targets[self.name]
        logits = self.head(output.at(batch.layout.first.index_select(0, index)))
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, cross_entropy(logits, label), len(label), self.config.weight, correct)]
