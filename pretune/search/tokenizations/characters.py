"""Chinese by single characters: finds every passage that shares one, and ranks less well than pairs."""

from __future__ import annotations

from collections.abc import Iterator

from pretune.search.tokenization import Tokenization


class Characters(Tokenization):
    """Each character is a word."""

    def split(self, run: str) -> Iterator[str]:
        """The characters of a run."""
        yield from run
