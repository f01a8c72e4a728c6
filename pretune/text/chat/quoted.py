"""Tells the special tokens that a chat template writes from those whose names stand in a message."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from pretune.text.chat.template import ChatTemplate

_BEGIN, _END = "\ufdd2", "\ufdd3"  # characters that no text has: Unicode keeps them free for such use


class TemplateText(NamedTuple):
    """What a template writes.

    Attributes:
        text: with the messages as they are.
        special: where its own special tokens stand, in characters.
    """

    text: str
    special: tuple[tuple[int, int], ...]


def render_quoted(
    template: ChatTemplate, messages: Sequence[Mapping[str, str]], marks: Collection[str]
) -> TemplateText:
    """A conversation up to the answer, in which names of special tokens in a message are text.

    Args:
        marks: the special tokens of the tokenizer, as text.

    Raises:
        DataError: the template refuses it, or fails.
    """
    names = sorted({*marks} - {""}, key=len, reverse=True)
    written = "|".join(map(re.escape, names)) or "(?!)"
    number = {name: f"{_BEGIN}{n}{_END}" for n, name in enumerate(names)}

    def quote(content: str) -> str:
        return re.sub(written, lambda found: number[found[0]], content)

    chat = [{**message, "content": quote(message["content"])} for message in messages]
    text, special, at = "", [], 0
    rendered = template.render(chat, add_generation_prompt=True)
    for match in re.finditer(f"{_BEGIN}(\\d+){_END}|{written}", rendered):
        text += rendered[at : match.start()]
        start, at = len(text), match.end()
        is_quoted = match[1] is not None and int(match[1]) < len(names)
        text += names[int(match[1])] if is_quoted else match[0]
        if match[1] is None:
            special.append((start, len(text)))
    return TemplateText(text + rendered[at:], tuple(special))
