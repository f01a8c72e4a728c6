"""Supervised rows: what a task encoded, as samples that can be counted, measured and read by index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.draw import Draw
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.samples.views.view import View


class ExampleView(View):
    """The rows of a task's examples, truncated by the task that encoded them.

    Args:
        rows: one for each example, or several.
        texts: of each example, as they were read, where rows are compared.
    """

    def __init__(self, rows: Sequence[Encoded], texts: Sequence[str] = ()) -> None:
        self.rows = rows
        self.texts = texts
        self._lengths = np.array([row.size for row in rows], dtype=np.int64)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def content(self, row: Encoded) -> tuple[bytes, str]:
        """What makes a row another one's copy: its tokens, and the texts, as unknown words have the same tokens."""
        tokens = b"|".join(text.tobytes() for text in row.texts)
        return tokens, self.texts[row.example] if self.texts else ""

    def lengths(self, index: Ints) -> Ints:
        """Tokens of each row, all its texts. Shape: (n,) -> (n,)."""
        return np.asarray(self._lengths[index])

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> list[Row]:
        """Rows as samples."""
        samples = []
        for i in np.asarray(index).tolist():
            row = self.rows[i]
            samples.append(
                Row(
                    (store, epoch, i),
                    row.tokens,
                    second=row.second,
                    third=row.third,
                    targets=row.targets,
                    example=row.example,
                    offsets=row.offsets,
                    answers_for=row.answers_for,
                    choices=row.choices,
                    others=row.others,
                )
            )
        return samples

    def data_stats(self) -> dict[str, int]:
        """`tokens = used`: what truncation cut is in the task's statistics."""
        total = int(self._lengths.sum())
        return {"samples": len(self), "tokens": total, "used": total, "cut": 0}
