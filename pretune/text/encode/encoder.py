"""Encodes documents as tokens, with the tokens at which sentences begin, through a cache of pretokens.

    texts --cut--> pretokens --looked up--> slots of the memory --> tokens
                       \\-- new ones --> tokenizers --> a slot each

Natural text repeats its words: 12 MB of documentation hold 2.9 M pretokens, 54 k different ones, and the tokenizer
proper sees only those. Short ASCII pretokens are looked up as integers, all at once (`text/encode/word_table.py`),
others as strings. A pipeline that is not known to be safe to cut (`text/encode/pretokenize.py`) is run on whole
documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from pretune.text.encode.pretokenize import WHITE, Codes, Cutter, Integers, cutter
from pretune.text.encode.word_table import MAX_BYTES, WordTable, keys_of
from pretune.text.tokenizer.library import library_errors
from pretune.text.tokenizer.long_texts import LONG, EncodedText, LongText
from pretune.text.tokenizer.tokenizer import Tokenizer, encode_all
from pretune.text.tokenizer.vocabulary import byte_alphabet, is_byte_level, spaces

MAX_PRETOKENS = 1 << 17  # slots held before all are forgotten: bounds memory at about 40 MB
MAX_TOKENS = 1 << 21
_MANY_LOOKS = 1 << 19  # tokens passed over while looking for characters


@dataclass(frozen=True)
class EncodedDocuments:
    """Documents as tokens, end to end.

    Attributes:
        tokens: (T,) each document followed by the end token.
        lengths: (D,) tokens of each document, its end token included.
        sentences: (S,) where sentences begin in `tokens`, rising; every document begins one.
        words: (W,) the same of words, end tokens included; None where no segmenter was asked.
    """

    tokens: NDArray[Any]
    lengths: Integers
    sentences: Integers
    words: Integers | None = None


@dataclass(frozen=True)
class _Pretokens:
    """The pretokens of some texts: where each lies in the texts, laid end to end with a NUL after each, and its slot.

    Shape:
        start, size, slots: (P,)
    """

    text: str
    start: Integers
    size: Integers
    slots: Integers

    def __getitem__(self, index: int) -> str:
        start = int(self.start[index])
        return self.text[start : start + int(self.size[index])]


class _Slots(dict[str, int]):
    """Piece to slot; a pretoken not seen before gets the next one and is noted."""

    def __init__(self) -> None:
        super().__init__({"": 0})
        self.begin(1)

    def begin(self, next: int) -> None:
        """What was noted is learned; the next pretoken gets this slot."""
        self.new: list[str] = []
        self._next = next

    def __missing__(self, pretoken: str) -> int:
        slot = self[pretoken] = self._next + len(self.new)
        self.new.append(pretoken)
        return slot


class DocumentEncoder:
    """Documents to tokens and sentence starts, with a bounded memory of pretokens.

    Args:
        tokenizer: what the ids must agree with.
        dtype: the type of the tokens.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> None:
        self._backend = tokenizer.plain
        self._end = tokenizer.vocabulary.end
        self._dtype = dtype
        self._cutter = None if tokenizer.has_drawn_tokens else cutter(tokenizer.layout)
        self._encode_words = _word_encoder(tokenizer, self._backend)
        self._drop_blank = tokenizer.layout["model"]["type"] == "Unigram"
        self._is_space = spaces(tokenizer.layout, tokenizer.subwords)
        self._forget()

    def encode(
        self, texts: Sequence[str], starts: Sequence[Sequence[int]], words: Sequence[Sequence[int]] | None = None
    ) -> EncodedDocuments:
        """Encode documents.

        Args:
            texts: the documents.
            starts: for each, the characters at which sentences begin, rising.
            words: the same of words.
        """
        wanted = [starts] if words is None else [starts, words]
        if self._cutter is None:
            return self._encode_whole(texts, wanted)
        if len(self._firsts) > MAX_PRETOKENS or len(self._tokens) > MAX_TOKENS:
            self._forget()
        self._fresh: dict[str, tokenizers.Encoding] = {}
        try:
            pretokens = self._cut(texts, self._cutter)
        except BaseException:
            self._forget()
            raise
        lengths = self._lengths[pretokens.slots]
        ends = np.cumsum(lengths)
        begins = ends - lengths
        tokens = self._tokens[np.repeat(self._firsts[pretokens.slots] - begins, lengths) + np.arange(ends[-1])]
        return _finish(tokens, ends[pretokens.slots == 0], [self._places(pretokens, begins, run) for run in wanted])

    def _forget(self) -> None:
        self._slots, self._words = _Slots(), WordTable()
        self._tokens = np.array([self._end], self._dtype)
        self._firsts, self._lengths = np.zeros(1, np.int64), np.ones(1, np.int64)
        self._indents = np.zeros((1, 2), np.int64)  # leading white space of a pretoken: characters, tokens

    def _cut(self, texts: Sequence[str], how: Cutter) -> _Pretokens:
        """Pieces and their slots, by arrays where that is possible, else by the pattern."""
        text = "\0".join((*texts, ""))
        codes = None if text.count("\0") > len(texts) else _codes(text)
        cut = None if codes is None else how.cut(codes)
        if cut is None or codes is None:
            return self._by_pattern(text, texts, how)
        start, size, left = cut
        left |= size > MAX_BYTES
        slots = np.zeros(len(start), np.int64)
        short = np.flatnonzero(~left & (codes[start] != 0))
        slots[short] = self._look_up_words(text, codes, start[short], size[short])
        if not left.any():
            return _Pretokens(text, start, size, slots)
        bounds = zip(start[left].tolist(), (start + size)[left].tolist(), strict=True)
        matches = [how.pattern.findall(text[a:b]) for a, b in bounds]
        pretokens = list(chain.from_iterable(matches))
        counts = np.ones(len(start), np.int64)
        counts[left] = [len(run) for run in matches]
        inner = np.repeat(left, counts)
        slots, size, start = np.repeat(slots, counts), np.repeat(size, counts), np.repeat(start, counts)
        slots[inner] = self._look_up(pretokens)
        size[inner] = np.fromiter(map(len, pretokens), np.int64, len(pretokens))
        before = np.cumsum(size) - size
        return _Pretokens(text, start + before - np.repeat(before[np.cumsum(counts) - counts], counts), size, slots)

    def _by_pattern(self, text: str, texts: Sequence[str], how: Cutter) -> _Pretokens:
        find = how.pattern.findall
        pretokens: list[str] = []
        for one in texts:
            pretokens += find(one)
            pretokens.append("")  # slot 0, the end token
        slots = self._look_up(pretokens)
        size = np.fromiter(map(len, pretokens), np.int64, len(pretokens)) + (slots == 0)
        return _Pretokens(text, np.cumsum(size) - size, size, slots)

    def _look_up(self, pretokens: list[str]) -> Integers:
        slots = np.fromiter(map(self._slots.__getitem__, pretokens), np.int64, len(pretokens))
        if new := self._slots.new:
            self._fresh = dict(zip(new, encode_all(self._backend, new, offsets=True), strict=True))
            self._learn(new, [encoding.ids for encoding in self._fresh.values()])
        return slots

    def _look_up_words(self, text: str, codes: Codes, start: Integers, size: Integers) -> Integers:
        first, second = keys_of(codes.astype(np.uint8, copy=False), start, size)
        slots = self._words.find(first, second)
        unknown = np.flatnonzero(slots < 0)
        if not len(unknown):
            return slots
        unknown = unknown[np.lexsort((second[unknown], first[unknown]))]
        a, b = first[unknown], second[unknown]
        another = np.append(True, (a[1:] != a[:-1]) | (b[1:] != b[:-1]))
        one = unknown[another]
        numbers = len(self._firsts) + np.arange(len(one))
        slots[unknown] = numbers[np.cumsum(another) - 1]
        words = [text[a:b] for a, b in zip(start[one].tolist(), (start + size)[one].tolist(), strict=True)]
        self._learn(words, self._encode_words(words))
        self._words.add(first[one], second[one], numbers)
        return slots

    def _learn(self, new: list[str], token_ids: list[list[int]]) -> None:
        if self._drop_blank:
            token_ids = [ids if pretoken.strip(WHITE) else [] for pretoken, ids in zip(new, token_ids, strict=True)]
        lengths = np.fromiter(map(len, token_ids), np.int64, len(token_ids))
        tokens = np.fromiter(chain.from_iterable(token_ids), self._dtype, int(lengths.sum()))
        ends = np.cumsum(lengths)
        solid = np.flatnonzero(~self._is_space[tokens])  # tokens that are not white space
        first_solid = np.append(solid, len(tokens))[np.searchsorted(solid, ends - lengths)]
        characters = np.fromiter((len(p) - len(p.lstrip(WHITE)) for p in new), np.int64, len(new))
        indents = np.stack([characters, np.minimum(first_solid, ends) - (ends - lengths)], axis=1)
        self._firsts = np.concatenate([self._firsts, ends - lengths + len(self._tokens)])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._indents = np.concatenate([self._indents, indents])
        self._tokens = np.concatenate([self._tokens, tokens])
        self._slots.begin(len(self._firsts))

    def _places(self, pretokens: _Pretokens, begins: Integers, starts: Sequence[Sequence[int]]) -> Integers:
        """The token at which each sentence or word begins, by the pretoken that holds its first character."""
        shifts = np.append(0, pretokens.start[pretokens.slots == 0] + 1)[:-1]
        flat = np.fromiter(chain.from_iterable(starts), np.int64)
        shift = np.repeat(shifts, [len(run) for run in starts])
        flat = (flat + shift)[flat > 0]  # that a document begins one is known
        pretoken = np.searchsorted(pretokens.start, flat, side="right") - 1
        pretoken += flat >= (pretokens.start + pretokens.size)[pretoken]  # white space that is in no pretoken
        into = np.maximum(flat - pretokens.start[pretoken], 0)
        indents = self._indents[pretokens.slots[pretoken]]
        tokens: Integers = begins[pretoken] + indents[:, 1]
        inside = np.flatnonzero(into > indents[:, 0])  # rare but in Chinese under byte-level BPE
        if len(inside):
            tokens[inside] = begins[pretoken[inside]] + self._inside(pretokens, pretoken[inside], into[inside])
        return tokens

    def _inside(self, pretokens: _Pretokens, which: Integers, characters: Integers) -> Integers:
        """The token inside its pretoken that holds each character. Shape: which, characters, return: (N,)"""
        different, group = np.unique(which, return_inverse=True)
        texts = [pretokens[i] for i in different.tolist()]
        known = [text for text in texts if text not in self._fresh]
        encodings = self._fresh | dict(zip(known, encode_all(self._backend, known, offsets=True), strict=True))
        bounds = np.searchsorted(group, np.arange(len(different) + 1))  # `which` rises, and so does `group`
        runs = [
            _first_tokens(encodings[text], characters[a:b])
            for text, (a, b) in zip(texts, pairwise(bounds), strict=True)
        ]
        return np.concatenate(runs)

    def _encode_part(self, text: str) -> tuple[Integers, Integers]:
        """The tokens of a part of a text, and where each lies in it."""
        (encoding,) = encode_all(self._backend, [text], offsets=True)
        return np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    def _encode_whole(self, texts: Sequence[str], wanted: Sequence[Sequence[Sequence[int]]]) -> EncodedDocuments:
        runs: list[Integers] = []
        places: list[list[int]] = [[] for _ in wanted]
        end = 0
        short = iter(encode_all(self._backend, [text for text in texts if len(text) <= LONG], offsets=True))
        for number, text in enumerate(texts):
            encoding = next(short) if len(text) <= LONG else LongText(text, self._encode_part).beginning()
            ids = encoding.tokens if isinstance(encoding, EncodedText) else np.array(encoding.ids, np.int64)
            runs += [ids, np.array([self._end])]
            for into, starts in zip(places, wanted, strict=True):
                inner = np.array([character for character in starts[number] if character > 0], np.int64)
                into += (end + _first_tokens(encoding, inner)).tolist()
            end += len(ids) + 1
        tokens = np.concatenate(runs).astype(self._dtype) if runs else np.zeros(0, self._dtype)
        document_ends = np.cumsum([len(run) for run in runs])[1::2].astype(np.int64)
        return _finish(tokens, document_ends, [np.array(starts, np.int64) for starts in places])


