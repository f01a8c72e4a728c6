"""Samples of a token store: which tokens each one covers, by arithmetic on offsets, without reading the tokens.

1. A split is one long run of tokens; every document ends with the tokenizer's end token.
2. A view cuts it into windows of at most `width` tokens: across documents (`StreamView`), inside documents
   (`DocumentView`), or by whole sentences of one document (`SentencesView`, `PairsView`). `ExampleView` holds
   supervised rows instead.
3. `read` gives the windows that a sampler asks for as rows, still without special tokens; plain windows are read from
   the disk when their tokens are wanted (`Windows`).

Every view accounts for each token of its split: `tokens = used + end + cut`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.text.samples.rows import Encoding, Ints, Row, Split, Windows
from pretune.text.samples.sentence_windows import PairsView, SentencesView, SentenceView, TooFewDocumentsError
from pretune.text.samples.windows import DocumentView, StreamView
from pretune.text.samples.word_flags import MarkedSplit
from pretune.text.store.store import TokenSplit

__all__ = [
    "DocumentView", "ExampleView", "Ints", "PairsView", "Row", "SentenceView", "SentencesView", "Split", "StreamView",
    "TooFewDocumentsError", "View", "Windows", "build_view",
]  # fmt: skip


class View(Protocol):
    """Samples that can be counted, measured and read by index."""

    def __len__(self) -> int:
        """Number of samples."""

    def lengths(self, index: Ints) -> Ints:
        """Tokens of samples, look-ahead left out, without reading them. Shape: (n,) -> (n,)."""

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> Sequence[Row]:
        """The samples themselves; `draw` decides what is random in them."""

    def account(self) -> dict[str, int]:
        """Tokens in, used, cut; see each view."""


def build_view(
    split: Split, view: str, width: int, lookahead: int = 0, pack: str = "stream", words: bool = False
) -> View:
    """The view that an objective asks for by name.

    Args:
        view: `Objective.view`: "stream", "sentence", "sentences" or "pairs".
        width: tokens of a window: the sequence length less `Objective.overhead`.
        lookahead: `Objective.lookahead`.
        pack: for the view "stream": "stream" cuts across documents, "document" never crosses them.
        words: read tokens with marks (`text/samples/word_flags.py`), if the store says where words begin.

    Raises:
        UsageError: a name that text cannot deliver, or a width below 1.
        DataError: the view "pairs" of fewer than two documents.
    """
    if words and isinstance(split, TokenSplit) and split.has_words:
        split = MarkedSplit(split)
    if view == "sentence":
        return SentenceView(split, width)
    if view in ("sentences", "pairs"):
        return (SentencesView if view == "sentences" else PairsView)(split, width)
    if view == "stream" and pack in ("stream", "document"):
        return (StreamView if pack == "stream" else DocumentView)(split, width, lookahead)
    raise UsageError(
        f"no view {view!r} with pack = {pack!r}; known: stream, sentence, sentences, pairs; pack stream, document"
    )


class ExampleView:
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
