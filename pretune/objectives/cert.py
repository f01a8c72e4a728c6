"""CERT: two altered views of a sentence; find the one, read by a slowly moving copy of the model, among a queue.

Data: single sentences (the view "sentence"). Each view loses an exact fraction of the tokens, and an exact fraction of
the others is moved, by the sample's key. The second view is read by a copy of the model whose weights trail the model's
(`momentum`); the vectors of the last `queue` such views are the negatives. Copy and queue are part of a checkpoint, so
that a run resumes exactly; the queue is that of the whole step, whatever the number of ranks. Until it is full, the
part that is not is left out, and so are views of the same sentence; at the first step there are no negatives, and the
loss is 0.

Start from a pretrained model. Views that are made beforehand, such as translations there and back, are for the task of
the same name.

Source: Fang et al. 2020, CERT (arXiv 2005.12766); He et al. 2020, MoCo (arXiv 1911.05722), for the copy and the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.loss import Term
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.objectives.contrastive import Contrastive, detached
from pretune.objectives.objective import ModelLoader, refuse_to_load, target, wrap
from pretune.objectives.same_texts import DIGEST, MARKS, TEXTS, is_among, text_marks
from pretune.text.samples.rows import Row, names_of


class Cert(Contrastive):
    """Tell another view of a sentence from those of earlier sentences."""

    name: ClassVar[str] = "cert"
    default_family: ClassVar[str] = "bert"

    class Config(Contrastive.Config):
        """The views, the copy and the queue.

        Attributes:
            temperature: divides the cosines.
            deleted: fraction of a sentence's tokens that a view leaves out, rounded; one token stays.
            moved: fraction of the rest that is swapped in pairs, rounded.
            momentum: fraction of its weights that the momentum encoder keeps at each step.
            queue: number of vectors of earlier views that serve as negatives.
        """

        temperature: float = Field(default=0.07, gt=0.0, allow_inf_nan=False)
        deleted: float = Field(default=0.1, ge=0.0, lt=1.0)
        moved: float = Field(default=0.1, ge=0.0, le=1.0)
        momentum: float = Field(default=0.999, ge=0.0, lt=1.0)
        queue: int = Field(default=4096, ge=1, le=1 << 20)

    config: Config
    queue: Tensor
    queue_texts: Tensor
    filled: Tensor
    left_out: Tensor

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Make the copy and an empty queue."""
        super().setup(model, draw, load)
        self.copy = detached(model)
        self.copied = detached(self.projection)
        self.register_buffer("queue", torch.zeros(self.config.queue, model.width))
        self.register_buffer("queue_texts", torch.zeros(self.config.queue, DIGEST))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))  # vectors that ever came in
        self.register_buffer("left_out", torch.zeros((), dtype=torch.int64))  # false negatives

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """First views, with second ones as their source; the index of the target "cert" counts sequences."""
        first, second = (self._views(rows, draw.at(self.name, side)) for side in (0, 1))
        first.targets[self.name] = target(np.arange(len(rows)), np.zeros(len(rows)))
        texts = [row.tokens for row in rows]
        first.targets[TEXTS] = text_marks([texts, texts])
        return replace(first, source=second)

    @property
    def false_negatives(self) -> int:
        """Vectors of the queue that were left out of the negatives of a step's texts."""
        return int(self.left_out)

    def _views(self, rows: Sequence[Row], draw: Draw) -> Batch:
        keys = draw.keys(names_of(rows)).tolist()
        views = [Row(row.sample, self.altered(row.tokens, Draw(key))) for row, key in zip(rows, keys, strict=True)]
        return wrap(views, self.vocabulary)

    def altered(self, tokens: NDArray[np.int64], draw: Draw) -> NDArray[np.int64]:
        """One view. Shape: (n,) -> (any,)"""
        gone = min(int(self.config.deleted * len(tokens) + 0.5), max(len(tokens) - 1, 0))
        kept = np.sort(np.argsort(draw.at("deleted").bits(np.arange(len(tokens))), kind="stable")[gone:])
        out = np.asarray(tokens, np.int64)[kept]
        pairs = int(self.config.moved * len(out) / 2 + 0.5)
        chosen = np.argsort(draw.at("moved").bits(np.arange(len(out))), kind="stable")[: 2 * pairs]
        first, second = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 : 2 * (len(chosen) // 2)]
        out[first], out[second] = out[second], out[first].copy()
        return out

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> Tensor | None:
        """The second views, read by the copy, with the marks of both texts. Shape: return: (N, width + 2 MARKS)."""
        if self.name not in batch.targets:
            return None
        return torch.cat([self._keys(batch), batch.targets[TEXTS][1].flatten(1)], dim=1)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the second view among the queue."""
        count = len(batch.targets[self.name][0])
        queries = self.vectors(output, batch, count)
        shared = batch.step_context
        width = self.queue.shape[1]
        keys = self._keys(batch) if shared is None else shared.table[shared.start : shared.start + count, :width]
        there = min(int(self.filled), len(self.queue))
        same = is_among(batch.targets[TEXTS][1], self.queue_texts[:there])
        negatives = (queries @ self.queue[:there].T).masked_fill(same, -torch.inf)
        scores = torch.cat([(queries * keys).sum(dim=1, keepdim=True), negatives], dim=1)
        return [self.term(scores, torch.zeros(count, dtype=torch.int64, device=scores.device))]

    @torch.no_grad()
    def after_step(self, model: TrainableModel, shared: Tensor | None) -> None:
        """The copy follows, and the step's second views enter the queue, however the step was divided."""
        for old, new in ((self.copy, model), (self.copied, self.projection)):
            for ours, theirs in zip(old.parameters(), new.parameters(), strict=True):
                ours.lerp_(theirs, 1.0 - self.config.momentum)
        if shared is None:
            return
        size, width = self.queue.shape
        marks = shared[:, width:].view(len(shared), 2, MARKS)
        self.left_out += is_among(marks, self.queue_texts[: min(int(self.filled), size)]).sum()
        entering = shared[shared[:, 0].argsort(stable=True)][-size:]  # an order of their own, not of the micro-batches
        index = (torch.arange(len(entering), device=shared.device) + self.filled + len(shared) - len(entering)) % size
        self.queue[index] = entering[:, :width].to(self.queue.dtype)
        self.queue_texts[index] = entering[:, width + MARKS : width + MARKS + DIGEST]
        self.filled += len(shared)

    @torch.no_grad()
    def _keys(self, batch: Batch) -> Tensor:
        assert batch.source is not None  # `prepare` gave it
        count = len(batch.targets[self.name][0])
        return self.vectors(self.copy(batch.source), batch.source, count, self.copied)
