"""Finds where words begin, for tokenizers that do not know it: Chinese is written without spaces between words.

A segmenter is a function from a text to its words in order; white space may be left out. By name:

- `jieba`: the package of that name (the extra `zh`);
- `words.txt`: a word list, one per line, UTF-8, of which the longest word that fits is taken, from left to right; what
  stands after a tab or a space on a line (a frequency, a tag) is ignored, so jieba's own dictionaries do;
- `package.module:function` or `path/to/file.py:function`: the user's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pretune.errors import DataError, MissingInputError, UsageError
from pretune.find import find

Segmenter = Callable[[str], Iterable[str]]
HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_RUN = re.compile(r"[^\W\d_]+|\d+|\s+|.", re.DOTALL)  # letters, figures, white space, anything else by itself
_LINE = re.compile(r"[\t ]")


@dataclass(frozen=True)
class WordFinder:
    """A segmenter by name, and what it found, as places in the text.

    Attributes:
        name: as the user gave it.
    """

    name: str

    def __call__(self, text: str) -> list[int]:
        """The characters at which words begin, rising; white space goes with the words beside it.

        Raises:
            DataError: what the segmenter gave is not the text.
        """
        try:
            return word_starts(text, self._segment(text))
        except DataError as error:
            raise DataError(f"segmenter {self.name!r}: {error}") from None

    @cached_property
    def fingerprint(self) -> str:
        """What decides its words, as far as that can be told: a version, the hash of a list, a name."""
        if self.name == "jieba":
            return f"jieba {_jieba().__version__}"
        if ":" in self.name:
            return self.name
        return f"list {hashlib.sha256(_read(self.name)).hexdigest()}"

    @cached_property
    def _segment(self) -> Segmenter:
        if self.name == "jieba":
            cut: Segmenter = _jieba().lcut
            return cut
        return _function(self.name) if ":" in self.name else LongestMatch(_words(self.name))


class LongestMatch:
    """Words of a list, the longest that fits, from left to right; letters of alphabets and figures stay together.

    Args:
        words: the list.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(words)
        self._max_length: dict[str, int] = {}  # by first character
        for word in self._words:
            self._max_length[word[0]] = max(len(word), self._max_length.get(word[0], 1))

    def __call__(self, text: str) -> list[str]:
        """The words of a text, white space included."""
        out: list[str] = []
        position = 0
        while position < len(text):
            max_length = self._max_length.get(text[position], 0)
            size = next((n for n in range(max_length, 0, -1) if text[position : position + n] in self._words), 0)
            if not size:
                run = _RUN.match(text, position)
                assert run is not None  # any character is a run
                han = HAN.search(run[0])
                size = len(run[0]) if han is None else max(1, han.start())
            out.append(text[position : position + size])
            position += size
        return out


def word_starts(text: str, words: Iterable[str]) -> list[int]:
    """Where each word begins; white space is none, and may be left out.

    Raises:
        DataError: a word is not where it should be.
    """
    starts, position = [], 0
    for word in words:
        start = text.find(word, position)
        if start < 0 or text[position:start].strip():
            raise DataError(
                f"the word {word!r} does not follow in the text after {text[max(0, position - 20) : position]!r}"
            )
        if word.strip():
            starts.append(start)
        position = start + len(word)
    if text[position:].strip():
        raise DataError(f"no word for the end of the text, {text[position : position + 20]!r}")
    return starts


def _words(name: str) -> Sequence[str]:
    path = Path(name)
    try:
        lines = _read(name).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; write the word list in UTF-8") from None
    words = [word for line in lines if (word := _LINE.split(line.strip(), maxsplit=1)[0])]
    if not words:
        raise DataError(f"{path}: a word list without words")
    return words


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise MissingInputError(
            f"segmenter {name!r}: neither 'jieba', nor package.module:function, nor a word list: {error.strerror}"
        ) from None


def _function(name: str) -> Segmenter:
    target, _, wanted = name.rpartition(":")
    function = getattr(find("segmenter", target), wanted, None)
    if not callable(function):
        raise UsageError(f"segmenter {name!r}: {target} has no function {wanted!r}")
    segmenter: Segmenter = function
    return segmenter


def _jieba() -> Any:
    try:
        import jieba
    except ImportError:
        raise UsageError("segmenter 'jieba' needs the package jieba: pip install 'pretune[zh]'") from None
    jieba.setLogLevel(60)  # it reports the loading of its dictionary on standard error
    return jieba
