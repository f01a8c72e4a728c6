"""The language of what is said on the screen: English in the source, others by catalogues of gettext.

The library raises and logs English, which programs may read. The command line renders it in the language of its user
where it shows it: on the screen, in help, in tables and in the report. `use_language` decides, `translate` renders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from pretune.language.templates import Renderer

Language = Literal["en", "zh"]
CATALOGUES = Path(__file__).parent.parent / "locale"
_VARIABLES = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")  # in the order of gettext
_current: list[Language] = ["en"]
unknown: list[str] | None = None
"""Texts that no template makes, where a test sets a list to collect them."""


def wanted_language(args: Sequence[str], environment: Mapping[str, str] = os.environ) -> Language:
    """Decides the language: by `--lang`, else by the locale, else English.

    Args:
        args: the command line, whose flags are not read yet.
    """
    for position, word in enumerate(args):
        flag, equals, value = word.partition("=")
        if flag == "--lang":
            name = value if equals else (*args[position + 1 : position + 2], "")[0]
            return next((language for language in get_args(Language) if language == name), "en")
    name = next((environment[each] for each in _VARIABLES if environment.get(each)), "")
    return "zh" if name.lower().startswith("zh") else "en"


def without_language(args: Sequence[str]) -> list[str]:
    """The command line without a `--lang` before its verb, where no other flag stands."""
    if args and args[0].startswith("--lang="):
        return list(args[1:])
    return list(args[2:] if args and args[0] == "--lang" else args)


@contextmanager
def use_language(language: Language) -> Iterator[None]:
    """Shows the texts of the block in a language."""
    _current.append(language)
    try:
        yield
    finally:
        _current.pop()


def current_language() -> Language:
    """The language in which texts are shown."""
    return _current[-1]


def translate(text: str) -> str:
    """Renders English screen text in the current language; what is in no catalogue is left as it is.

    Args:
        text: one message a line.
    """
    language = _current[-1]
    if language == "en":
        return text
    renderer = _renderer(language)
    lines = []
    for line in text.split("\n"):
        rendered = renderer.line(line)
        if unknown is not None and not rendered.score and _is_message(line):
            unknown.append(line)
        lines.append(rendered.text)
    return "\n".join(lines)


def _is_message(line: str) -> bool:
    """Whether a line holds English words, and is no command to copy."""
    words = re.sub(r"`[^`]*`", "", line)
    return not words.strip().startswith("pretune ") and re.search(r"[A-Za-z]{2,} [a-z]{2,}", words) is not None


def N_(*texts: str) -> tuple[str, ...]:  # noqa: N802 - the name that gettext's tools know
    """Marks messages for the catalogue that the source does not hold as texts: words in holes, other people's messages.

    Args:
        texts: as they stand in the catalogue, with their holes.
    """
    return texts


@cache
def _renderer(language: Language) -> Renderer:
    from pretune.language.catalogue import read_catalogue
    from pretune.language.templates import Renderer

    return Renderer(read_catalogue(CATALOGUES / language / "LC_MESSAGES" / "pretune.po"))
