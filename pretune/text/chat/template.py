"""A chat template: writes a conversation as the text that a model reads, as `apply_chat_template` does."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pretune.errors import DataError
from pretune.field_table import shown_value

if TYPE_CHECKING:
    import jinja2

    from pretune.text.chat.environment import ChatEnvironment

MAX_TEMPLATE = 256 << 10
"""Characters of a template: the longest that are published have some tens of thousands."""
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
REASONING = ("reasoning_content", "thinking", "reasoning")
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as text.

    Attributes:
        text: all of it.
        spans: what stands in `{% generation %}`, in characters; empty where the template has none.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()


class ChatTemplate:
    """A template, compiled when it is first used.

    Args:
        source: in the language of Jinja.
        tokens: special tokens by the names that templates use, such as `bos_token`.
        where: the file, or what else it comes from, for messages.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None, where: str = "the chat template") -> None:
        if len(source) > MAX_TEMPLATE:
            raise DataError(
                f"{where}: a chat template of {len(source):,} characters, more than {MAX_TEMPLATE:,}; remove it"
            )
        self.source, self.where, self.tokens = source, where, dict(tokens or {})
        self._lock = threading.Lock()

    @cached_property
    def _environment(self) -> ChatEnvironment:
        from pretune.text.chat.environment import ChatEnvironment

        return ChatEnvironment(datetime.now().astimezone().replace(tzinfo=None))

    @cached_property
    def _compiled(self) -> jinja2.Template:
        check_template(self.source, self.where)
        try:
            return self._environment.from_string(self.source)
        except Exception as error:
            raise self._failure(error) from None

    @cached_property
    def has_generation_tag(self) -> bool:
        """Whether it says itself what an assistant writes."""
        return any(token[1:] == ("block_begin", "generation") for token in self._tags())

    def _tags(self) -> list[tuple[int, str, str]]:
        tokens = [token for token in self._environment.lex(self.source) if token[1] != "whitespace"]
        return [(a[0], a[1], b[2]) for a, b in pairwise(tokens)]

    def render(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: object,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: with `role` and `content`, and what else the template reads.
            add_generation_prompt: end with what stands before an answer.
            continue_final_message: end where the last message does, so that it can be continued.
            tools: JSON schemas of functions.
            documents: that are to be answered from, with `title` and `text`.
            variables: that the template reads beside these.

        Raises:
            DataError: the template refuses the messages, fails, or costs too much.
        """
        chat = _plain_messages(messages)
        final = ""
        if continue_final_message:
            final = str(chat[-1].get("content") or "")
            chat[-1]["content"] = final + _TAG
        extra = {"tools": tools, "documents": documents, **variables}
        text = self._render(chat, add_generation_prompt, extra)
        return self._cut_at_tag(text, final) if continue_final_message else text

    def render_with_spans(self, messages: Messages, **variables: object) -> RenderedChat:
        """The text of a conversation, and the spans that `{% generation %}` names.

        Raises:
            DataError: as `render`.
        """
        from pretune.text.chat.environment import BEGIN, END

        chat, extra = _plain_messages(messages), {"tools": None, "documents": None} | variables
        text, spans, open_at = "", list[tuple[int, int]](), list[int]()
        for part in re.split(f"([{BEGIN}{END}])", self._render(chat, False, extra, marks_generation=True)):
            if part == BEGIN:
                open_at.append(len(text))
            elif part == END and open_at:
                spans.append((open_at.pop(), len(text)))
            elif part != END:
                text += part
        return RenderedChat(text, tuple(sorted(spans)))

    def _render(
        self,
        chat: list[dict[str, Any]],
        add_generation_prompt: bool,
        variables: Mapping[str, object],
        *,
        marks_generation: bool = False,
    ) -> str:
        values = {name: _plain(value) for name, value in variables.items()}
        fields = {**self.tokens, **values, "messages": chat, "add_generation_prompt": add_generation_prompt}
        with self._lock:
            compiled, environment = self._compiled, self._environment
            with environment.rendering(marks_generation=marks_generation):
                try:
                    return "".join(compiled.generate(fields))
                except Exception as error:
                    raise self._failure(error) from None

    def _failure(self, error: Exception) -> DataError:
        """What went wrong in a template, for the user."""
        from pretune.text.chat.environment import TemplateRefusalError

        line = _line_of(error)
        at = f"{self.where}{f', line {line}' if line else ''}"
        if isinstance(error, TemplateRefusalError):
            return DataError(f"{at}: the chat template refuses the messages: {error}; change the messages")
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if isinstance(error, RecursionError):
            reason = "it is nested too deep"
        return DataError(
            f"{at}: the chat template fails: {reason[:400]}; correct it, or use another one, such as chatml"
        )

    def _cut_at_tag(self, text: str, final: str) -> str:
        tag = _TAG.strip()
        if final.strip() not in text or tag not in text:
            raise DataError(
                f"{self.where}: the chat template does not write the last message as it is, so that it cannot be "
                "continued; let the user speak last"
            )
        end = text.rindex(tag)
        return text[:end] if text[end : end + len(_TAG)] == _TAG else text[:end].rstrip()


def check_template(source: str, where: str) -> None:
    """Parses a template.

    Raises:
        DataError: it is too long or does not parse, with its line and the remedy.
    """
    import jinja2

    from pretune.text.chat.environment import ChatEnvironment

    if len(source) > MAX_TEMPLATE:
        raise DataError(
            f"{where}: a chat template of {len(source):,} characters, more than {MAX_TEMPLATE:,}; remove it"
        )
    try:
        ChatEnvironment(datetime.min).parse(source)
    except jinja2.TemplateSyntaxError as error:
        line = source.splitlines()[error.lineno - 1 : error.lineno]
        raise DataError(
            f"{where}: the chat template does not parse: line {error.lineno}, {shown_value(*line or [''])}: "
            f"{error.message}; correct it, or remove it"
        ) from None
    except RecursionError:
        raise DataError(f"{where}: the chat template is nested too deep; correct it, or remove it") from None


def _line_of(error: Exception) -> int:
    """The line of a template at which it failed; 0 where that is not known."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _plain_messages(messages: Messages) -> list[dict[str, Any]]:
    """Messages as plain values; a field without a value is left out, as many templates write "None" for it."""
    chat = []
    for message in messages:
        fields = {str(name): _plain(value) for name, value in message.items() if value is not None}
        reasoning = next((fields[name] for name in REASONING if name in fields), None)
        if reasoning is not None:
            fields = {"thinking": reasoning, **fields, "reasoning_content": reasoning}
        chat.append(fields)
    return chat


def _plain(value: object) -> Any:
    """A value as JSON has it, so that a template finds no method that does something."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    if isinstance(value, Mapping):
        return {_plain(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else list(map(_plain, value))
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return f"<{type(value).__name__}>"
