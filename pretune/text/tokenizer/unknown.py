"""Counts the tokens that stand for text which a vocabulary does not have; says how many there were, and which text."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from pretune.wording import counted, percent

Tokens = NDArray[np.int64]
Offsets = Callable[[str], tuple[Tokens, NDArray[np.int64]]]
SAMPLE = 5  # pieces of text that are shown
MANY = 0.02  # of the tokens: from here on, it is a warning
REMEDY = "use a model whose tokenizer knows this text"
TRAINING_REMEDY = f"{REMEDY}, or add its words to the tokenizer (pretune tokenizer extend)"
STORE_REMEDY = "train a tokenizer on this text (pretune tokenizer train) and prepare the text with that one"
_SHOWN = 20  # characters of one of them
_log = logging.getLogger("pretune")


class UnknownTokens:
    """What was unknown among the texts that a tokenizer encoded.

    Args:
        unk: id of the unknown token; None where the tokenizer has none, so that nothing is unknown.
        max_word: characters of the longest word that has other tokens than the unknown one; None for no limit.

    Attributes:
        tokens: all tokens.
        unknown: those that are unknown.
        long_words: unknown tokens that stand for a word over `max_word`.
        sample: the first texts that unknown tokens stand for, each once.
        texts, cut, length: texts that were read, and how many of them were longer than so many tokens.
    """

    def __init__(self, unk: int | None, max_word: int | None = None) -> None:
        self.tokens = self.unknown = self.long_words = 0
        self.sample: list[str] = []
        self.texts = self.cut = self.length = 0
        self._unk = unk
        self._max_word = max_word
        self._run = None if max_word is None else re.compile(rf"\S{{{max_word + 1}}}")  # every longer word is in one
        self._lock = threading.Lock()

    def add(self, texts: Sequence[str], runs: Sequence[Tokens], offsets: Offsets) -> None:
        """Counts the tokens of some texts.

        Args:
            runs: the tokens of each text.
            offsets: gives the tokens of a text and where each lies in it; called for texts with unknown tokens of which
                samples are wanted, or with a run long enough for a word that is too long.
        """
        if self._unk is None or not runs:
            return
        counts = [int((run == self._unk).sum()) for run in runs]
        with self._lock:
            self.tokens += sum(map(len, runs))
            self.unknown += sum(counts)
        for text, count in zip(texts, counts, strict=True):
            if count:
                self._look_at(text, offsets)

    def _look_at(self, text: str, offsets: Offsets) -> None:
        """Looks for long words, and takes samples, in a text with unknown tokens."""
        if not self.may_have_long_words(text) and len(self.sample) >= SAMPLE:
            return
        ids, spans = offsets(text)
        unknown = spans[ids == self._unk]
        if self._max_word is not None:
            with self._lock:
                self.long_words += int((unknown[:, 1] - unknown[:, 0] > self._max_word).sum())
        for start, end in unknown.tolist():
            piece = text[start:end] if end - start <= _SHOWN else text[start : start + _SHOWN] + "..."
            if piece and piece not in self.sample and len(self.sample) < SAMPLE:
                self.sample.append(piece)

    def may_have_long_words(self, text: str) -> bool:
        """Whether a text has a run that is long enough for a word which is too long for the tokenizer."""
        return self._run is not None and self._run.search(text) is not None

    def describe_sample(self, documents: str) -> str:
        """What unknown tokens stand for, as the end of a sentence; nothing where that was not found.

        Args:
            documents: those that were looked at, such as "the first 2,000 documents".
        """
        such_as = self._such_as()
        if not self.long_words:
            return such_as
        words = counted(self.long_words, "word")
        return f"{such_as}; {words} of more than {self._max_word} characters in {documents}, one unknown token each"

    def _such_as(self) -> str:
        return f", such as {', '.join(map(repr, self.sample))}" if self.sample else ""

    def summary(self, of: str = "", remedy: str = REMEDY) -> str | None:
        """Describes in a sentence what was unknown; None where nothing was.

        Args:
            of: whose tokens were counted, such as "the training texts"; empty where that is plain.
            remedy: what to do where much is unknown.
        """
        words = counted(self.long_words, "word")
        long = f"; {words} longer than it allows" if self.long_words else ""
        return describe_unknown(self.unknown, self.tokens, of, f"{self._such_as()}{long}", remedy)


def describe_unknown(unknown: int, tokens: int, of: str, sample: str, remedy: str) -> str | None:
    """Says which part of some tokens is unknown; None where none is. From 2% on, it is a warning with a remedy.

    Args:
        unknown: how many of the tokens are.
        of: whose tokens these are, such as "the training texts"; empty where that is plain.
        sample: the end of the sentence; see `UnknownTokens.describe_sample`.
        remedy: empty where it was given before: then it is no warning.
    """
    if not unknown:
        return None
    total = f"{counted(tokens, 'token')} of {of}" if of else counted(tokens, "token")
    counts = f"{unknown:,} of {total} ({percent(unknown / tokens)})"
    if unknown < MANY * tokens or not remedy:
        return f"{counts} unknown to the tokenizer{sample}"
    return f"warning: {counts} unknown to the tokenizer, so that the model cannot read them{sample}; {remedy}"


class CountsUnknown:
    """A tokenizer, as far as it counts what it does not know; see `count_unknown`."""

    counter: UnknownTokens | None = None

    def new_counter(self) -> UnknownTokens:
        """A counter for this tokenizer."""
        raise NotImplementedError


def say_cut(tokenizer: CountsUnknown, cut: int, texts: int, length: int) -> None:
    """Logs how many of some texts were cut; inside a block of `say_unknown`, that says it for all its texts."""
    counter = tokenizer.counter
    if counter is None:
        _log_cut(cut, texts, length)
    else:
        counter.texts, counter.cut, counter.length = counter.texts + texts, counter.cut + cut, length


def _log_cut(cut: int, texts: int, length: int) -> None:
    if cut:
        _log.warning("%s", describe_cut(cut, counted(texts, "text"), length))


def describe_cut(cut: int, texts: str, length: int) -> str:
    """Says how many of some texts were cut.

    Args:
        texts: how many there are and which, such as "300 training texts".
    """
    return f"{cut:,} of {texts} cut to {counted(length, 'token')}"


@contextmanager
def count_unknown(tokenizer: CountsUnknown) -> Iterator[UnknownTokens]:
    """Counts what a tokenizer does not know while the block runs; inside another such block, that one counts."""
    if tokenizer.counter is not None:
        yield tokenizer.counter
        return
    tokenizer.counter = counter = tokenizer.new_counter()
    try:
        yield counter
    finally:
        tokenizer.counter = None


@contextmanager
def say_unknown(tokenizer: CountsUnknown) -> Iterator[None]:
    """Logs what a tokenizer did not know while the block ran, and what was cut, once at its end.

    Inside another such block, that one says it for all.
    """
    is_outermost = tokenizer.counter is None
    with count_unknown(tokenizer) as counter:
        yield
    if not is_outermost:
        return
    if (text := counter.summary()) is not None:
        _log.warning("%s", text)
    _log_cut(counter.cut, counter.texts, counter.length)
