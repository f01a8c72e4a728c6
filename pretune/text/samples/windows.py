"""Windows of a split without regard to sentences: across documents, or inside them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.text.samples.rows import Ints, Split, Windows

CHUNK = 1 << 20  # documents or sentences at a time: bounds the memory of building an index


def check_width(width: int) -> None:
    """Refuse windows without room for a token."""
    if width < 1:
        raise UsageError(f"field 'length' leaves {width} tokens of text in a window; make it longer")


def _windows(sizes: Ints, width: int, lookahead: int) -> tuple[Ints, Ints]:
    """Windows in runs of the given sizes, and the tokens of each run that they cover; a tail of one token is no window.

    Shape: (D,) -> (D,), (D,).
    """
    least = max(1 + lookahead, min(2, width + lookahead))
    counts = np.where(sizes >= least, (sizes - least) // width + 1, 0)
    covered = np.where(counts > 0, np.minimum(sizes, counts * width + lookahead), 0)
    return counts, covered


class StreamView:
    """Windows of a split seen as one stream: documents follow one another, attention crosses them.

    Window w reads tokens [w * width, w * width + width + lookahead). The look-ahead is the target of the last position,
    so no prediction is lost between windows; a tail of at least two tokens is a shorter last window.
    """

    def __init__(self, split: Split, width: int, lookahead: int = 0) -> None:
        check_width(width)
        self.split, self.width, self.lookahead = split, width, lookahead
        counts, covered = _windows(np.array([split.token_count]), width, lookahead)
        self._count, self._covered = int(counts[0]), int(covered[0])

    def __len__(self) -> int:
        """Number of windows."""
        return self._count

    def lengths(self, index: Ints) -> Ints:
        """Tokens that each window predicts from. Shape: (n,) -> (n,)."""
        left = self.split.token_count - self.lookahead - np.asarray(index, np.int64) * self.width
        return np.minimum(left, self.width)

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> Windows:
        """Windows as rows."""
        start = np.asarray(index, np.int64) * self.width
        stop = np.minimum(start + (self.width + self.lookahead), self.split.token_count)
        return Windows.of(self.split, store, epoch, index, start, stop)

    def account(self) -> dict[str, int]:
        """`tokens = used + cut`."""
        total = self.split.token_count
        return {"samples": len(self), "tokens": total, "used": self._covered, "cut": total - self._covered}


class DocumentView:
    """Windows that never cross a document: a long one is cut, a short one stays short.

    Without a look-ahead (encoders) the document's end token is left out, as `Vocabulary.wrap` sets its own; with one
    (decoders) it stays, because it is what the last position predicts.
    """

    def __init__(self, split: Split, width: int, lookahead: int = 0) -> None:
        check_width(width)
        self.split, self.width, self.lookahead = split, width, lookahead
        self._offsets = np.asarray(split.document_offsets)
        self._end = 0 if lookahead else 1
        index = split.index(f"documents-{width}-{lookahead}", self._parts)
        self._first = index["first"]
        self._covered = int(index["covered"].sum())

    def _parts(self) -> Iterator[dict[str, Ints]]:
        """The first window of each document, and the number of windows; and the tokens that windows cover."""
        total = 0
        yield {"first": np.zeros(1, np.int64), "covered": np.zeros(1, np.int64)}
        for begin in range(0, len(self._offsets) - 1, CHUNK):
            sizes = np.diff(self._offsets[begin : begin + CHUNK + 1]) - self._end
            counts, covered = _windows(sizes, self.width, self.lookahead)
            ends = counts.cumsum() + total
            total = int(ends[-1])
            yield {"first": ends, "covered": covered.sum(keepdims=True)}

    def __len__(self) -> int:
        """Number of windows."""
        return int(self._first[-1])

    def _ranges(self, index: Ints) -> tuple[Ints, Ints]:
        """First and past-the-last token that each window reads. Shape: (n,) -> (n,), (n,)."""
        index = np.asarray(index, np.int64)
        document = self._first.searchsorted(index, side="right") - 1
        start = self._offsets[document] + (index - self._first[document]) * self.width
        stop = np.minimum(start + self.width + self.lookahead, self._offsets[document + 1] - self._end)
        return start, stop

    def lengths(self, index: Ints) -> Ints:
        """Tokens that each window predicts from. Shape: (n,) -> (n,)."""
        start, stop = self._ranges(index)
        return np.asarray(stop - start - self.lookahead)

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> Windows:
        """Windows as rows."""
        return Windows.of(self.split, store, epoch, index, *self._ranges(index))

    def account(self) -> dict[str, int]:
        """`tokens = used + end + cut`; `end` are end tokens that the special tokens of a sequence stand for."""
        total = self.split.token_count
        end = self._end * (len(self._offsets) - 1)
        cut = total - end - self._covered
        return {"samples": len(self), "tokens": total, "used": self._covered, "end": end, "cut": cut}
