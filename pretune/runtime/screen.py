"""Standard error as a screen that may go away: a terminal that closes or a `tee` that dies ends no run."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TextIO

from pretune.language import translate


class Screen:
    """Writes to the standard error of the moment, and does without where that fails."""

    @property
    def _stream(self) -> TextIO:
        """The stream itself, where a live display stands in for it; none is there if the caller closed it (`2>&-`)."""
        stream: TextIO | None = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return _nowhere() if stream is None else stream

    @property
    def encoding(self) -> str:
        """Of its characters."""
        return self._stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        """Writes a text, if anybody is there."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hands over what was written."""
        with suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with suppress(OSError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The file descriptor, by which a terminal's width is known."""
        return self._stream.fileno()

    def line(self, text: str) -> None:
        """Writes a message at once, in the language of the user."""
        self.write(translate(text) + "\n")
        self.flush()


@cache
def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
