"""SimCSE: a sentence through the model twice, with different dropout; find the twin among those of all other sentences.

Data: single sentences (the view "sentence"). Both passes are one, over a batch of twice as many sequences. The model
needs dropout, which is all that tells twins apart. Start from a pretrained model; a rate of 1e-5 to 3e-5 and one pass
over a million sentences are usual. Each sentence's negatives are the twins of the others of its `group`:

- `global`: all sentences of the step, whatever the number of ranks and micro-batches. What the others' vectors are is
  found out first, in a pass without gradients, where there is more than one micro-batch; the gradient is that of the
  whole step.
- `micro`: those of its own micro-batch on its own rank; no second pass, but the loss depends on how a step is divided.

Source: Gao et al. 2021 (arXiv 2104.08821), section 3; a gradient by two passes as in Gao et al. 2021, arXiv 2101.06983.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pretune.batch import Batch, Layout
from pretune.draw import Draw
from pretune.loss import Term
from pretune.objectives.contrastive import Contrastive
from pretune.objectives.objective import Model, Output, target, wrap
from pretune.text.rows import Row


class SimCSE(Contrastive):
    """Tell a sentence's twin from all others'."""

    name: ClassVar[str] = "simcse"
    home: ClassVar[str] = "bert"

    class Config(Contrastive.Config):
        """Whose twins are negatives.

        Attributes:
            group: `global` or `micro`.
        """

        group: Literal["global", "micro"] = "global"

    config: Config

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """All sentences, then all again; the target "simcse" pairs them."""
        once = wrap(rows, self.vocabulary)
        twice = Layout.of(once.layout.lengths * 2)
        segments = None if once.segments is None else once.segments.repeat(2)
        samples = np.concatenate([once.samples, once.samples])
        batch = Batch(once.tokens.repeat(2), twice, segments, samples=samples)
        batch.targets[self.name] = target(np.arange(len(rows)), np.arange(len(rows), 2 * len(rows)))
        return batch

    def exchange(self, model: Model, batch: Batch, parts: int) -> Tensor | None:
        """Vectors of both passes, where other micro-batches need them. Shape: return: (N, 2, width)."""
        if parts == 1 or self.config.group == "micro" or self.name not in batch.targets:
            return None
        return self._pairs(model(batch), batch)

    def loss(self, model: Model, output: Output, batch: Batch) -> list[Term]:
        """Cross-entropy of each sentence's twin among all of the group."""
        own = self._pairs(output, batch)
        count = len(own)
        if batch.shared is None:
            scores = own[:, 0] @ own[:, 1].T
            return [self.term(scores, torch.arange(count, device=scores.device))]
        start, table = batch.shared.start, batch.shared.table
        every = torch.cat([table[:start], own, table[start + count :]])
        scores = every[:, 0] @ every[:, 1].T
        place = torch.arange(len(every), device=scores.device)
        some = slice(start, start + count)
        mine, whole = self.term(scores[some], place[some]), self.term(scores, place)
        # The value is that of these sentences; the gradient that of all, as all have these among their negatives.
        return [replace(mine, sum=mine.sum.detach() + (whole.sum - whole.sum.detach()))]

    def _pairs(self, output: Output, batch: Batch) -> Tensor:
        """Vectors of twins beside each other. Shape: return: (N, 2, width)."""
        count = len(batch.targets[self.name][0])
        return self.vectors(output, batch, 2 * count).view(2, count, -1).transpose(0, 1)
