"""Sequences that a model reads whole, and the tokens whose log probabilities it gives at some of their rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.batch import Batch, OutputRows, ragged
from pretune.generate.continuations import score_rows
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.runtime.device import inference_context, is_bf16

Tokens = NDArray[np.int64]
_EVERY = 10.0  # seconds between two reports of progress
_log = logging.getLogger("pretune")


@dataclass(frozen=True)
class Reading:
    """One sequence that a model reads, and the rows whose scores are asked for."""

    text: int
    tokens: Tokens
    rows: Tokens
    labels: Tokens
    segments: Tokens | None = None
    order: Tokens | None = None
    source: Tokens | None = None


class Progress:
    """Says every ten seconds how many tokens have their score.

    Args:
        total: tokens that will get one.
    """

    def __init__(self, total: int) -> None:
        self._begin = self._last = time.monotonic()
        self._total, self._done = total, 0

    def add(self, tokens: int) -> None:
        """Counts tokens that have got theirs."""
        self._done += tokens
        if (now := time.monotonic()) - self._last >= _EVERY and 0 < self._done < self._total:
            left = (now - self._begin) / self._done * (self._total - self._done)
            minutes, seconds = divmod(round(left), 60)
            _log.info("%s of %s tokens scored, %d:%02d left", f"{self._done:,}", f"{self._total:,}", minutes, seconds)
            self._last = now


def batches(readings: Iterable[Reading], budget: int) -> Iterator[list[Reading]]:
    """Sequences in their order, as many as the budget takes, at least one."""
    part: list[Reading] = []
    size = 0
    for reading in readings:
        cost = len(reading.tokens) + (0 if reading.source is None else len(reading.source))
        if part and size + cost > budget:
            yield part
            part, size = [], 0
        part.append(reading)
        size += cost
    if part:
        yield part


def read(
    model: LanguageModel, head: VocabularyHead, part: Sequence[Reading]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log probabilities of the labels of some readings, in their order, and whether each is the most likely token.

    Shape:
        return: (rows of all,) twice
    """
    device = model.device
    segments = [reading.segments for reading in part if reading.segments is not None]
    batch = ragged([reading.tokens for reading in part], segments or None)
    starts = batch.layout.bounds
    index = np.concatenate([reading.rows + start for reading, start in zip(part, starts, strict=False)])
    labels = np.concatenate([reading.labels for reading in part])
    batch = replace(
        batch, output_rows=OutputRows.of(index, batch.layout), order=_order(part), source=_sources(part)
    ).to(device)
    with inference_context(device, is_bf16(model)):
        hidden = model(batch).at(torch.from_numpy(index).to(device))
        every = np.arange(len(index))
        return score_rows(head, hidden, every, every, labels)


def _order(part: Sequence[Reading]) -> torch.Tensor | None:
    runs = [reading.order for reading in part if reading.order is not None]
    return torch.from_numpy(np.concatenate(runs)) if runs else None


def _sources(part: Sequence[Reading]) -> Batch | None:
    runs = [reading.source for reading in part if reading.source is not None]
    return ragged(runs) if runs else None
