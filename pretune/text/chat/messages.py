"""Conversations as lists of messages: read from the forms in which they are published, and checked.

{"messages": [{"role": "user", "content": "Hi"}, ...]}                  as chat software has them
{"conversations": [{"from": "human", "value": "Hi"}, ...]}              ShareGPT
{"messages": [{"message": "Hi"}, {"message": "Hello"}, ...]}            KdConv: speakers take turns, the user first
{"instruction": "...", "input": "...", "output": "..."}                 Alpaca: one question and its answer
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pretune.errors import DataError
from pretune.text.readers.records import Record, describe, is_missing, not_text

Message = dict[str, Any]
ROLES: Final = ("system", "user", "assistant", "tool")
ALTERNATIVES: Final = ("messages", "conversations", "conversation", "instruction")
"""Fields of which a record of a conversation has one."""
_SPEAKERS = {
    **{name: name for name in ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def read_messages(record: Record, field: str = "messages") -> list[Message]:
    """The messages of a record, in whichever form it has them; see the module.

    Args:
        field: that holds the list; where it is missing, another usual one is read.

    Raises:
        DataError: no such field, a message without content, an unknown role: place, field, value and remedy.
    """
    known = [name for name in (field, *ALTERNATIVES) if not is_missing(record.get(name))]
    name = next(iter(known), field)
    if name == "instruction" and name != field:
        return _alpaca(record)
    if name not in record:
        raise record.missing(field, "columns.messages")
    items = record.items_of(name, record[name])
    if not items:
        what = "is an empty list" if items == [] else f"holds {describe(record[name])}, not a list of messages"
        raise record.error(f"field {name!r} {what}", "fix or remove the record")
    messages = [_message(record, f"{name}[{n}]", item, n) for n, item in enumerate(items)]
    if name != "messages" and isinstance(system := record.get("system"), str) and system.strip():
        messages = [{"role": "system", "content": system}, *messages]
    return messages


def read_tools(record: Record) -> list[dict[str, Any]] | None:
    """The JSON schemas of functions that a record has in its field `tools`; None where it has none.

    Raises:
        DataError: something else than a list of objects.
    """
    value = record.get("tools")
    if is_missing(value) or value == "":
        return None
    items = record.items_of("tools", value)
    if items is None or not all(isinstance(item, dict) for item in items):
        raise record.error(f"field 'tools' holds {describe(value)}, not a list of objects", "fix or remove the field")
    return [dict(item) for item in items if isinstance(item, dict)] or None


def _message(record: Record, where: str, item: object, number: int) -> Message:
    """A message of a list."""
    if not isinstance(item, Mapping):
        raise record.error(f"field {where!r} holds {describe(item)}, not a message", "write an object with its role")
    if "from" in item and "role" not in item:
        return {"role": _role(record, f"{where}.from", item["from"]), "content": _text(record, where, item, "value")}
    if "message" in item and "role" not in item:
        return {"role": ("user", "assistant")[number % 2], "content": _text(record, where, item, "message")}
    if "role" not in item:
        raise record.error(f"field {where!r} has no role", f"write one of {', '.join(ROLES)}")
    role = _role(record, f"{where}.role", item["role"])
    others = {str(key): value for key, value in item.items() if key not in ("role", "content") and value is not None}
    if "tool_calls" in others and not isinstance(others["tool_calls"], list):
        raise record.error(
            f"field '{where}.tool_calls' holds {describe(others['tool_calls'])}, not a list", "fix or remove the field"
        )
    if item.get("content") is None and role == "assistant" and others.get("tool_calls"):
        return {"role": role, **others}
    return {"role": role, "content": _text(record, where, item, "content"), **others}


def _role(record: Record, where: str, value: object) -> str:
    role = _SPEAKERS.get(value.lower()) if isinstance(value, str) else None
    if role is None:
        raise record.error(
            f"field {where!r} = {json.dumps(value, ensure_ascii=False, default=str)[:40]} is no known role",
            f"write one of {', '.join(ROLES)}",
        )
    return role


def _text(record: Record, where: str, item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if value is None:
        raise record.error(f"field {where!r} has no {key}", "fill it in, or remove the message")
    if isinstance(value, list):
        raise record.error(
            f"field '{where}.{key}' holds a list of parts, not text", "write its text alone; images are not read"
        )
    if problem := not_text(record.origin.source, record.origin.row, f"{where}.{key}", value):
        raise record.error(problem.reason, problem.remedy)
    text: str = value
    if record.max_bytes is not None and len(text.encode()) > record.max_bytes:
        raise record.error(f"message longer than {record.max_bytes} bytes", "split it, or raise --max-document-bytes")
    return text


def _alpaca(record: Record) -> list[Message]:
    """An instruction with its input as the user's message, and the output as the answer."""
    question = record.text("instruction")
    more = record.get("input")
    if isinstance(more, str) and more.strip():
        question = f"{question}\n\n{more}"
    messages: list[Message] = []
    if isinstance(system := record.get("system"), str) and system.strip():
        messages.append({"role": "system", "content": system})
    messages.append({"role": "user", "content": question})
    if not is_missing(record.get("output")):
        messages.append({"role": "assistant", "content": record.text("output")})
    elif record.needs_labels:
        raise record.missing("output")
    return messages


def check_messages(messages: Sequence[Mapping[str, Any]], where: object, *, needs_answer: bool) -> None:
    """Refuses a conversation in which turns are missing or out of order.

    Args:
        where: the record, for messages.
        needs_answer: an answer is learned from; else the next one is to be written, and the user speaks last.

    Raises:
        DataError: with the number of the message, from 1, and the remedy.
    """
    before = ""
    for number, message in enumerate(messages, 1):
        role = message.get("role")
        if role not in ROLES:
            raise DataError(f"{where}: message {number}: unknown role {role!r}; write one of {', '.join(ROLES)}")
        content = message.get("content")
        if content is None and not (role == "assistant" and message.get("tool_calls")):
            raise DataError(f"{where}: message {number} ({role}) has no content; fill it in, or remove the message")
        if content is not None and not isinstance(content, str):
            raise DataError(f"{where}: message {number} ({role}): its content is {describe(content)}; write a text")
        if role == "user" and not str(content).strip():
            raise DataError(f"{where}: message {number} (user) is empty; fill it in, or remove the conversation")
        if needs_answer and role == "assistant" and not (str(content or "").strip() or message.get("tool_calls")):
            raise DataError(
                f"{where}: message {number} (assistant) is empty, from which a model learns to answer nothing; fill it "
                "in, or remove the conversation"
            )
        if problem := _misplaced(str(role), before, number):
            raise DataError(f"{where}: message {number}: {problem}")
        before = str(role)
    if needs_answer and not any(message.get("role") == "assistant" for message in messages):
        raise DataError(f"{where}: no message is the assistant's, so that nothing can be learned; remove the record")
    if not needs_answer and before not in ("user", "tool"):
        raise DataError(f"{where}: the last message is not the user's; end with what is to be answered")


def _misplaced(role: str, before: str, number: int) -> str | None:
    """What is wrong with a role behind another one."""
    if role == "system" and number > 1:
        return "a system message stands first or not at all; move it there"
    if role == "user" and before == "user":
        return "two user turns in a row; join them, or fill in the answer between them"
    if role == "assistant" and before == "assistant":
        return "two assistant turns in a row; join them, or fill in what the user said between them"
    if role == "assistant" and before not in ("user", "tool"):
        return "the assistant speaks before the user; begin with a user turn"
    if role == "tool" and before not in ("assistant", "tool"):
        return "a tool answers where the assistant did not call it; put it behind the call"
    return None
