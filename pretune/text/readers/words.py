"""Joins words to a text: with blanks, or without where Chinese or Japanese characters meet."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NO_BLANK = re.compile("[\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uffef\U00020000-\U0003ffff]")


def join_words(words: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text of words, and where each of them lies in it.

    Two words have a blank between them, unless one of them is Chinese or Japanese where they meet, or the words are the
    single characters of a text that is.
    """
    is_bare = all(len(word) == 1 for word in words) and any(map(_NO_BLANK.match, words))
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    end = 0
    for n, word in enumerate(words):
        if n and not (is_bare or _NO_BLANK.match(word) or _NO_BLANK.match(words[n - 1][-1])):
            parts.append(" ")
            end += 1
        parts.append(word)
        places.append((end, end + len(word)))
        end += len(word)
    return "".join(parts), tuple(places)
