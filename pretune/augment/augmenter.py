"""The base class of augmentation methods: they turn a text into edits, as a pure function of the text and a key.

An edit replaces a range of characters. Words inside a marked span are never edited, so that spans (entities, answers)
keep their text and only move; `augment` returns where to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from pretune import config as configuration
from pretune.config import validate
from pretune.draw import Draw
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.find import find_class
from pretune.text.tokenizer.segmenter import LongestMatch, WordFinder

Span = tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """A range of a text and what replaces it; an empty range inserts.

    Attributes:
        start, stop: in characters.
        text: the replacement.
    """

    start: int
    stop: int
    text: str


@dataclass(frozen=True)
class Augmented:
    """A new text, and where the spans of the old one are in it."""

    text: str
    spans: list[Span]


class Tools:
    """What methods use of models; this one has no models and refuses.

    Attributes:
        mask: the mask token, which `fill` replaces.
        models: the models, each a `pretune.api.Model`, which this package may not import.
    """

    mask: str = ""
    models: tuple[Any, ...] = ()

    def fill(self, texts: Sequence[str], top: int) -> list[list[tuple[str, float]]]:
        """Returns, for each text with one mask, the most probable words and their probabilities.

        Raises:
            UsageError: there is no such model.
        """
        raise UsageError("this method needs a masked language model: name one with --model")

    def translate(self, texts: Sequence[str], seed: int) -> list[str]:
        """Translates texts into another language and back.

        Raises:
            UsageError: there are no such models.
        """
        raise UsageError("this method needs two translation models: name them with --there and --back")


class Augmenter(ABC):
    """Base of all methods.

    Args:
        config: validated.
        tools: the models, for methods that use one.

    Attributes:
        name: the file's name.
    """

    name: ClassVar[str] = ""

    class Config(configuration.Config):
        """How much is changed.

        Attributes:
            rate: fraction of the words of a text that is changed, rounded, at least one word.
            segmenter: finds words, as for `pretune prepare`; without one, runs of letters and single Chinese
                characters are words.
        """

        rate: float = Field(default=0.1, gt=0.0, le=1.0)
        segmenter: str | None = None

    def __init__(self, config: Config, tools: Tools | None = None) -> None:
        self.config = config
        self.tools = tools or Tools()
        self._find = WordFinder(config.segmenter) if config.segmenter else None

    def augment(self, text: str, draw: Draw, spans: Sequence[Span] = ()) -> Augmented:
        """Returns a new text, or the old one if nothing can be changed.

        Args:
            spans: ranges that keep their text.

        Raises:
            DataError: a span that is not in the text.
        """
        for start, stop in spans:
            if not 0 <= start <= stop <= len(text):
                raise DataError(f"span {start} to {stop} is outside a text of {len(text)} characters")
        free = [word for word in self.words(text) if not any(a < word[1] and word[0] < b for a, b in spans)]
        return rewrite(text, [_clear_of(edit, spans) for edit in self.edits(text, free, draw)], spans)

    @abstractmethod
    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """Returns edits that do not overlap.

        Args:
            words: the words that may be changed, in ascending order.
        """

    def words(self, text: str) -> list[Span]:
        """Returns the words of a text that contain a letter or a digit."""
        if self._find is None:
            strings = _plain(text)
            stops = np.cumsum([len(string) for string in strings]).tolist()
            words = [(stop - len(string), stop) for string, stop in zip(strings, stops, strict=True)]
        else:
            starts = [*self._find(text), len(text)]
            words = [(a, a + len(text[a:b].rstrip())) for a, b in pairwise(starts)]
        return [(a, b) for a, b in words if any(char.isalnum() for char in text[a:b])]

    def choose(self, count: int, draw: Draw) -> list[int]:
        """Chooses which of `count` words are changed: those with the smallest hashes, in ascending order."""
        if not count:
            return []
        wanted = min(count, max(1, int(self.config.rate * count + 0.5)))
        return sorted(np.argsort(draw.bits(np.arange(count)), kind="stable")[:wanted].tolist())


_plain = LongestMatch(())


def _clear_of(edit: Edit, spans: Sequence[Span]) -> Edit:
    """Shrinks an edit of a word with the spaces beside it to what lies outside the spans."""
    start, stop = edit.start, edit.stop
    for a, b in spans:
        if a < stop and start < b:
            start, stop = (start, a) if a > start else (b, stop)
    return Edit(start, stop, edit.text)


def rewrite(text: str, edits: Iterable[Edit], spans: Sequence[Span] = ()) -> Augmented:
    """Applies edits.

    Raises:
        ValueError: edits that overlap, or that cut into a span.
    """
    ordered = sorted(edits, key=lambda edit: (edit.start, edit.stop))
    out: list[str] = []
    position = 0
    moved = list(spans)
    for edit in ordered:
        if edit.start < position:
            raise ValueError(f"edits overlap at character {edit.start}")
        if any((a < edit.stop and edit.start < b) or a < edit.start == edit.stop < b for a, b in spans):
            raise ValueError(f"an edit at character {edit.start} cuts into a span")
        out += [text[position : edit.start], edit.text]
        position = edit.stop
        shift = len(edit.text) - (edit.stop - edit.start)
        moved = [(a + shift, b + shift) if spans[n][0] >= edit.stop else (a, b) for n, (a, b) in enumerate(moved)]
    out.append(text[position:])
    return Augmented("".join(out), moved)


def build(choices: Mapping[str, Any], tools: Tools | None = None) -> list[Augmenter]:
    """Builds methods by name with their settings.

    Raises:
        UsageError: no method, an unknown name or field.
    """
    if not choices:
        raise UsageError("no augmentation method; name one, such as --methods swap")
    built = []
    for name, tree in choices.items():
        method = find_class("augment", name, Augmenter)  # type: ignore[type-abstract]
        built.append(
            method(validate(method.Config, tree if isinstance(tree, Mapping) else {}, f"augment.{name}"), tools)
        )
    return built


def read_groups(path: str | Path, what: str) -> dict[str, list[str]]:
    """Reads groups of interchangeable words, one group per line, separated by tabs or commas.

    Returns:
        for each word the others of its groups, in the order of the file.

    Raises:
        MissingInputError: no such file.
        DataError: a line with one word alone, or that is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot read the {what}: {error.strerror}") from None
    out: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        group = [word for part in line.replace(",", "\t").split("\t") if (word := part.strip())]
        if not group or group[0].startswith("#"):
            continue
        if len(group) < 2:
            raise DataError(f"{path}:{number}: {group[0]!r} is alone; write one group per line, separated by tabs")
        for word in group:
            known = out.setdefault(word, [])
            known += [other for other in group if other != word and other not in known]
    if not out:
        raise DataError(f"{path}: no groups; write one group of words per line, separated by tabs")
    return out


def match_case(old: str, word: str) -> str:
    """Returns a word with the capitals of the one that it replaces."""
    if old.isupper() and len(old) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if old[:1].isupper() else word
