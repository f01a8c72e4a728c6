"""Finds what an assistant writes in the text of a conversation, by writing what comes before each answer.

    render(messages[:i], add_generation_prompt) = what the model reads before answer i
    render(messages[:i + 1])                    = the same, the answer and the mark that ends it

The first must be the beginning of the second, and the second that of the whole text: else a model would learn to go on
with another text than the one that it reads in use, and the template is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError
from pretune.text.chat.template import REASONING, ChatTemplate, Messages

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
T = TypeVar("T")
Which = Literal["all", "last"]
_TAG = "PRETUNEENDOFANSWER"
_PROBE = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


@dataclass(frozen=True)
class AnswerSpan:
    """Where an answer stands in a text, with the mark that ends it.

    Attributes:
        message: number of the message, from 0.
        start, end: in characters; the end is behind the mark.
        mark: what ends the answer; empty where the template writes nothing there.
    """

    message: int
    start: int
    end: int
    mark: str


@dataclass(frozen=True)
class ChatText:
    """A conversation as text.

    Attributes:
        text: as the template writes it.
        answers: those that are learned, in their order.
    """

    text: str
    answers: tuple[AnswerSpan, ...]


class AnswerFinder:
    """Finds the answers of conversations that one template writes.

    Args:
        template: of the model.
        marks: special tokens of the tokenizer, as text; the first of them behind an answer ends it.
        which: the answers of all turns, or that of the last one alone.
    """

    def __init__(self, template: ChatTemplate, marks: Collection[str], which: Which = "all") -> None:
        self._template, self._which = template, which
        self._marks = sorted({*marks, template.tokens.get("eos_token", "")} - {""}, key=len, reverse=True)
        self._tails: set[str] = set()

    def prompt(
        self,
        messages: Messages,
        where: object = "the conversation",
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """What a model reads before it answers the last message.

        Args:
            where: the record, for messages.
            tools: JSON schemas of functions, for templates that write them.

        Raises:
            DataError: the template refuses the messages, fails, or leaves one out.
        """
        text = _Source(self._template, where, tools).render(messages, asks=True)
        self._check_contents(text, messages, where)
        self._check_tools(text, where, tools)
        return text

    def find(
        self,
        messages: Messages,
        where: object = "the conversation",
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> ChatText:
        """The text of a conversation and its answers.

        Args:
            where: the record, for messages.
            tools: JSON schemas of functions, for templates that write them.

        Raises:
            DataError: the template refuses the messages, fails, leaves one out, or is not stable under prefixes: with
                the number of the message and the first characters that differ.
        """
        source = _Source(self._template, where, tools)
        text = source.render(messages)
        self._check_contents(text, messages, where)
        self._check_tools(text, where, tools)
        numbers = [n for n, message in enumerate(messages) if message.get("role") == "assistant"]
        chosen = numbers if self._which == "all" else numbers[-1:]
        answers = [self._answer(messages, number, text, source) for number in chosen]
        if self._template.has_generation_tag:
            self._check_tags(messages, text, answers, source)
        return ChatText(text, tuple(answers))

    @cached_property
    def end_mark(self) -> str:
        """What the template writes behind an answer to end it; empty where it writes nothing, or refuses a bare one."""
        try:
            (answer,) = self.find(_PROBE).answers
        except DataError:
            return ""  # the messages will say what is wrong
        return answer.mark

    def _answer(self, messages: Messages, number: int, text: str, source: _Source) -> AnswerSpan:
        """The answer of a message, in the text of all."""
        prompt = source.render(messages[:number], asks=True)
        turn = source.render(messages[: number + 1]) if number + 1 < len(messages) else text
        where = source.where
        self._check_prefix(turn, text, number, where, "what it writes up to this message changes when others follow")
        self._check_prefix(prompt, turn, number, where, "what it writes before an answer is not what it asks one with")
        end, mark = self._end(messages, number, turn, len(prompt), source)
        return AnswerSpan(number, len(prompt), end, mark)

    def _check_contents(self, text: str, messages: Messages, where: object) -> None:
        """Refuses a template that leaves a message out, and text that would be read as a mark of the template."""
        for number, message in enumerate(messages, 1):
            content, role = str(message.get("content") or ""), message.get("role")
            if content.strip() not in text:
                what = "has no place for it" if role == "system" else "does not write it as it is"
                raise DataError(
                    f"{where}: message {number} ({role}): {self._template.where} {what}; leave the message out, or use "
                    "another template (task.chat.template)"
                )
            for field in REASONING:
                reasoning = message.get(field)
                if isinstance(reasoning, str) and reasoning.strip() not in text:
                    raise DataError(
                        f"{where}: message {number} ({role}): {self._template.where} does not write its {field}; leave "
                        "the field out, or use a template that does"
                    )
            for call in message.get("tool_calls") or ():
                name = str((call.get("function") or call).get("name", "")) if isinstance(call, Mapping) else ""
                if not name or name not in text:
                    raise DataError(
                        f"{where}: message {number} ({role}): {self._template.where} does not write its tool calls; "
                        "leave the conversation out, or use a template that does"
                    )
            self._check_marks(content, f"{where}: message {number} ({role}): its text")
            for field in (*REASONING, "tool_calls", "name"):
                self._check_marks(message.get(field), f"{where}: message {number} ({role}): its {field}")

    def _check_marks(self, value: object, what: str) -> None:
        """Refuses text, wherever it stands in a value, that would be read as a mark of the template."""
        text = "\n".join(_texts_in(value))
        mark = next((mark for mark in self._marks if mark in text), None)
        if mark is not None:
            raise DataError(
                f"{what} holds {mark!r}, a special token that the model would read as the template's own; remove it "
                "from the text"
            )

    def _check_tools(self, text: str, where: object, tools: Sequence[Mapping[str, Any]] | None) -> None:
        """Refuses a template that leaves tools out."""
        for tool in tools or ():
            name = str((tool.get("function") or tool).get("name", ""))
            self._check_marks(tool, f"{where}: the tool {name[:40]!r}")
            if not name or name not in text:
                raise DataError(
                    f"{where}: {self._template.where} does not write the tool {name!r}; leave tools out, or use a "
                    "template that does"
                )

    def _check_prefix(self, prefix: str, whole: str, number: int, where: object, what: str) -> None:
        if whole.startswith(prefix):
            return
        last = "train on the last answers alone (task.chat.turns last), or " if self._which == "all" else ""
        at = next(
            (n for n, (a, b) in enumerate(zip(prefix, whole, strict=False)) if a != b), min(len(prefix), len(whole))
        )
        raise DataError(
            f"{where}: message {number + 1} (assistant): {self._template.where} is not stable: {what}, at character "
            f"{at + 1}: {prefix[at : at + 24]!r} against {whole[at : at + 24]!r}; {last}use another template "
            "(task.chat.template)"
        )

    def _end(self, messages: Messages, number: int, turn: str, start: int, source: _Source) -> tuple[int, str]:
        """Where an answer ends with its mark, and the mark."""
        tail = next((tail for tail in self._tails if self._fits(tail, messages[number], turn, start)), None)
        if tail is None:
            tail = self._tail(messages[: number + 1], source)
            if not turn.endswith(tail) or len(turn) - len(tail) < start:
                tail = ""
            elif messages[number].get("content"):
                self._tails.add(tail)
        mark = self._mark(tail)
        return len(turn) - len(tail) + len(mark), mark

    def _fits(self, tail: str, message: Mapping[str, Any], turn: str, start: int) -> bool:
        """Whether a tail that is known stands right behind the content here too."""
        content = str(message.get("content") or "")
        body = turn[start : len(turn) - len(tail)]
        return turn.endswith(tail) and bool(content.strip()) and body.strip() == content.strip()

    def _tail(self, messages: Messages, source: _Source) -> str:
        """What a template writes behind an answer."""
        last = {**messages[-1], "content": str(messages[-1].get("content") or "") + _TAG}
        text = source.render([*messages[:-1], last])
        _, tag, tail = text.rpartition(_TAG)
        return tail if tag else ""

    def _mark(self, tail: str) -> str:
        """What of a tail ends an answer: up to its first special token, else all but white space at its end."""
        places = [(tail.find(mark), -len(mark)) for mark in self._marks if mark in tail]
        if places:
            at, size = min(places)
            return tail[: at - size]
        return tail.rstrip() or tail

    def _check_tags(self, messages: Messages, text: str, answers: Sequence[AnswerSpan], source: _Source) -> None:
        """Refuses a template whose `{% generation %}` names other text than the answers."""
        spans = source.tagged_spans(messages)
        if self._which == "last":
            spans = spans[-1:]
        tagged = [text[start:end].strip() for start, end in spans]
        own = [text[answer.start : answer.end].strip() for answer in answers]
        if tagged == own:
            return
        differing = next(
            (n for n, (a, b) in enumerate(zip(tagged, own, strict=False)) if a != b), min(len(tagged), len(own))
        )
        number = answers[differing].message + 1 if differing < len(answers) else len(messages)
        raise DataError(
            f"{source.where}: message {number} (assistant): the block generation of {self._template.where} holds "
            f"{_shown(tagged, differing)}, and the answer with the mark that ends it is {_shown(own, differing)}; "
            "correct the block, or remove it"
        )


def _texts_in(value: object) -> Iterator[str]:
    """The texts of a value as JSON has it, keys of objects too."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, Sequence) and not isinstance(item, bytes):
            waiting += item


