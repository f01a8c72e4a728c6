"""The words of a text, as search by words counts them: those of scripts with spaces, and pieces of Chinese.

    text -> NFKC, lower case -> runs of letters and digits -> a word each; of Chinese and Japanese what a variant says

There is no stemmer and no list of stop words: BM25 gives words that are everywhere little weight.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_RUN = re.compile(rf"([{_HAN}]+)|[^\W_{_HAN}]+(?:['’][^\W_{_HAN}]+)*")


class Tokenization(ABC):
    """Makes words of a text; queries and passages are treated alike. A variant says what becomes of Chinese."""

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
