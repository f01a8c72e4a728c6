"""Conversations as tokens: which are learned, what is left out of one that is too long, and what ends an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pretune.errors import DataError
from pretune.text.chat.turns import AnswerFinder, token_spans
from pretune.text.samples.rows import Flags, Ints
from pretune.text.tokenizer.tokenizer import Tokenizer

Turns = list[dict[str, Any]]


@dataclass(frozen=True)
class ChatTokens:
    """A conversation as tokens.

    Attributes:
        tokens: (n,) of all that is read.
        mask: (n,) which of them are learned.
        longest: tokens of the longest answer.
        cut: tokens that were left out.
        turns_cut: messages that were left out.
        straddling: how many answers begin inside a token.
        is_broken: no answer is left whole, with the mark that ends it.
    """

    tokens: Ints
    mask: Flags
    longest: int
    cut: int = 0
    turns_cut: int = 0
    straddling: int = 0
    is_broken: bool = False

    @property
    def size(self) -> int:
        """Tokens of the whole conversation."""
        return len(self.tokens) + self.cut


class ChatEncoder:
    """Encodes conversations, each as one text.

    Args:
        finder: writes them, and finds their answers.
        tokenizer: of the model.
    """

    def __init__(self, finder: AnswerFinder, tokenizer: Tokenizer) -> None:
        self._finder, self._tokenizer = finder, tokenizer

    def learned(
        self, messages: Turns, length: int, where: object, *, may_cut: bool, tools: Turns | None = None
    ) -> ChatTokens:
        """A conversation whose answers are known; of one that is too long the first turns are left out, whole ones.

        Args:
            length: tokens at most.
            where: the record, for messages.
            may_cut: False where a conversation that is too long is an error.
            tools: JSON schemas of functions, for templates that write them.

        Raises:
            DataError: a template that does not fit the messages; too long where that is an error.
        """
        return self._fit(messages, length, where, may_cut, lambda turns: self._learned(turns, where, tools))

    def prompt(
        self, messages: Turns, length: int, where: object, *, may_cut: bool, tools: Turns | None = None
    ) -> ChatTokens:
        """A conversation whose last message is to be answered.

        Raises:
            DataError: as `learned`.
        """
        return self._fit(messages, length, where, may_cut, lambda turns: self._prompt(turns, where, tools))

    def _fit(
        self, messages: Turns, length: int, where: object, may_cut: bool, encode: Callable[[Turns], ChatTokens]
    ) -> ChatTokens:
        whole = encode(messages)
        if len(whole.tokens) <= length:
            return whole
        if not may_cut:
            raise DataError(
                f"{where}: a conversation of {len(whole.tokens)} tokens, more than the {length} that fit; raise the "
                "length, shorten it, or set truncate to tail, which leaves its first turns out"
            )
        system = messages[:1] if messages[0]["role"] == "system" else []
        starts = [n for n, message in enumerate(messages) if message["role"] == "user" and n > len(system)]
        last = whole
        for start in starts:
            if start > _last_answered(messages):
                break
            last = encode([*system, *messages[start:]])
            if len(last.tokens) <= length:
                return _cut(last, whole, start - len(system))
        shorter = _shortened(last, length)
        return _cut(shorter, whole, len(messages) - len(system) - 2)

    def _learned(self, messages: Turns, where: object, tools: Turns | None) -> ChatTokens:
        chat = self._finder.find(messages, where, tools)
        (encoded,) = self._tokenizer.encode_kept([chat.text], None, allow_special=True)
        spans = token_spans(encoded.offsets, chat.answers)
        if not spans.mask.any():
            raise DataError(f"{where}: the tokenizer gives no token for the answers; remove the record")
        longest = int((spans.bounds[:, 1] - spans.bounds[:, 0]).max())
        return ChatTokens(encoded.tokens, spans.mask, longest, straddling=spans.straddling)

    def _prompt(self, messages: Turns, where: object, tools: Turns | None) -> ChatTokens:
        tokens = self._tokenizer.encode(self._finder.prompt(messages, where, tools), allow_special=True)
        return ChatTokens(tokens, np.zeros(len(tokens), np.bool_), 0)


def _last_answered(messages: Turns) -> int:
    """The number of the last user's message that has an answer, or of the last one, where none has."""
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    before = answers[-1] if answers and messages[-1]["role"] == "assistant" else len(messages)
    return max((n for n in range(before) if messages[n]["role"] == "user"), default=0)


def _cut(shorter: ChatTokens, whole: ChatTokens, turns: int) -> ChatTokens:
    cut = max(0, len(whole.tokens) - len(shorter.tokens))
    return replace(shorter, cut=cut, turns_cut=max(turns, 0))


def _shortened(chat: ChatTokens, length: int) -> ChatTokens:
    """A single exchange that is too long: the end of what is asked, and the answer, or as much of it as fits."""
    first = int(chat.mask.argmax()) if chat.mask.any() else len(chat.tokens)
    answer = len(chat.tokens) - first
    asked = min(first, max(length - answer, length // 4, 1))
    kept = slice(first - asked, first - asked + length)
    tokens, mask = chat.tokens[kept], chat.mask[kept]
    has_end = kept.stop >= len(chat.tokens) or bool((mask[:-1] & ~mask[1:]).any())
    return ChatTokens(tokens, mask, min(chat.longest, length), is_broken=not has_end)


def message_field(messages: Sequence[Mapping[str, Any]], role: str) -> str:
    """The text of the last message of a role; empty where there is none."""
    return next((str(m.get("content") or "") for m in reversed(messages) if m.get("role") == role), "")
