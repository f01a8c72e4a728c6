"""Holds the text that a tokenizer is trained on, bounds its words, and runs the trainer so that signals are heard.

The trainers of `tokenizers` take time that grows with the square of the length of a word: 4 to 12 s for one of 80,000
characters, the better part of an hour for a million. Python runs no handler of a signal while the main thread trains.
"""

from __future__ import annotations

import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import tokenizers

from pretune.errors import DataError
from pretune.text.tokenizer.library import library_errors
from pretune.wording import counted

_PART = 1 << 16  # characters of a text that a trainer is given at once
_BLANK = re.compile(r"(?<=[^\W_])[ \n](?=[^\W_])")
_TICK = 0.1  # seconds between two looks at the trainer


@dataclass(frozen=True)
class TrainProgress:
    """How far the training of a tokenizer is.

    Attributes:
        is_reading: the text is still being read.
        bytes: of text that were read.
        seconds: since the text was read.
    """

    is_reading: bool
    bytes: int
    seconds: float = 0.0


@dataclass
class Bound:
    """The longest word that a trainer is given, and what was over it.

    Attributes:
        length: characters of a word at most.
        pattern: finds words that are longer.
        is_left_out: such words are left out; else they are cut.
        words, characters: how many words were over the length, and how many characters they had.
    """

    length: int
    pattern: re.Pattern[str]
    is_left_out: bool
    words: int = 0
    characters: int = 0

    @classmethod
    def of(cls, length: int, classes: Sequence[str], is_left_out: bool = False) -> Bound:
        """A bound on runs of characters of one class.

        Args:
            classes: regular expressions of one character each.
        """
        pattern = "|".join(f"(?<!{each}){each}{{{length + 1},}}" for each in classes)  # begins where a run does: linear
        return cls(length, re.compile(pattern, re.DOTALL), is_left_out)

    def split(self, text: str) -> Iterator[str]:
        """The text in parts none of which has a longer word."""
        begin = 0
        for match in self.pattern.finditer(text):
            self.words += 1
            self.characters += len(match[0])
            start, end = match.span()
            cuts = [start, end] if self.is_left_out else [*range(start + self.length, end, self.length)]
            for number, cut in enumerate(cuts):
                if not self.is_left_out or number == 0:
                    yield text[begin:cut]
                begin = cut
        yield text[begin:]

    def notes(self) -> list[str]:
        """What the user should know; nothing where no word was longer."""
        if not self.words:
            return []
        what = f"{counted(self.words, 'word')} of more than {self.length:,} characters ({self.characters:,} in all)"
        if self.is_left_out:
            return [f"left out of training: {what}, the unknown token in any case"]
        return [f"cut for training: {what}"]


@dataclass
class Spool:
    """Texts on disk, to be read again, and how often each character occurs in them.

    Attributes:
        counts: of every character.
        size: bytes of all texts.
        report: is told how far the training is.
        bound: of the words that are handed out.
    """

    file: IO[bytes]
    counts: Counter[str]
    size: int = 0
    report: Callable[[TrainProgress], None] | None = None
    bound: Bound = field(default_factory=lambda: Bound.of(1 << 30, ["."]))

    @classmethod
    def fill(
        cls,
        file: IO[bytes],
        texts: Iterable[str],
        limit: int,
        report: Callable[[TrainProgress], None] | None = None,
    ) -> Spool:
        """Reads texts until there are so many bytes.

        Raises:
            DataError: no text but white space, or a lone surrogate.
        """
        spool = cls(file, Counter(), report=report)
        for text in texts:
            try:
                raw = text.encode()[: limit - spool.size]
            except UnicodeEncodeError as error:
                raise DataError(f"lone surrogate at character {error.start} of {text[:40]!r}...") from None
            spool.counts.update(raw.decode("utf-8", "ignore"))
            file.write(struct.pack("<q", len(raw)) + raw)
            spool.size += len(raw)
            if report is not None:
                report(TrainProgress(True, spool.size))
            if spool.size >= limit:
                break
        if not any(not character.isspace() for character in spool.counts):
            raise DataError("no text to train a tokenizer on, or nothing but white space")
        return spool

    def __iter__(self) -> Iterator[str]:
        self.file.seek(0)
        while head := self.file.read(8):
            text = self.file.read(*struct.unpack("<q", head)).decode("utf-8", "ignore")
            for part in self.bound.split(text):
                yield from _short_parts(part)

    def progress(self, seconds: float) -> None:
        """Reports that the trainer is at work."""
        if self.report is not None:
            self.report(TrainProgress(False, self.size, seconds))


def _short_parts(text: str) -> Iterator[str]:
    """A text in parts of about 65,536 characters, cut before blanks between words, where every pipeline here cuts too.

    A trainer asks for a hundred bytes of memory for each character of a text, and trains on its words in any case.
    """
    begin = 0
    while (blank := _BLANK.search(text, begin + _PART)) is not None:
        yield text[begin : blank.start()]
        begin = blank.start()
    yield text[begin:]


def run_trainer(
    backend: tokenizers.Tokenizer, texts: Iterable[str], trainer: Any, progress: Callable[[float], None]
) -> None:
    """Trains in a thread of its own, so that this one hears signals; one ends the wait and, with it, the process.

    Args:
        progress: is called with the seconds so far.
    """
    failures: list[BaseException] = []

    def work() -> None:
        try:
            backend.train_from_iterator(texts, trainer)
        except BaseException as error:
            failures.append(error)

    thread, begin = threading.Thread(target=work, daemon=True), time.monotonic()
    thread.start()
    while True:  # once at least, however soon the thread ends
        thread.join(_TICK)
        progress(time.monotonic() - begin)
        if not thread.is_alive():
            break
    if failures:
        with library_errors("the tokenizers library cannot train on these texts"):
            raise failures[0]
