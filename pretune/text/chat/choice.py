"""Which chat template a model uses: one of its own files, or a variant of `text/chat/formats`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretune.errors import DataError, MissingInputError, UsageError
from pretune.find import find, variants
from pretune.text.chat.template import MAX_TEMPLATE, ChatTemplate
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.vocabulary import ROLES

AXIS = "text.chat.formats"
FIELD, FILE, FOLDER = "chat_template", "chat_template.jinja", "additional_chat_templates"
DEFAULT = "default"


@dataclass(frozen=True)
class ChatFormat:
    """A template for models that have none.

    Attributes:
        source: in the language of Jinja.
        marks: the special tokens that it writes beside those that the tokenizer has by role.
        where: the file, for messages.
    """

    source: str
    marks: tuple[str, ...]
    where: str

    def with_tokens(self, tokenizer: Tokenizer) -> ChatTemplate:
        """The template with the special tokens of a tokenizer."""
        return ChatTemplate(self.source, role_tokens(tokenizer), self.where)


def find_format(name: str) -> ChatFormat:
    """A template by the name of its file in `text/chat/formats`, or a user's own: a `.jinja` or a `.py` file.

    Raises:
        UsageError: no such template, or a file that is none.
        MissingInputError: no such file.
        DataError: a file that is not UTF-8, or too long.
    """
    if name.endswith(".jinja"):
        path = Path(name)
        if not path.is_file():
            raise MissingInputError(f"{path}: no such file; name a template file, or one of {', '.join(formats())}")
        if path.stat().st_size > 4 * MAX_TEMPLATE:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes are too many for a chat template; shorten it")
        try:
            return ChatFormat(path.read_text("utf-8"), (), str(path))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8: {error}; correct it") from None
    module = find(AXIS, name)
    source, marks = getattr(module, "TEMPLATE", None), getattr(module, "MARKS", ())
    if not isinstance(source, str) or not all(isinstance(mark, str) for mark in marks):
        raise UsageError(f"{name}: must define TEMPLATE, a text, and may define MARKS, a tuple of special tokens")
    return ChatFormat(source, tuple(marks), f"the chat template {name!r}")


def formats() -> list[str]:
    """The names of the templates."""
    return variants(AXIS)


def role_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens of a tokenizer, by the names that templates use."""
    ids = {role: getattr(tokenizer.vocabulary, role) for role in ROLES}
    return {f"{role}_token": tokenizer.token(number) for role, number in ids.items() if number is not None}


def special_marks(tokenizer: Tokenizer) -> list[str]:
    """The special tokens of a tokenizer as text: none of them may stand in a message, and the first ends an answer."""
    vocabulary = tokenizer.vocabulary
    return [tokenizer.token(number) for number in np.flatnonzero(vocabulary.special).tolist()]


def end_of_turn(mark: str, tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """What ends an answer when a model writes it: a special token, or, where the template writes none, a text.

    Args:
        mark: as `AnswerFinder.end_mark` says.
    """
    tokens = tokenizer.encode(mark, allow_special=True).tolist()
    special = [token for token in tokens if tokenizer.vocabulary.special[token]]
    return (tuple(special[:1]), ()) if special else ((), (mark.strip() or mark,) if mark else ())


def find_chat_template(
    tokenizer: Tokenizer, files: Mapping[str, bytes], name: str | None = None, where: str = ""
) -> ChatTemplate | None:
    """The template of a model's own files; None where it has none.

    Args:
        tokenizer: whose tokenizer_config.json, or the GGUF file that it is of, may hold templates.
        files: that are handed on with the model, by name: `chat_template.jinja` goes before the others.
        name: which of several, such as `tool_use`; by default that called "default".
        where: the model, for messages.

    Raises:
        UsageError: none of that name, or several without a name and none that is the default.
        DataError: one that is no text.
    """
    lead = f"{where}: " if where else ""
    named = dict(_named_templates(tokenizer.settings.get(FIELD), files))
    if not named:
        return None
    chosen = name or DEFAULT
    if chosen not in named:
        if name is None and len(named) == 1:
            (chosen,) = named
        else:
            raise UsageError(f"{lead}no chat template is called {chosen!r}; name one of {', '.join(sorted(named))}")
    source, field = named[chosen]
    return ChatTemplate(source, role_tokens(tokenizer), f"{lead}the model's chat template ({field})")


def _named_templates(field: Any, files: Mapping[str, bytes]) -> Iterator[tuple[str, tuple[str, str]]]:
    """The templates by name, each with its place; those that count come last."""
    if isinstance(field, str):
        yield DEFAULT, (field, f"field {FIELD!r}")
    entries = field.items() if isinstance(field, Mapping) else enumerate(field) if isinstance(field, list) else ()
    for key, entry in entries:
        name = entry.get("name") if isinstance(entry, Mapping) else key
        source = entry.get("template") if isinstance(entry, Mapping) else entry
        if not isinstance(name, str) or not isinstance(source, str):
            raise DataError(f"field '{FIELD}[{key}]' needs a name and a template, both texts; correct it")
        yield name, (source, f"field '{FIELD}[{name}]'")
    for path, content in sorted(files.items()):
        is_main = path == FILE
        if is_main or (path.startswith(f"{FOLDER}/") and path.endswith(".jinja")):
            try:
                yield DEFAULT if is_main else Path(path).stem, (content.decode("utf-8"), path)
            except UnicodeDecodeError as error:
                raise DataError(f"{path}: not UTF-8: {error}; correct it, or remove it") from None
