"""Gives a tokenizer a chat template, which is saved with the model for other software, and the tokens that it needs."""

from __future__ import annotations

from collections.abc import Mapping

import tokenizers
from tokenizers import AddedToken

from pretune.errors import UsageError
from pretune.text.chat.choice import DEFAULT, FIELD, find_chat_template, find_format, formats
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import counted


def with_template(tokenizer: Tokenizer, files: Mapping[str, bytes], name: str | None, *, adds: bool) -> Tokenizer:
    """The tokenizer with a chat template in its settings; `notes` say which, and what becomes of its special tokens.

    Args:
        files: of the model, by name, which may hold templates.
        name: of a variant or a `.jinja` file; None for the model's own.
        adds: special tokens of the template that the tokenizer lacks are added, and else spelled as text.

    Raises:
        UsageError: no name, and the model has no template; a template that needs a token that no role has.
        PretuneError: a file that is missing or no template.
    """
    marks: tuple[str, ...] = ()
    if name is None:
        template = find_chat_template(tokenizer, files)
        if template is None:
            raise UsageError(
                "task.chat.template: the model's files have no chat template; name one: "
                f"{', '.join(formats())}, or a .jinja file, such as --task.chat.template chatml"
            )
    else:
        chosen = find_format(name)
        template, marks = chosen.with_tokens(tokenizer), chosen.marks
    lacking = [mark for mark in marks if tokenizer.backend.token_to_id(mark) is None]
    if "eos_token" in template.source and "eos_token" not in template.tokens:
        raise UsageError(
            f"{template.where}: it ends answers with the end token, and the tokenizer has none; use chatml or another "
            "template with marks of its own, or name an eos_token in the tokenizer's files"
        )
    backend = tokenizer.backend
    if lacking and adds:
        backend = tokenizers.Tokenizer.from_str(backend.to_str())
        backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in lacking])
    named = _others(tokenizer.settings.get(FIELD))
    source: object = [{"name": DEFAULT, "template": template.source}, *named] if named else template.source
    fitted = Tokenizer(backend, {**tokenizer.settings, FIELD: source})
    fitted.notes = [*tokenizer.notes, f"conversations are written by {template.where}"]
    if lacking:
        what = ", ".join(lacking)
        fitted.notes.append(
            f"{counted(len(lacking), 'special token')} added to the vocabulary, which grows to "
            f"{fitted.vocabulary.size}: {what}"
            if adds
            else f"the tokenizer lacks {what}, spelled as text now (task.chat.special_tokens add makes them tokens)"
        )
    return fitted


def _others(field: object) -> list[dict[str, str]]:
    """The templates of a tokenizer beside the one that is used by default."""
    entries = field if isinstance(field, list) else []
    return [dict(entry) for entry in entries if isinstance(entry, Mapping) and entry.get("name") != DEFAULT]
