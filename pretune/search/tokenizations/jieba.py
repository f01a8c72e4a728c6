"""Chinese by the words of jieba's dictionary."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from pretune.errors import MissingPackageError
from pretune.search.tokenization import Tokenization


class Jieba(Tokenization):
    """Words as jieba cuts them.

    Raises:
        MissingPackageError: jieba is not installed.
    """

    def __init__(self) -> None:
        self._cutter = _cutter()

    def split(self, run: str) -> Iterator[str]:
        """The words of a run."""
        yield from self._cutter.cut(run)


def _cutter() -> Any:
    try:
        import jieba
    except ImportError:
        raise MissingPackageError(
            "words of Chinese by jieba need the package jieba: pip install 'pretune[zh]'"
        ) from None
    jieba.setLogLevel(logging.WARNING)
    return jieba.Tokenizer()
