"""Random deletion: removes words, with a space beside each; one word always stays.

Source: Wei and Zou 2019, EDA (arXiv 1901.11196), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune.augment.augmenter import Augmenter, Edit, Span
from pretune.draw import Draw


class Deletion(Augmenter):
    """Removes words."""

    name: ClassVar[str] = "deletion"

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """Removes the chosen words, each with the space after it or, at the end of the text, before it."""
        out: list[Edit] = []
        for n in self.choose(len(words), draw)[: len(words) - 1]:
            start, stop = words[n]
            if text[stop : stop + 1] == " ":
                stop += 1
            elif text[start - 1 : start] == " " and (not out or out[-1].stop < start):
                start -= 1
            out.append(Edit(start, stop, ""))
        return out
