"""Decodes token ids to text as it grows: whole characters only, and nothing that may belong to a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from pretune.text.tokenizer.tokenizer import Tokenizer

_UNFINISHED = "\ufffd"
_BEFORE = 16  # tokens of an earlier text that a text is decoded with


class TextStream:
    """The text of one growing sequence.

    Tokens are decoded together with a few before them, whose text is known, so that joining rules (spaces, "##") hold;
    text that ends inside a UTF-8 character waits for the tokens that complete it.

    Args:
        tokenizer: decodes.
        stop: texts that end the sequence: the one that is complete first, however the text is cut into tokens; of two
            that end together the longer. Text that may be the beginning of one is held back.
        before: tokens of the text that this one goes on with, so that it begins with the space that stands between.
        keep_special: special tokens stay in the text; else they give none.

    Attributes:
        text: all text so far, the held-back part included, truncated before a stop text.
        stopped: a stop text was found.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), before: Sequence[int] = (), keep_special: bool = False
    ) -> None:
        self.text = ""
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._max_stop = max(map(len, self._stop), default=0)
        self._skip = not keep_special
        self._tokens = self._end_of(before)
        self._context = 0
        self._read = len(self._tokens)
        self._emitted = 0

    def _end_of(self, before: Sequence[int]) -> list[int]:
        """The last tokens of an earlier text, enough of them to have some; none where it ends inside a character."""
        size = _BEFORE
        while size < len(before) and not self._decode(before[-size:]).strip():
            size *= 2
        end = list(before[-size:])
        return [] if self._decode(end).endswith(_UNFINISHED) else end

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, self._skip)

    def push(self, token: int) -> str:
        """Adds a token; returns the text that is now certain."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        known = self._decode(self._tokens[self._context : self._read])
        grown = self._decode(self._tokens[self._context :])
        if len(grown) <= len(known) or grown.endswith(_UNFINISHED):
            return ""
        self._context, self._read = self._read, len(self._tokens)
        return self._add(grown[len(known) :])

    def finish(self) -> str:
        """Ends the sequence; returns the text that was held back."""
        piece = ""
        if not self.stopped:
            known = self._decode(self._tokens[self._context : self._read])
            piece = self._add(self._decode(self._tokens[self._context :])[len(known) :])
        return piece + self._emit(len(self.text))

    def _add(self, piece: str) -> str:
        start = max(0, len(self.text) - self._max_stop + 1)
        self.text += piece
        starts = [(self.text.find(stop, start), stop) for stop in self._stop]
        matches = [(begin + len(stop), begin) for begin, stop in starts if begin >= 0]
        if matches:
            self.text = self.text[: min(matches)[1]]
            self.stopped = True
            return self._emit(len(self.text))
        return self._emit(len(self.text) - self._held())

    def _held(self) -> int:
        """Characters at the end that may begin a stop text."""
        tail = self.text[-self._max_stop :] if self._max_stop else ""
        return max(
            (n for stop in self._stop for n in range(1, min(len(stop), len(tail) + 1)) if tail.endswith(stop[:n])),
            default=0,
        )

    def _emit(self, end: int) -> str:
        piece = self.text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        return piece
