"""Reads a catalogue of gettext as translators write it: a compiled one would be a second, binary copy of each text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.MULTILINE)
_LINE = re.compile(r'^"(.*)"$', re.MULTILINE)
_ESCAPED = re.compile(r"\\(.)")
_SIGNS = {"n": "\n", "t": "\t", "r": "\r"}


def read_catalogue(path: Path) -> Iterator[tuple[str, str]]:
    """Yields each message that is translated, and its translation.

    Args:
        path: a `.po` file, as Babel writes it.
    """
    for entry in _ENTRY.finditer(path.read_text(encoding="utf-8")):
        message, translation = map(_unquoted, entry.groups())
        if message and translation:
            yield message, translation


def _unquoted(lines: str) -> str:
    """The text of quoted lines."""
    return _ESCAPED.sub(lambda sign: _SIGNS.get(sign[1], sign[1]), "".join(_LINE.findall(lines)))
