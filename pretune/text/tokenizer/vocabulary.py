"""The vocabulary as a model needs it: size, roles of special tokens, which subwords continue a word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pretune.errors import DataError
from pretune.text.tokenizer.template import Template, bert_templates, read_templates, split_template

Flags = NDArray[np.bool_]
Tokens = NDArray[np.int64]
ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
_WHITESPACE = frozenset(b"\t\n\x0b\x0c\r ")
_WORD_LEAD = {
    *range(0xE3, 0xEA),
    0xEF,
    *range(0xF0, 0xF8),
}  # first UTF-8 byte of Chinese, of full-width signs, of emoji
_HAN = re.compile("[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_SENTINEL = re.compile(r"<extra_id_(\d+)>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Ids and their properties; all that models, objectives and stores need of a tokenizer.

    Attributes:
        size: one more than the largest id.
        pad, unk, cls, sep, mask, bos, eos: ids of the special tokens by role, None where the tokenizer has none.
        special: (size,) ids of special tokens, and the unknown token. Plain text draws none but those without a role,
            such as a user's own marks.
        continuation: (size,) the subword continues the word of the subword before it: "##ing", no "Ġ", no "▁".
            Punctuation and Chinese characters are words of their own.
        sentinels: ids of `<extra_id_0>`, `<extra_id_1>` ..., which stand for what is missing from a text.
        template: what its files put around a text and around a pair; None: `cls` and `sep` where those exist.
    """

    size: int
    pad: int | None
    unk: int | None
    cls: int | None
    sep: int | None
    mask: int | None
    bos: int | None
    eos: int | None
    special: Flags
    continuation: Flags
    sentinels: tuple[int, ...] = ()
    template: tuple[Template, Template] | None = None

    @cached_property
    def templates(self) -> tuple[Template, Template]:
        """What stands around a text, and around a pair."""
        cls, sep = ([] if token is None else [token] for token in (self.cls, self.sep))
        return bert_templates(cls, sep) if self.template is None else self.template

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The special tokens before a text that is no pair."""
        return split_template(self.templates[0])[0]

    @cached_property
    def suffix(self) -> tuple[int, ...]:
        """The special tokens after a text that is no pair."""
        return split_template(self.templates[0])[1]

    @cached_property
    def segments(self) -> list[int]:
        """Of a text of one token and of what stands around it."""
        return list(self.add_special_tokens([0])[1].tolist())

    @property
    def ending(self) -> int | None:
        """The id that ends a text: eos, else sep; None where the tokenizer has neither."""
        return self.sep if self.eos is None else self.eos

    @property
    def end(self) -> int:
        """The id that ends a document in a stream.

        Raises:
            DataError: the tokenizer has none.
        """
        end_id = self.ending
        if end_id is None:
            raise DataError("the tokenizer has no token that ends a document; add eos_token to tokenizer_config.json")
        return end_id

    @property
    def prefix_length(self) -> int:
        """How many special tokens `add_special_tokens` sets before a text."""
        return len(self.prefix)

    @property
    def prompt_prefix(self) -> Tokens:
        """What a causal language model reads before a text: `bos` where the files put it there. Shape: (0 or 1,)."""
        before = self.prefix
        return np.array(before if self.cls is None and before == (self.bos,) else (), np.int64)

    def add_special_tokens(self, first: ArrayLike, second: ArrayLike | None = None) -> tuple[Tokens, Tokens]:
        """One text or a pair as a model reads it: `[CLS] a [SEP] b [SEP]`, or what the files say instead.

        Returns:
            tokens and segments.

        Shape:
            first: (A,); second: (B,) or None; return: two of (A + B + overhead,)
        """
        texts = iter((first,) if second is None else (first, second))
        parts = [
            (np.asarray(next(texts) if tokens is None else tokens, np.int64), segment)
            for tokens, segment in self.templates[second is not None]
        ]
        segments = np.repeat([segment for _, segment in parts], [len(tokens) for tokens, _ in parts])
        return np.concatenate([tokens for tokens, _ in parts]), segments

    def with_end(self, tokens: ArrayLike) -> Tokens:
        """A text as an encoder-decoder reads or writes it: as `add_special_tokens` gives it, with a token that ends it.

        Shape:
            tokens: (n,); return: (n + overhead of a whole text,)
        """
        wrapped, _ = self.add_special_tokens(tokens)
        return wrapped if self.suffix else np.append(wrapped, self.end)

    def add_special_tokens_to_runs(self, tokens: Tokens, sizes: Tokens) -> tuple[Tokens, Tokens]:
        """Many texts, each as `add_special_tokens` lays out one.

        Args:
            tokens: of all texts, end to end.

        Returns:
            tokens end to end, and how many of them each text has.

        Shape:
            tokens: (T,); sizes: (N,), their sum is T; return: (T + N * overhead,), (N,)
        """
        before, after = self.prefix, self.suffix
        lengths = sizes + (len(before) + len(after))
        count, head = len(sizes), len(before)
        out = np.empty(len(tokens) + count * (head + len(after)), np.int64)
        if count and (sizes == sizes[0]).all():
            table, size = out.reshape(count, -1), int(sizes[0])
            table[:, :head], table[:, head + size :] = before, after
            table[:, head : head + size] = tokens.reshape(count, size)
            return out, lengths
        ends = lengths.cumsum()
        shift = ends - lengths + head - (sizes.cumsum() - sizes)
        out[np.arange(len(tokens)) + shift.repeat(sizes)] = tokens
        for n, token in enumerate(before):
            out[ends - lengths + n] = token
        for n, token in enumerate(reversed(after), 1):
            out[ends - n] = token
        return out, lengths

    def spread_flags(self, flags: Flags, sizes: Tokens) -> Flags:
        """Flags of many texts, laid out as `add_special_tokens_to_runs` does the tokens; special tokens have False.

        Shape:
            flags: (T,); sizes: (N,), their sum is T; return: (T + N * overhead,)
        """
        before, after = self.prefix, self.suffix
        count, head = len(sizes), len(before)
        out = np.zeros(len(flags) + count * (head + len(after)), np.bool_)
        shift = np.arange(count) * (head + len(after)) + head
        out[np.arange(len(flags)) + shift.repeat(sizes)] = flags
        return out

    def text_mask(self, *sizes: int) -> Flags:
        """Which tokens are of a text, not special, where `add_special_tokens` lays out texts of these sizes.

        Shape:
            return: (sum of sizes + overhead,)
        """
        remaining = iter(sizes)
        parts = [
            np.full(next(remaining) if tokens is None else len(tokens), tokens is None)
            for tokens, _ in self.templates[len(sizes) > 1]
        ]
        return np.concatenate(parts)

    def segments_of_runs(self, lengths: Tokens) -> Tokens:
        """Segments of what `add_special_tokens_to_runs` laid out. Shape: (N,) -> (sum of lengths,)."""
        own, ends = self.segments[self.prefix_length], lengths.cumsum()
        out = np.full(int(lengths.sum()), own, np.int64)
        for n, segment in enumerate(self.segments):
            if segment != own:
                out[ends - lengths + n if n < self.prefix_length else ends - (len(self.segments) - n)] = segment
        return out

    def overhead(self, pair: bool) -> int:
        """How many special tokens `add_special_tokens` adds."""
        return sum(len(tokens or ()) for tokens, _ in self.templates[pair])


def numbered(size: int, sentinels: int = 0) -> Vocabulary:
    """A vocabulary of ids alone: BERT's special tokens from 0 to 4, sentinels, then ordinary ones; for arithmetic."""
    special = np.arange(size) < 5 + sentinels
    none, gaps = np.zeros(size, np.bool_), tuple(range(5, 5 + sentinels))
    return Vocabulary(size, 0, 1, 2, 3, 4, None, None, special, none, gaps)


