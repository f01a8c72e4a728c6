"""Text to token ids and back: tokenizers in the files that everybody reads, and the vocabulary that a model needs.

Loads `tokenizer.json`, BERT's `vocab.txt` and GPT-2's `vocab.json` + `merges.txt`; saves what `transformers` loads.
Plain text never becomes a token that means something to the model itself: one with a role, a sentinel, a mark of a
chat. Two backends are kept, the file's own and one in which the names of these are replaced by strings that no text
contains, so that neither the search for added tokens nor the model's own subwords (Unigram lists `<mask>` among them)
can find them. Other special tokens, such as the marks `<e1>` that a user has put into texts, are those of the text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import ArrayLike, NDArray
from tokenizers import normalizers

from pretune.disk import storage_errors
from pretune.errors import DataError
from pretune.new_folder import NewFolder
from pretune.seals import seal_files, write_seal
from pretune.text.tokenizer.added import check_normalized
from pretune.text.tokenizer.files import TOKENIZER_FILES, Settings, roles_of, write_tokenizer
from pretune.text.tokenizer.join import clean_up, cleans_up, join_han, splits_han
from pretune.text.tokenizer.layout_check import MAX_IDS
from pretune.text.tokenizer.library import UNREADABLE, library_errors, without_panic_text
from pretune.text.tokenizer.long_texts import LONG, EncodedText, Keep, LongText
from pretune.text.tokenizer.plain import SpecialSpans, TemplatedText, hidden_tokens, plain_backend
from pretune.text.tokenizer.reading import read_tokenizer
from pretune.text.tokenizer.template import Template, plain_template, read_templates, template_processor
from pretune.text.tokenizer.unknown import CountsUnknown, UnknownTokens
from pretune.text.tokenizer.vocabulary import Tokens, Vocabulary, build_vocabulary, is_byte_level

__all__ = ["Tokenizer", "Vocabulary"]

_SURROGATE = re.compile("[\ud800-\udfff]")

# what does not hang on what stands around a text
_OF_TEXT = ("subwords", "hash", "plain", "_special", "_templated", "has_drawn_tokens")


class Tokenizer(CountsUnknown):
    """A tokenizer and its vocabulary.

    Args:
        backend: a `tokenizers.Tokenizer`; what it says of padding and truncation is dropped, and its BPE dropout: the
            same text has the same ids every time.
        settings: the plain values of tokenizer_config.json: roles of special tokens, longest input.

    Attributes:
        notes: what its files say and what is not done, as sentences for the screen.
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: Settings | None = None) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.notes: list[str] = []
        if dropout := getattr(backend.model, "dropout", None):
            backend.model.dropout = None
            self.notes.append(
                f"tokenizer.json: field 'model.dropout' = {dropout:g}: encoding draws no merges at random here, so it "
                "is not applied and not written"
            )
        self.backend = backend
        self.settings: Settings = dict(settings or {})

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a tokenizer from a folder or a file.

        Raises:
            MissingInputError: nothing there.
            DataError: a file that is not a tokenizer, with its name and what is wrong.
        """
        try:
            with library_errors(f"{path}: {UNREADABLE}"), without_panic_text():
                read = read_tokenizer(Path(path))
                check_normalized(Path(path), read.backend)
                tokenizer = cls(read.backend, read.settings)
                tokenizer.notes += read.notes
                _ = tokenizer.vocabulary, tokenizer.plain
        except DataError as error:
            raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None
        return tokenizer

    def lowercased(self) -> Tokenizer:
        """The same tokenizer, which lower-cases each text before all else."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        steps = [normalizers.Lowercase()] + ([] if backend.normalizer is None else [backend.normalizer])
        backend.normalizer = normalizers.Sequence(steps)
        return Tokenizer(backend, self.settings)

    def save(self, directory: Path | str) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, for `transformers.AutoTokenizer`.

        All three take their place in the directory, or none; other files there stay.

        Raises:
            StorageError: the disk is full or fails.
            CannotCreateError: no permission, a file in the way, or another process is writing there.
        """
        target = Path(directory)
        with storage_errors(target, "save the tokenizer"), NewFolder(target, "merge") as folder:
            self.write(folder.path)
            write_seal(folder.path, target)
            folder.publish(last="tokenizer.json")

    def write(self, folder: Path) -> None:
        """Write the same files into a folder that is not in its place yet."""
        roles = {role: self.token(i) for role in self._roles if (i := self._roles[role]) is not None}
        write_tokenizer(folder, self.backend, self.settings, roles)
        seal_files(folder, TOKENIZER_FILES)

    def with_templates(self, templates: tuple[Template, Template], settings: Settings) -> Tokenizer:
        """The same tokenizer with other special tokens around a text and around a pair, written in its tokenizer.json.

        Args:
            settings: the values of its tokenizer_config.json.
        """
        backend, layout = self.backend, self.layout
        if tuple(map(plain_template, self.vocabulary.template or ())) != tuple(map(plain_template, templates)):
            step = template_processor(templates, self.subwords)
            trim = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
            both = {"type": "Sequence", "processors": [trim, step]}
            layout = {**layout, "post_processor": both if is_byte_level(layout) else step}
            backend = tokenizers.Tokenizer.from_str(json.dumps(layout))
        fitted = Tokenizer(backend, settings)
        fitted.notes = [*self.notes]
        same = {name: self.__dict__[name] for name in _OF_TEXT if name in self.__dict__}  # seconds, for 150,000 tokens
        fitted.__dict__ |= {**same, "layout": layout}
        if fitted._roles == self._roles:
            fitted.__dict__["vocabulary"] = replace(self.vocabulary, template=read_templates(layout))
        return fitted

    @cached_property
    def layout(self) -> dict[str, Any]:
        """The parsed tokenizer.json."""
        parsed: dict[str, Any] = json.loads(self.backend.to_str())
        return parsed

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical tokenizer.json, the same after saving and loading.

        What stands around a text is left out: it is a property of the model, and no store holds it.
        """
        content = {**self.layout, "post_processor": None}
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def subwords(self) -> list[str | None]:
        """The string of each id, None for an id that is not used."""
        table = self.backend.get_vocab(with_added_tokens=True)
        size = max(table.values(), default=-1) + 1
        if not 0 < size <= MAX_IDS:
            raise DataError(f"the vocabulary has {len(table)} tokens and a largest id of {size - 1}; not a tokenizer")
        subwords: list[str | None] = [None] * size
        for subword, i in table.items():
            subwords[i] = subword
        return subwords

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Size, roles, special and continuing ids."""
        return build_vocabulary(self.layout, self.subwords, self._roles)

    @cached_property
    def _roles(self) -> dict[str, int]:
        return roles_of(self.layout, self.settings, self.backend)

    @cached_property
    def _spaces(self) -> tuple[bool, bool]:
        """Whether decoded text is cleaned up, and whether Chinese is joined."""
        return cleans_up(self.layout, self.settings), splits_han(self.layout)

    @cached_property
    def plain(self) -> tokenizers.Tokenizer:
        """The backend that takes every text for text."""
        return plain_backend(self.layout, hidden_tokens(self.layout, self.vocabulary))

    @cached_property
    def has_drawn_tokens(self) -> bool:
        """Whether a text can hold added tokens, so that it cannot be cut into words before they are looked for."""
        return len(hidden_tokens(self.layout, self.vocabulary)) < len(self.layout["added_tokens"])

    @cached_property
    def _special(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = False
        return backend

    @cached_property
    def _templated(self) -> TemplatedText:
        return TemplatedText.of(self.layout)

    def encode(self, text: str, allow_special: bool = False) -> Tokens:
        """The ids of a text; no special tokens are added, nothing is cut.

        Args:
            allow_special: `[MASK]`, `<|endoftext|>` and the like in the text are the special tokens, not text.

        Shape:
            return: (n,)

        Raises:
            DataError: the text holds a lone surrogate.
        """
        return self.encode_batch([text], allow_special)[0]

    def encode_batch(self, texts: Sequence[str], allow_special: bool = False, keep: Keep | None = None) -> list[Tokens]:
        """The ids of many texts, by several threads; as `encode` of each.

        Args:
            keep: as of `encode_kept`.
        """
        if max(map(len, texts), default=0) > LONG:
            return [encoded.tokens for encoded in self.encode_kept(texts, keep, allow_special)]
        backend = self._special if allow_special else self.plain
        runs = [np.array(encoding.ids, np.int64) for encoding in encode_all(backend, texts)]
        self._count(texts, runs)
        return runs

    def encode_kept(
        self, texts: Sequence[str], keep: Keep | None = None, allow_special: bool = False
    ) -> list[EncodedText]:
        """The ids of many texts and where each lies in its text; long ones are read in blocks, and no more than needed.

        Args:
            keep: what will stay of a text; of a long one that is longer, at least these tokens and one more are given.

        Raises:
            DataError: a text holds a lone surrogate.
        """
        out = self._encode_kept(texts, keep, self._special if allow_special else self.plain)
        self._count(
            [encoded.part_of(text) for text, encoded in zip(texts, out, strict=True)],
            [encoded.tokens for encoded in out],
        )
        return out

    def _encode_kept(self, texts: Sequence[str], keep: Keep | None, backend: tokenizers.Tokenizer) -> list[EncodedText]:
        if max(map(len, texts), default=0) > LONG:
            _check_surrogates(texts)
        short = [text for text in texts if len(text) <= LONG]
        encodings = iter(encode_all(backend, short, offsets=True))
        out = []
        for text in texts:
            if len(text) > LONG:
                out.append(self._encode_long(text, backend, keep))
                continue
            encoding = next(encodings)
            spans = _without_spaces(text, encoding.offsets)
            out.append(EncodedText(np.array(encoding.ids, np.int64), spans, 0, len(text)))
        return out

    def encode_templated(self, texts: Sequence[str], special: Sequence[SpecialSpans]) -> list[EncodedText]:
        """The ids of texts that a template wrote, and where each lies in its text.

        Args:
            special: in each text where the names of special tokens stand that are the tokens; elsewhere they are text.

        Raises:
            DataError: a text holds a lone surrogate.
        """
        templated = self._templated
        renamed = [templated.substitute(text, spans) for text, spans in zip(texts, special, strict=True)]
        encoded = self._encode_kept([text for text, _ in renamed], None, templated.backend)
        out = [
            EncodedText(each.tokens, shift.restore(each.offsets), end=len(text))
            for each, (_, shift), text in zip(encoded, renamed, texts, strict=True)
        ]
        self._count(texts, [each.tokens for each in out])
        return out

    def _encode_long(self, text: str, backend: tokenizers.Tokenizer, keep: Keep | None = None) -> EncodedText:
        def encode(part: str) -> tuple[Tokens, NDArray[np.int64]]:
            (encoding,) = encode_all(backend, [part], offsets=True)
            return np.array(encoding.ids, np.int64), _without_spaces(part, encoding.offsets)

        max_word = self.layout["model"].get("max_input_chars_per_word")
        long = LongText(text, encode, self.vocabulary.unk, max_word)
        return long.beginning() if keep is None else long.kept(keep)

    def encode_offsets(self, text: str) -> tuple[Tokens, NDArray[np.int64]]:
        """The ids of a text and where each lies in it, in characters; leading spaces are not part of a token.

        Shape:
            return: (n,), (n, 2)
        """
        return self.encode_kept([text])[0]

    def new_counter(self) -> UnknownTokens:
        """A counter of what this tokenizer does not know."""
        max_word = self.layout["model"].get("max_input_chars_per_word")
        return UnknownTokens(self.vocabulary.unk, max_word)

    def _count(self, texts: Sequence[str], runs: Sequence[Tokens]) -> None:
        if self.counter is not None:
            self.counter.add(texts, runs, self._offsets)

    def _offsets(self, text: str) -> tuple[Tokens, NDArray[np.int64]]:
        if len(text) > LONG:
            encoded = self._encode_long(text, self.plain)
            return encoded.tokens, encoded.offsets
        (encoding,) = encode_all(self.plain, [text], offsets=True)
        return np.array(encoding.ids, np.int64), _without_spaces(text, encoding.offsets)

    def decode(self, ids: ArrayLike, skip_special: bool = True) -> str:
        """The text of ids; Chinese characters that the tokenizer makes words of are joined again."""
        values = self._check(ids)
        with library_errors("the tokenizer cannot decode ids"):
            text = str(self.backend.decode(values.tolist(), skip_special_tokens=skip_special))
        text = clean_up(text) if self._spaces[0] else text
        return join_han(text) if self._spaces[1] else text

    def token(self, id: int) -> str:
        """The subword of an id, as the vocabulary spells it; empty for an id that is not used."""
        return self.subwords[int(self._check([id])[0])] or ""

    def _check(self, ids: ArrayLike) -> Tokens:
        values = np.asarray(ids, np.int64).reshape(-1)
        if values.size and not 0 <= values.min() <= values.max() < self.vocabulary.size:
            bad = int(values[(values < 0) | (values >= self.vocabulary.size)][0])
            raise DataError(
                f"token id {bad} is outside the vocabulary of {self.vocabulary.size}; "
                "does the tokenizer belong to the model?"
            )
        return values


def _without_spaces(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Where tokens lie in a text without the spaces before them. Shape: return: (n, 2)"""
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    if any(text[start].isspace() for start, end in offsets if start < end):
        solid = np.flatnonzero([not character.isspace() for character in text])
        first = np.append(solid, len(text))[np.searchsorted(solid, spans[:, 0])]
        spans[:, 0] = np.minimum(first, spans[:, 1])
    return spans


def encode_all(backend: tokenizers.Tokenizer, texts: Sequence[str], offsets: bool = False) -> list[tokenizers.Encoding]:
    """Encode without special tokens.

    Raises:
        DataError: a text holds a lone surrogate, which UTF-8 cannot carry.
    """
    encode = backend.encode_batch if offsets else backend.encode_batch_fast
    try:
        with library_errors("the tokenizer cannot encode text"):
            return list(encode(list(texts), add_special_tokens=False))
    except TypeError:
        _check_surrogates(texts)
        raise


def _check_surrogates(texts: Sequence[str]) -> None:
    """Refuses texts that UTF-8 cannot carry.

    Raises:
        DataError: a lone surrogate, with its text and place.
    """
    for number, text in enumerate(texts):
        if isinstance(text, str) and not text.isascii() and (bad := _SURROGATE.search(text)):
            raise DataError(
                f"text {number + 1} of {len(texts)}: lone surrogate U+{ord(bad[0]):04X} at character "
                f"{bad.start()}; the text was decoded wrongly, read its bytes as UTF-8 again"
            ) from None
