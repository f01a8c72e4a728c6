"""SimCSE: a sentence through the model twice, with different dropout; find the twin among those of all other sentences.

Data: single sentences (the view "sentence"). Both passes are one, over a batch of twice as many sequences. The model
needs dropout, which is all that tells twins apart. Start from a pretrained model; a rate of 1e-5 to 3e-5 and one pass
over a million sentences are usual. Each sentence's negatives are the twins of the others of its `group`, but for those
of the same sentence. With labelled pairs or triplets the task `similarity` does the same.

Source: Gao et al. 2021 (arXiv 2104.08821), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from pretune.batch import Batch, Layout
from pretune.draw import Draw
from pretune.nn.model_protocol import ModelOutput
from pretune.objectives.contrastive import InBatch
from pretune.objectives.objective import target, wrap
from pretune.objectives.same_texts import TEXTS, text_marks
from pretune.text.samples.rows import Row


class SimCSE(InBatch):
    """Tell a sentence's twin from all others'."""

    name: ClassVar[str] = "simcse"
    default_family: ClassVar[str] = "bert"
    dropout: ClassVar[bool] = True

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """All sentences, then all again; the target "simcse" pairs them."""
        first = wrap(rows, self.vocabulary)
        layout = Layout.of(first.layout.lengths * 2)
        segments = None if first.segments is None else first.segments.repeat(2)
        samples = np.concatenate([first.samples, first.samples])
        batch = Batch(first.tokens.repeat(2), layout, segments, samples=samples)
        batch.targets[self.name] = target(np.arange(len(rows)), np.arange(len(rows), 2 * len(rows)))
        batch.targets[TEXTS] = self.marks(rows)
        return batch

    def marks(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Both are the sentence."""
        texts = [row.tokens for row in rows]
        return text_marks([texts, texts])

    def table(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Vectors of twins beside each other. Shape: return: (N, 2, width)."""
        count = len(batch.targets[self.name][0])
        return self.vectors(output, batch, 2 * count).view(2, count, -1).transpose(0, 1)