def _shown(texts: Sequence[str], number: int) -> str:
    return repr(texts[number][-40:]) if number < len(texts) else "nothing"


@dataclass(frozen=True)
class _Source:
    """A template with what is the same for all renderings of a record.

    Attributes:
        where: the record, for messages.
        tools: that the template writes, too.
    """

    template: ChatTemplate
    where: object
    tools: Sequence[Mapping[str, Any]] | None

    def render(self, messages: Messages, *, asks: bool = False) -> str:
        """The text of messages, with what asks for an answer where `asks` says so."""
        return self._named(lambda: self.template.render(messages, add_generation_prompt=asks, tools=self.tools))

    def tagged_spans(self, messages: Messages) -> tuple[tuple[int, int], ...]:
        """What stands in `{% generation %}`."""
        return self._named(lambda: self.template.render_with_spans(messages, tools=self.tools)).spans

    def _named(self, render: Callable[[], T]) -> T:
        """What a template gives, with the record in its errors."""
        try:
            return render()
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from None


@dataclass(frozen=True)
class TokenSpans:
    """The tokens of some answers.

    Attributes:
        mask: (n,) whether a token is learned.
        bounds: (answers, 2) the first token of each and the one behind its last.
        straddling: how many answers begin inside a token, which in use is read before the answer begins.
    """

    mask: Flags
    bounds: Ints
    straddling: int


def token_spans(offsets: Ints, answers: Sequence[AnswerSpan]) -> TokenSpans:
    """Which tokens of a text are those of answers: all that have a character of one.

    Args:
        offsets: where each token lies, without white space before it.

    Shape:
        offsets: (n, 2)
    """
    ends = offsets[:, 1]
    before = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]]) if len(ends) else ends
    starts = np.minimum(offsets[:, 0], before)  # white space before a token is a part of it
    mask = np.zeros(len(offsets), np.bool_)
    bounds, straddling = [], 0
    for answer in answers:
        inside = np.flatnonzero((ends > answer.start) & (starts < answer.end))
        mask[inside] = True
        first, last = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)
        straddling += bool(len(inside)) and bool(starts[first] < answer.start)
        bounds.append((first, last))
    return TokenSpans(mask, np.array(bounds, np.int64).reshape(-1, 2), straddling)
