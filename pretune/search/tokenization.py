"""The words of a text, as search by words counts them: those of scripts with spaces, and pieces of Chinese.

    text -> NFKC, lower case -> runs of letters and digits -> a word each; of Chinese and Japanese what a variant says

There is no stemmer and no list of stop words: BM25 gives words that are everywhere little weight.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_HAN_CHARACTER = re.compile(f"[{_HAN}]")
_RUN = re.compile(rf"([{_HAN}]+)|[^\W_{_HAN}]+(?:['’][^\W_{_HAN}]+)*")


def is_han(word: str) -> bool:
    """Whether a word is one Chinese or Japanese character."""
    return _HAN_CHARACTER.fullmatch(word) is not None


class Tokenization(ABC):
    """Makes words of a text, of queries as of passages. A variant says what becomes of Chinese."""

    @abstractmethod
    def split(self, run: str) -> Iterator[str]:
        """The words of a run of Chinese or Japanese characters, which has no spaces."""

    def __call__(self, text: str) -> list[str]:
        """The words of a text, in their order."""
        words: list[str] = []
        for match in _RUN.finditer(unicodedata.normalize("NFKC", text).lower()):
            if match.group(1):
                words += self.split(match.group(1))
            else:
                words.append(match.group())
        return words

    def query(self, text: str, vocabulary: Collection[str]) -> list[str]:
        """The words that a query is searched by.

        Args:
            vocabulary: the words of all passages, among which a variant may find further ones.
        """
        return self(text)