def _first_tokens(encoding: tokenizers.Encoding | EncodedText, characters: Integers) -> Integers:
    """The token that holds each character, or the next; one look at a time while that is cheaper than all offsets."""
    if isinstance(encoding, EncodedText):
        return np.searchsorted(np.maximum.accumulate(encoding.offsets[:, 1]), characters, side="right")
    if len(encoding) * len(characters) < _MANY_LOOKS:
        looks = [encoding.char_to_token(character) for character in characters.tolist()]
        if None not in looks:
            return np.array(looks, np.int64)
    ends = np.maximum.accumulate(np.array([0, *(last for _, last in encoding.offsets)]))[1:]
    return np.searchsorted(ends, characters, side="right")


def _finish(tokens: NDArray[Any], document_ends: Integers, places: Sequence[Integers]) -> EncodedDocuments:
    """Every document begins a sentence and a word; no sentence begins at an end token, but that of an empty document.

    Args:
        places: where sentences begin and, if asked, words.
    """
    lengths = np.diff(document_ends, prepend=0)
    starts_by_kind = []
    for number, starts in enumerate(places):
        begins_one = np.zeros(len(tokens) + 1, np.bool_)
        begins_one[starts] = True
        begins_one[document_ends - 1] = number > 0  # an end token is a word of its own
        begins_one[document_ends - lengths] = True
        starts_by_kind.append(np.flatnonzero(begins_one[:-1]))
    return EncodedDocuments(tokens, lengths, *starts_by_kind)


def _codes(text: str) -> Codes | None:
    """Code points of a text; None if it holds half a surrogate pair."""
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError:
        return None


def _word_encoder(tokenizer: Tokenizer, backend: tokenizers.Tokenizer) -> Callable[[list[str]], list[list[int]]]:
    """Encodes ASCII words that were cut as the pipeline cuts them: the model alone is asked, three times as fast."""
    layout, model = tokenizer.layout, backend.model
    table = {byte: character for character, byte in byte_alphabet().items()} if is_byte_level(layout) else None
    lower = table is None and (layout["normalizer"] or {}).get("lowercase", False)

    def encode(words: list[str]) -> list[list[int]]:
        with library_errors("the tokenizer cannot encode a word"):
            if table is not None:
                return [[token.id for token in model.tokenize(word.translate(table))] for word in words]
            spelt = [word.lower() for word in words] if lower else words
            token_ids = [[token.id for token in model.tokenize(word)] if word.isalnum() else [] for word in spelt]
        others = [number for number, word in enumerate(words) if not word.isalnum()]
        for number, encoding in zip(others, encode_all(backend, [words[n] for n in others]), strict=True):
            token_ids[number] = encoding.ids
        return token_ids

    return encode
