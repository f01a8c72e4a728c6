"""Keeps names of special tokens that stand in a text apart from the tokens.

A copy of the backend has strings that no text contains in the place of the names, so that neither the search for added
tokens nor the model's own subwords can find them. What a template writes is renamed in the text too, and so is found.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from re import DOTALL, compile
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from pretune.errors import DataError
from pretune.field_table import shown_value
from pretune.text.tokenizer.library import library_errors
from pretune.text.tokenizer.vocabulary import ROLES, Vocabulary, is_byte_level

Spans = NDArray[np.int64]
SpecialSpans = Sequence[tuple[int, int]]
"""Where the names of special tokens stand in a text, in characters, in their order."""

_CHAT_MARK = compile(r"<\|.*\|>", DOTALL)


def hidden_tokens(layout: Mapping[str, Any], vocabulary: Vocabulary) -> list[str]:
    """The special tokens that no text draws: those of a role, of a template or of a chat, and sentinels."""
    template = {token for parts in vocabulary.templates for tokens, _ in parts for token in tokens or ()}
    ids = {*template, *vocabulary.sentinels, *(getattr(vocabulary, role) for role in ROLES)}
    special = [token for token in layout["added_tokens"] if token["special"]]
    return [t["content"] for t in special if t["id"] in ids or _CHAT_MARK.fullmatch(t["content"])]


def plain_backend(layout: Mapping[str, Any], hidden: Collection[str]) -> tokenizers.Tokenizer:
    """A copy of a tokenizer from which no text draws the tokens of some names; other special tokens are ordinary ones.

    Raises:
        DataError: the names cannot be kept apart from text.
    """
    backend = _renamed(layout, _new_names(hidden))
    backend.encode_special_tokens = True
    return backend


def _new_names(names: Collection[str]) -> dict[str, str]:
    return {name: secrets.token_hex(16) for name in names}


def _renamed(layout: Mapping[str, Any], names: Mapping[str, str]) -> tokenizers.Tokenizer:
    """A copy of a tokenizer in which special tokens have new names everywhere; ids stay as they are.

    Raises:
        DataError: the names cannot be kept apart from text.
    """
    model = dict(layout["model"])
    vocab = model["vocab"]
    if isinstance(vocab, Mapping):
        model["vocab"] = {names.get(subword, subword): i for subword, i in vocab.items()}
    else:
        model["vocab"] = [[names.get(subword, subword), score] for subword, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    trim = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    copy = {
        **layout,
        "added_tokens": [
            {**t, "content": names.get(t["content"], t["content"]), "special": t["content"] in names}
            for t in layout["added_tokens"]
        ],
        "post_processor": trim if is_byte_level(layout) else None,
        "model": model,
    }
    with library_errors(f"the special tokens {shown_value(sorted(names))} cannot be kept apart from text"):
        backend = tokenizers.Tokenizer.from_str(json.dumps(copy))
    for old, new in names.items():
        if backend.token_to_id(new) is None:
            raise DataError(f"special token {old!r} cannot be kept apart from text")
    return backend


@dataclass(frozen=True)
class TemplatedText:
    """Encodes texts in which only a template's special tokens are tokens.

    Attributes:
        backend: it finds special tokens by their new names.
        names: the new name of each.
    """

    backend: tokenizers.Tokenizer
    names: Mapping[str, str]

    @classmethod
    def of(cls, layout: Mapping[str, Any]) -> TemplatedText:
        """Of the special tokens of a tokenizer.

        Raises:
            DataError: their names cannot be kept apart from text.
        """
        names = _new_names([token["content"] for token in layout["added_tokens"] if token["special"]])
        return cls(_renamed(layout, names), names)

    def substitute(self, text: str, special: SpecialSpans) -> tuple[str, Shift]:
        """A text with the new names of the special tokens, and what leads back to its places."""
        parts, at, new, ends, shifts = [], 0, 0, [0], [0]
        for start, end in special:
            name = self.names.get(text[start:end], text[start:end])
            parts += [text[at:start], name]
            new, at = new + start - at + len(name), end
            ends.append(new)
            shifts.append(end - new)
        return "".join([*parts, text[at:]]), Shift(np.array(ends), np.array(shifts))


@dataclass(frozen=True)
class Shift:
    """Leads from the places of a text with new names to those of the text.

    Attributes:
        ends: where each new name ends. Shape: (1 + names,), the first is 0.
        shifts: what is added to a place behind it. Shape: (1 + names,)
    """

    ends: NDArray[np.int64]
    shifts: NDArray[np.int64]

    def restore(self, offsets: Spans) -> Spans:
        """Where tokens lie in the text. Shape: offsets, return: (n, 2)"""
        return offsets + self.shifts[np.searchsorted(self.ends, offsets, side="right") - 1]
