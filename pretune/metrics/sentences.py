"""Splits a text into sentences at marks of punctuation and line breaks, in Western and Chinese script."""

from __future__ import annotations

import re

_SHORT = (
    "Mr Mrs Ms Dr Prof St Jr Sr vs etc e.g i.e Inc Ltd Co Corp No Vol Fig Gen Sen Rep Gov Lt Col Sgt Capt Jan Feb Mar"
)
_SHORT += " Apr Jun Jul Aug Sep Sept Oct Nov Dec z.B bzw ca Nr Hr Fr"
_ABBREVIATIONS = frozenset(_SHORT.casefold().split())
_END = re.compile(r"[。！？；…]+[”’」』）\"']*|[.!?]+[\"'”’)\]]*(?=\s|$|[\u4e00-\u9fff])|\n+")
_WORD_BEFORE = re.compile(r"[^\s(\"'“‘]+$")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text without white space around them; none is empty."""
    out: list[str] = []
    has_capitals = any(char.isupper() for char in text)
    start = 0
    for match in _END.finditer(text):
        if match[0] == "." and not _ends_sentence(text, match, has_capitals):
            continue
        out.append(text[start : match.end()])
        start = match.end()
    return [sentence.strip() for sentence in [*out, text[start:]] if sentence.strip()]


def _ends_sentence(text: str, match: re.Match[str], has_capitals: bool) -> bool:
    """Whether a point ends a sentence: not behind an abbreviation or an initial, nor before a small letter.

    Args:
        has_capitals: of a text without any, small letters say nothing.
    """
    before = _WORD_BEFORE.search(text[max(0, match.start() - 30) : match.start()])
    word = before[0] if before else ""
    after = text[match.end() :].lstrip()
    is_initial = len(word) == 1 and word.isupper()
    return word.casefold() not in _ABBREVIATIONS and not is_initial and not (has_capitals and after[:1].islower())
