"""What a prompt is: a pattern with places for a text and its label, a word for each label, and what stands around.

    instruction  +  separator  +  solved examples, each in the pattern  +  separator  +  the pattern of the text
                                                                                         up to (or around) the label

A prompt is read from a TOML file:

    about = "Whether a review is good or bad."
    pattern = "Review: {text}\nSentiment: {label}"
    instruction = ""          # before everything, once
    separator = "\n\n"        # between instruction, examples and text
    channel = "The review is {label}: {text}"     # optional: the text behind its label, see `evaluate/channel.py`

    [words]
    positive = "positive"
    negative = ["negative", "bad"]     # several words of a label: their probabilities add up

Source: Schick and Schütze 2021 (arXiv 2001.07676), who call them pattern and verbalizer; Brown et al. 2020
(arXiv 2005.14165) for solved examples.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from pretune.config import Config, read_toml, validate
from pretune.errors import MissingInputError, UsageError
from pretune.find import suggest
from pretune.text.readers.records import NOWHERE, Origin

FOLDER = Path(__file__).parent
SUFFIX = ".toml"
FIELDS = ("text", "second", "label")
"""What a pattern has places for."""


class Solved(NamedTuple):
    """An example with its label, which stands in a prompt before the text that is asked for.

    Attributes:
        word: of its label.
        second: the second text of a pair.
        origin: where it was read.
    """

    text: str
    word: str
    second: str | None = None
    origin: Origin = NOWHERE


class Prompt(Config):
    """Holds what a prompt says.

    Attributes:
        about: what it asks, in a sentence, for lists of prompts.
        pattern: the text of an example, in which `{text}`, `{second}` and `{label}` stand for what they name; a brace
            of its own is doubled.
        words: the word of each label, or several, whose probabilities add up; a label that is not named stands for
            itself.
        instruction: what stands before everything.
        separator: what stands between the instruction, the examples and the text.
        channel: a text behind its label, whose likelihood there can be joined with the answer; empty: there is none.
    """

    about: str = Field("", max_length=1000)
    pattern: str = Field(max_length=100_000)
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict, max_length=10_000)
    instruction: str = Field("", max_length=100_000)
    separator: str = Field("\n\n", max_length=1000)
    channel: str = Field("", max_length=100_000)

    @field_validator("words", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {label: (words,) if isinstance(words, str) else words for label, words in value.items()}

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        for what, pattern in (("pattern", self.pattern), *([("channel", self.channel)] if self.channel else [])):
            fields = [piece.name for piece in parse_pattern(pattern, what) if piece.name]
            for name in ("text", "label"):
                if fields.count(name) != 1:
                    raise ValueError(f"{what}: {{{name}}} stands in it {fields.count(name)} times; write it once")
            if what == "channel" and fields.index("text") < fields.index("label"):
                raise ValueError("channel: {text} stands before {label}; write the text behind its label")
        for label, words in self.words.items():
            if not words or not all(word.strip() for word in words):
                raise ValueError(f"words.{label}: an empty word; give the label a word that a model can write")
        return self

    @property
    def is_paired(self) -> bool:
        """Whether the pattern has a place for a second text."""
        return any(piece.name == "second" for piece in parse_pattern(self.pattern))

    @property
    def asks_at_end(self) -> bool:
        """Whether the label comes after all texts, as a decoder needs it, which does not read what stands behind."""
        pieces = [piece.name for piece in parse_pattern(self.pattern)]
        return not {"text", "second"} & set(pieces[pieces.index("label") :])

    def in_channel(self, word: str, text: str, second: str | None = None) -> tuple[str, str]:
        """What stands before a text in the channel of a word, and the text with all behind it."""
        values = {"text": text, "second": second or "", "label": word, "": ""}
        sides = ["", ""]
        is_text = False
        for characters, name in parse_pattern(self.channel, "channel"):
            sides[is_text] += characters
            is_text = is_text or name == "text"
            sides[is_text] += values[name]
        return sides[0], sides[1]

    def words_of(self, label: str) -> tuple[str, ...]:
        """The words of a label: those that the prompt names, else the label itself."""
        return self.words.get(label, (label,))

    def premise(self) -> Rendered:
        """What stands between the last text and the label, and behind it: what is asked, not what it is asked of."""
        pieces = parse_pattern(self.pattern)
        names = [piece.name for piece in pieces]
        label = names.index("label")
        last = max((n for n, name in enumerate(names[:label]) if name), default=-1)
        before = "".join(piece.characters for piece in pieces[last + 1 : label + 1])
        return Rendered(before.lstrip(), _fill(pieces, "", None)[1])

    def render(self, text: str, second: str | None = None, solved: Sequence[Solved] = ()) -> Rendered:
        """What a model reads around the label.

        Args:
            solved: examples that stand before the text, the first one first.
        """
        examples = []
        for example in solved:
            around = self.in_pattern(example.text, example.second)
            examples.append(around.before + example.word + around.after)
        own = self.in_pattern(text, second)
        blocks = [*([self.instruction] if self.instruction else []), *examples, own.before]
        return Rendered(self.separator.join(blocks), own.after)

    def in_pattern(self, text: str, second: str | None = None) -> Rendered:
        """The pattern of a text alone."""
        return Rendered(*_fill(parse_pattern(self.pattern), text, second))


@dataclass(frozen=True)
class Rendered:
    """A prompt around a label.

    Attributes:
        before: what stands before the label's word, with the spaces between both.
        after: what stands behind it.
        special: where a chat template writes special tokens, in characters; names of them elsewhere are text. None:
            no template wrote it.
    """

    before: str
    after: str
    special: tuple[tuple[int, int], ...] | None = None


class Piece(NamedTuple):
    """A part of a pattern: characters, then a field; the name is empty where none follows."""

    characters: str
    name: str


def parse_pattern(pattern: str, what: str = "pattern") -> list[Piece]:
    """The pieces of a pattern.

    Args:
        what: its name in errors.

    Raises:
        ValueError: a single brace, or a field that there is not.
    """
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"{what}: {error}; write a brace that is no field twice, {{{{ or }}}}") from None
    pieces = []
    for characters, name, form, conversion in parts:
        if name is not None and (name not in FIELDS or form or conversion):
            raise ValueError(f"{what}: {{{name}}} is no field; the fields are {{text}}, {{second}} and {{label}}")
        pieces.append(Piece(characters, name or ""))
    return pieces


def _fill(pieces: Sequence[Piece], text: str, second: str | None) -> tuple[str, str]:
    """What stands before the label, and behind it."""
    values = {"text": text, "second": second or "", "label": "", "": ""}
    sides = ["", ""]
    is_after = False
    for characters, name in pieces:
        sides[is_after] += characters + values[name]
        is_after = is_after or name == "label"
    return sides[0], sides[1]


def prompt_names() -> list[str]:
    """The prompts of the tree."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def find_prompt(name: str) -> Prompt:
    """Reads a prompt.

    Args:
        name: of a prompt of the tree, or the path of a TOML file.

    Raises:
        UsageError: no such prompt (the nearest name is given), or a field that is unknown, missing or wrong.
        MissingInputError: a file that is not there.
    """
    if not name.endswith(SUFFIX) and "/" not in name:
        if name not in prompt_names():
            known = suggest(name, prompt_names())
            raise UsageError(f"prompt: no prompt {name!r}; {known}; a prompt of your own is a .toml file")
        return _read(FOLDER / f"{name}{SUFFIX}", name)
    path = Path(name)
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file; name a prompt ({', '.join(prompt_names())}) or a .toml file")
    return _read(path, str(path))


def _read(path: Path, where: str) -> Prompt:
    return validate(Prompt, read_toml(path), where)
