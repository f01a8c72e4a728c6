"""The base of views, and how one is found by name.

1. A split is one long run of tokens; every document ends with the tokenizer's end token.
2. A view cuts it into samples of at most `width` tokens, by arithmetic on offsets, without reading the tokens.
3. `read` gives the samples that a sampler asks for as rows, still without special tokens; plain windows are read from
   the disk when their tokens are wanted (`Windows`).

Every view counts each token of its split once: `tokens = used + end + cut`.

A view of one's own is a file with one subclass of `StoreView`; an objective names it by its path:

    class Lines(Objective):
        view = "path/to/lines.py"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.find import find_class
from pretune.text.samples.rows import Ints, Row, Split, Text, Windows, read_word_flags
from pretune.text.samples.views.windows import check_width

AXIS = "text.samples.views"
PACKS = ("stream", "document")  # the views that "stream" stands for, by `data.pack` of the recipe


class View(ABC):
    """Samples that can be counted, measured and read by index."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def lengths(self, index: Ints) -> Ints:
        """Tokens of samples, look-ahead left out, without reading them. Shape: (n,) -> (n,)."""

    @abstractmethod
    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> Sequence[Row]:
        """The samples themselves; `draw` decides what is random in them."""

    @abstractmethod
    def data_stats(self) -> dict[str, int]:
        """Tokens in, used, cut; see each view."""


class StoreView(View):
    """A view of a split of a token store; what a file on this axis defines.

    Args:
        split: where the tokens are.
        width: tokens of a sample at most.
        lookahead: tokens past a sample's end that are read as targets.
        words: whether rows carry word flags, where the store says where words begin.

    Raises:
        UsageError: a width below 1.
    """

    def __init__(self, split: Split, width: int, lookahead: int = 0, words: bool = False) -> None:
        check_width(width)
        self.split, self.width, self.lookahead, self.words = split, width, lookahead, words

    def windows(self, index: Ints, store: int, epoch: int, start: Ints, stop: Ints) -> Windows:
        """Rows that are nothing but the tokens from `start` to `stop`. Shape: index, start, stop (n,)."""
        return Windows.of(self.split, store, epoch, index, start, stop, self.words)

    def texts(self, start: Ints, stop: Ints) -> list[Text]:
        """Runs of tokens, read together. Shape: (n,), (n,) -> n texts."""
        run, ends = self.split.read_runs(start, stop), (stop - start).cumsum().tolist()
        whole = Text(run, read_word_flags(self.split, start, stop) if self.words else None)
        return [whole.slice(a, b) for a, b in pairwise([0, *ends])]


def build_view(
    split: Split, view: str, width: int, lookahead: int = 0, pack: str = "stream", words: bool = False
) -> StoreView:
    """Build the view that an objective asks for.

    Args:
        view: `Objective.view`: a file of this folder, or the path of a user's own.
        width: tokens of a window: the sequence length less `Objective.overhead`.
        lookahead: `Objective.lookahead`.
        pack: for the view "stream": "stream" cuts across documents, "document" never crosses them.
        words: `Objective.words`.

    Raises:
        UsageError: a name that text cannot deliver, or a width below 1.
        DataError: the view "pairs" of fewer than two documents.
    """
    if pack not in PACKS:
        raise UsageError(f"no pack {pack!r}; known: {', '.join(PACKS)}")
    view_class = find_class(AXIS, pack if view == "stream" else view, StoreView)  # type: ignore[type-abstract]
    return view_class(split, width, lookahead, words)