def build_vocabulary(layout: Mapping[str, Any], subwords: Sequence[str | None], roles: Mapping[str, int]) -> Vocabulary:
    """Put a vocabulary together.

    Args:
        layout: a parsed tokenizer.json.
        subwords: the string of each id, None for a hole.
        roles: id of each role that is filled.
    """
    special = np.zeros(len(subwords), np.bool_)
    special[[token["id"] for token in layout["added_tokens"] if token["special"]]] = True
    special[list(roles.values())] = True
    flags = _continuation(layout, subwords)
    flags[special] = False
    named = {role: roles.get(role) for role in ROLES}
    numbered = [(int(m[1]), t["id"]) for t in layout["added_tokens"] if (m := _SENTINEL.fullmatch(t["content"]))]
    sentinels = tuple(number for _, number in sorted(numbered))
    return Vocabulary(
        len(subwords),
        **named,
        special=special,
        continuation=flags,
        sentinels=sentinels,
        template=read_templates(layout),
    )


def stages(part: Mapping[str, Any] | None, plural: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences flattened."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for inner in part[plural] for step in stages(inner, plural)]


def is_byte_level(layout: Mapping[str, Any]) -> bool:
    """The model sees bytes, each as a printable character (GPT-2)."""
    steps = stages(layout["pre_tokenizer"], "pretokenizers") + stages(layout["normalizer"], "normalizers")
    return any(step["type"] == "ByteLevel" for step in steps)


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte. Source: openai/gpt-2, encoder.py, `bytes_to_unicode`."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(other)}


def spaces(layout: Mapping[str, Any], subwords: Sequence[str | None]) -> Flags:
    """Which subwords are white space and nothing else, where white space has subwords: on bytes. Shape: (size,)."""
    if not is_byte_level(layout):
        return np.zeros(len(subwords), np.bool_)
    blank = {char for char, byte in byte_alphabet().items() if byte in _WHITESPACE}
    return np.array([bool(subword) and blank.issuperset(subword or "") for subword in subwords], np.bool_)


def _continuation(layout: Mapping[str, Any], subwords: Sequence[str | None]) -> Flags:
    model = layout["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    if is_byte_level(layout):
        alphabet = byte_alphabet()
        return np.array([_continues(bytes(alphabet.get(c, 63) for c in p or "")) for p in subwords], np.bool_)
    if prefix:
        return np.array([(p or "").startswith(prefix) and p != prefix for p in subwords], np.bool_)
    if model["type"] == "Unigram" or model.get("byte_fallback"):
        return np.array([_continues(_fallback(p or "")) for p in subwords], np.bool_)
    return np.zeros(len(subwords), np.bool_)


def _fallback(subword: str) -> bytes:
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", subword)
    return bytes([int(byte[1], 16)]) if byte else subword.replace("▁", " ").encode("utf-8", "replace")


def _continues(text: bytes) -> bool:
    """Whether a subword that begins with these bytes continues a word: a letter, digit, mark or later byte of one."""
    if not text or text[0] in _WHITESPACE:
        return False
    first = text.decode("utf-8", "ignore")[:1]
    if not first or not text.startswith(first.encode()):  # a later byte of a character, or a part of one
        return text[0] not in _WORD_LEAD
    return unicodedata.category(first)[0] in "LNM" and not _HAN.match(first)
