"""Supervised rows: what a task encoded, as samples that can be counted, measured and read by index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.draw import Draw
from pretune.text.samples.rows import Encoding, Ints, Row
from pretune.text.samples.views.view import View


class ExampleView(View):
    """Supervised rows, truncated by the task that made them."""

    def __init__(self, examples: Sequence[Encoding]) -> None:
        self.examples = examples
        self._lengths = np.array([example.size for example in examples], dtype=np.int64)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def lengths(self, index: Ints) -> Ints:
        """Tokens of each example, all its texts. Shape: (n,) -> (n,)."""
        return np.asarray(self._lengths[index])

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> list[Row]:
        """Examples as rows."""
        rows = []
        for i in np.asarray(index).tolist():
            tokens, second, label, third = self.examples[i]
            rows.append(Row((store, epoch, i), tokens, second=second, label=label, third=third))
        return rows

    def account(self) -> dict[str, int]:
        """`tokens = used`: what truncation cut is in the task's account."""
        total = int(self._lengths.sum())
        return {"samples": len(self), "tokens": total, "used": total, "cut": 0}
