"""Which texts of a step are the same, so that contrast takes none of them for a negative.

A text that is the same as another one, or that answers the same text, belongs to it: as a negative it would be false.
Each text is known by a digest of its tokens, which travels with the batch and with what a step gathers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TEXTS = "texts"
"""The target that holds the marks of all texts of a batch."""
DIGEST = 4
MARKS = DIGEST + 1
"""Numbers of a mark: four of a digest, which fp32 holds exactly, and how alike the example's first text is to it."""


def text_marks(
    columns: Sequence[Sequence[NDArray[np.int64] | None]], scores: Sequence[Sequence[float]] | None = None
) -> tuple[Tensor, Tensor]:
    """Marks the texts of some examples, as a target of their batch.

    Args:
        columns: the first texts, the second ones, and so on; None for one that is not there.
        scores: of each example, how alike its first text is to each further one, as far as it is known; not by default.

    Shape:
        return: (N,), (N, number of columns, MARKS) fp32
    """
    count = len(columns[0])
    marks = np.full((count, len(columns), MARKS), np.nan, np.float32)
    for number, column in enumerate(columns):
        digests = b"".join(_digest(text) for text in column)
        marks[:, number, :DIGEST] = np.frombuffer(digests, "<u2").reshape(count, DIGEST)
    for row, known in zip(marks, scores or (), strict=False):
        row[1 : len(known) + 1, DIGEST] = known
    return torch.arange(count), torch.from_numpy(marks)


def false_negatives(marks: Tensor) -> Tensor:
    """Finds the candidates that are no negatives of a text, though they are not the text's own partner.

    Candidates are the second texts of all examples, then all further ones, example by example. One is none if it is the
    same as the text or its partner, or the partner of the same text.

    Shape:
        marks: (N, k, MARKS); return: (N, (k - 1) N) bool
    """
    count = len(marks)
    ids = text_ids(marks)
    candidates = torch.cat([ids[:, 1], ids[:, 2:].flatten()])
    false: Tensor = (ids[:, :1] == candidates) | (ids[:, 1:2] == candidates)
    false[:, :count] |= ids[:, :1] == ids[:, 0]
    false[:, :count].fill_diagonal_(False)
    return false


def text_ids(marks: Tensor) -> Tensor:
    """A number for each text, the same for the same texts. Shape: marks: (N, k, MARKS); return: (N, k)"""
    count, columns = marks.shape[:2]
    ids: Tensor = torch.unique(marks[..., :DIGEST].flatten(0, 1), dim=0, return_inverse=True)[1]
    return ids.view(count, columns)


def is_among(marks: Tensor, others: Tensor) -> Tensor:
    """Tells which of some other texts are the same as a text of an example.

    Shape:
        marks: (N, k, MARKS); others: (M, DIGEST); return: (N, M) bool
    """
    own = marks[..., :DIGEST]
    same: Tensor = (own[:, :, None] == others).all(dim=3).any(dim=1)
    return same


def _digest(text: NDArray[np.int64] | None) -> bytes:
    if text is None:
        return bytes(2 * DIGEST)
    return hashlib.blake2b(np.ascontiguousarray(text, np.int64).tobytes(), digest_size=2 * DIGEST).digest()
