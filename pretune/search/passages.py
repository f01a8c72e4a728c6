"""Cuts documents into passages: windows of whole sentences, of a bounded number of tokens or characters.

    text -> sentences -> windows that end where sentences do, words where one is too long -> Passage(start, end, text)

What is searched of a passage is its title and its text; where it stands is said in characters of the document.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pretune.config import Config
from pretune.search.documents import Document
from pretune.text.encode.sentences import sentence_starts
from pretune.text.tokenizer.tokenizer import Tokenizer

_WORD_START = re.compile(r"(?<=\s)(?=\S)|(?<=[\u2e80-\U0003134f])(?=\S)|(?<=\S)(?=[\u2e80-\U0003134f])")
_TOGETHER = 64  # documents that are tokenized at once


class WindowConfig(Config):
    """How documents are cut into passages.

    Attributes:
        size: tokens or characters of a passage at most; 0 for whole documents.
        overlap: tokens or characters at the end of a passage that the next one has too, at most.
        unit: what is counted.
    """

    size: int = Field(default=1000, ge=0)
    overlap: int = Field(default=0, ge=0)
    unit: Literal["tokens", "characters"] = "characters"

    @model_validator(mode="after")
    def _smaller(self) -> WindowConfig:
        if self.size and self.overlap >= self.size:
            raise ValueError(f"overlap {self.overlap} is not below the size {self.size}; lower it")
        return self


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document that is found by itself.

    Attributes:
        document: the id of the document.
        title: of the document; empty where it has none.
        start, end: where it stands in the document's text, in characters, the end exclusive.
        text: the document's characters from start to end.
    """

    document: str
    title: str
    start: int
    end: int
    text: str

    @property
    def searched(self) -> str:
        """What is searched: title and text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def cut_documents(
    documents: Iterable[Document], config: WindowConfig, tokenizer: Tokenizer | None = None
) -> Iterator[tuple[Document, list[Passage]]]:
    """The passages of each document, at least one.

    Args:
        tokenizer: counts tokens, where these are the unit.
    """
    stream = iter(documents)
    while part := list(islice(stream, _TOGETHER)):
        for document, starts in zip(part, _unit_starts(part, config, tokenizer), strict=True):
            spans = cut_text(document.text, starts, config.size, config.overlap)
            yield document, [Passage(document.id, document.title, a, b, document.text[a:b]) for a, b in spans]


def _unit_starts(
    documents: Sequence[Document], config: WindowConfig, tokenizer: Tokenizer | None
) -> list[NDArray[np.int64]]:
    """Where the tokens or characters of each document begin."""
    if config.unit == "characters" or not config.size:
        return [np.arange(len(document.text)) for document in documents]
    assert tokenizer is not None  # the unit is tokens only where a model reads
    encoded = tokenizer.encode_kept([document.text for document in documents])
    return [np.maximum.accumulate(each.offsets[:, 0]) if len(each.tokens) else np.zeros(0, int) for each in encoded]


def cut_text(text: str, unit_starts: NDArray[np.int64], size: int, overlap: int) -> list[tuple[int, int]]:
    """Where the windows of a text begin and end, in characters, without white space around them.

    Args:
        unit_starts: where each token, or character, begins; never falling.
        size: units of a window at most; 0 for the whole text.
        overlap: units that a window has of the end of the one before, at most.
    """
    if not size:
        return [span for span in (_stripped(text, 0, len(text)),) if span is not None]
    units: list[int] = unit_starts.tolist()
    sentences = [*sentence_starts(text), len(text)]
    words = [*(match.start() for match in _WORD_START.finditer(text)), len(text)]
    spans: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        first = bisect_left(units, start)
        reach = _past_space(text, units[first + size] if first + size < len(units) else len(text))
        end = _last(sentences, start, reach) or _last(words, start, reach) or max(reach, start + 1)
        span = _stripped(text, start, end)
        if span is not None and (not spans or span[1] > spans[-1][1]):
            del spans[len(spans) - (bool(spans) and spans[-1][0] == span[0]) :]
            spans.append(span)
        if end >= len(text):
            break
        start = _next_start(sentences, words, units, start, end, overlap)
    return spans


def _past_space(text: str, position: int) -> int:
    """The first character from a position on that is no white space, which no window counts at its end."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _last(borders: Sequence[int], start: int, reach: int) -> int | None:
    """The last border behind a start that is not beyond the reach; None where there is none."""
    position = bisect_right(borders, reach) - 1
    return borders[position] if position >= 0 and borders[position] > start else None


def _next_start(
    sentences: Sequence[int], words: Sequence[int], units: Sequence[int], start: int, end: int, overlap: int
) -> int:
    """Where the next window begins: at the first sentence, else word, that is in the overlap; else at the end."""
    if not overlap:
        return end
    edge = bisect_left(units, end)
    earliest = max(units[max(0, edge - overlap)], start + 1)
    for borders in (sentences, words):
        position = bisect_left(borders, earliest)
        if position < len(borders) and borders[position] < end:
            return borders[position]
    return end


def _stripped(text: str, start: int, end: int) -> tuple[int, int] | None:
    """A part of a text without white space around it; None where there is nothing else."""
    part = text[start:end]
    begin = start + len(part) - len(part.lstrip())
    return (begin, begin + len(part.strip())) if part.strip() else None
