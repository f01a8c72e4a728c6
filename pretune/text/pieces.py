"""Encoding at the speed of a dictionary: text is cut where no tokenizer looks across, and each piece is encoded once.

    text --regex--> pieces --dictionary--> slots --gather--> tokens
                       \\-- new ones --> tokenizers --> a slot each

A cut is made only where the pipeline provably treats both sides apart, so the ids are those of the whole text; a test
holds them equal. Natural text repeats its words: 12 MB of documentation hold 2.9 M pieces, 54 k different ones, and the
tokenizer proper sees only those. A pipeline that is not known to be safe to cut is run on whole documents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from pretune.text.tokenizer import Tokenizer, encode_all
from pretune.text.vocabulary import spaces, stages

Integers = NDArray[np.int64]
MOST_PIECES = 1 << 17  # slots held before all are forgotten: bounds memory at about 40 MB
MOST_TOKENS = 1 << 21
_MANY_LOOKS = 1 << 19  # tokens passed over while looking for characters

_SPACE = (
    "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode White_Space, as the Rust crates see it
)
_WHITE = "".join(c for c in map(chr, range(0x3001)) if re.match(f"[{_SPACE}]", c))
_PUNCTUATION = r"!-/:-@\[-`{-~"
_HAN = "\u4e00-\u9fff"
_HAN_MARKS = "。，！？；：“”‘’（）《》、…—"
_BLANK = r" \t\n\r"  # what BERT's normalizer keeps as white space under any setting
_BERT = "[{blank}]?(?:[{lone}]|[^{blank}{lone}{mark}]+|[{mark}]+)|[{blank}]+"
# GPT-2's own regex, exact for ASCII runs that ASCII ends; other runs between white space stay whole.
_GPT2 = (
    "'(?:s|t|re|ve|m|ll|d)"
    r"| ?[A-Za-z]++(?![^\x00-\x7f])"
    r"| ?[0-9]++(?![^\x00-\x7f])"
    r"| ?[!-&(-/:-@\[-`{{-~]++(?=[A-Za-z0-9\t-\r ]|\Z)"
    "| ?[^{space}]+|[{space}]+(?![^{space}])|[{space}]"
)
_UNIGRAM = "[{space}]?[^{space}]+|[{space}]+"
UNIGRAM_NORMALIZERS = (
    {"type": "NFKC"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
)


@dataclass(frozen=True)
class Encoded:
    """Documents as tokens, end to end.

    Attributes:
        tokens: (T,) each document followed by the end token.
        lengths: (D,) tokens of each document, its end token included.
        sentences: (S,) where sentences begin in `tokens`, rising; every document begins one.
    """

    tokens: NDArray[Any]
    lengths: Integers
    sentences: Integers


class _Slots(dict[str, int]):
    """Piece to slot; a piece not seen before gets the next one and is noted."""

    def __init__(self) -> None:
        super().__init__({"": 0})
        self.new: list[str] = []

    def __missing__(self, piece: str) -> int:
        slot = self[piece] = len(self)
        self.new.append(piece)
        return slot


class DocumentEncoder:
    """Documents to tokens and sentence starts, with a bounded memory of pieces.

    Args:
        tokenizer: what the ids must agree with.
        dtype: the type of the tokens.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> None:
        self._backend = tokenizer.plain
        self._end = tokenizer.vocabulary.end
        self._dtype = dtype
        self._pattern = cutting_pattern(tokenizer.layout)
        self._drop_blank = tokenizer.layout["model"]["type"] == "Unigram"
        self._is_space = spaces(tokenizer.layout, tokenizer.pieces)
        self._forget()

    def encode(self, texts: Sequence[str], starts: Sequence[Sequence[int]]) -> Encoded:
        """Encode documents.

        Args:
            texts: the documents.
            starts: for each, the characters at which sentences begin, rising.
        """
        if self._pattern is None:
            return self._encode_whole(texts, starts)
        if len(self._slots) > MOST_PIECES or len(self._tokens) > MOST_TOKENS:
            self._forget()
        find = self._pattern.findall
        pieces: list[str] = []
        for text in texts:
            pieces += find(text)
            pieces.append("")  # slot 0, the end token
        slots = self._look_up(pieces)
        lengths = self._lengths[slots]
        ends = np.cumsum(lengths)
        begins = ends - lengths
        tokens = self._tokens[np.repeat(self._firsts[slots] - begins, lengths) + np.arange(ends[-1])]
        document_ends = ends[slots == 0]
        sentences = self._sentences(pieces, slots, begins, starts)
        return _finish(tokens, document_ends, sentences)

    def _forget(self) -> None:
        self._slots = _Slots()
        self._tokens = np.array([self._end], self._dtype)
        self._firsts, self._lengths = np.zeros(1, np.int64), np.ones(1, np.int64)
        self._indents = np.zeros((1, 2), np.int64)  # leading white space of a piece: characters, tokens
        self._fresh: dict[str, tokenizers.Encoding] = {}  # what the present batch added

    def _look_up(self, pieces: list[str]) -> Integers:
        slots = np.fromiter(map(self._slots.__getitem__, pieces), np.int64, len(pieces))
        new, self._slots.new = self._slots.new, []
        self._fresh = {}
        if new:
            try:
                self._learn(new)
            except BaseException:
                self._forget()
                raise
        return slots

    def _learn(self, new: list[str]) -> None:
        encodings = encode_all(self._backend, new, offsets=True)
        self._fresh = dict(zip(new, encodings, strict=True))
        found = [encoding.ids for encoding in encodings]
        if self._drop_blank:
            found = [ids if piece.strip(_WHITE) else [] for piece, ids in zip(new, found, strict=True)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        tokens = np.fromiter(chain.from_iterable(found), self._dtype, int(lengths.sum()))
        ends = np.cumsum(lengths)
        solid = np.flatnonzero(~self._is_space[tokens])  # tokens that are not white space
        first_solid = np.append(solid, len(tokens))[np.searchsorted(solid, ends - lengths)]
        characters = np.fromiter((len(p) - len(p.lstrip(_WHITE)) for p in new), np.int64, len(new))
        indents = np.stack([characters, np.minimum(first_solid, ends) - (ends - lengths)], axis=1)
        self._firsts = np.concatenate([self._firsts, ends - lengths + len(self._tokens)])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._indents = np.concatenate([self._indents, indents])
        self._tokens = np.concatenate([self._tokens, tokens])

    def _sentences(
        self, pieces: list[str], slots: Integers, begins: Integers, starts: Sequence[Sequence[int]]
    ) -> Integers:
        """The token at which each sentence begins, by the piece that holds its first character."""
        widths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        places = np.cumsum(widths) - widths  # of each piece's first character in the texts laid end to end
        shifts = np.append(0, places[slots == 0])[:-1]
        flat = np.fromiter(chain.from_iterable(starts), np.int64)
        shift = np.repeat(shifts, [len(run) for run in starts])
        flat = (flat + shift)[flat > 0]  # that a document begins a sentence is known
        piece = np.searchsorted(places, flat, side="right") - 1
        into = flat - places[piece]
        indents = self._indents[slots[piece]]
        tokens: Integers = begins[piece] + indents[:, 1]
        inside = np.flatnonzero(into > indents[:, 0])  # rare but in Chinese under byte-level BPE
        if len(inside):
            tokens[inside] = begins[piece[inside]] + self._inside(pieces, piece[inside], into[inside])
        return tokens

    def _inside(self, pieces: list[str], which: Integers, characters: Integers) -> Integers:
        """The token inside its piece that holds each character. Shape: which, characters, return: (N,)"""
        different, group = np.unique(which, return_inverse=True)
        texts = [pieces[i] for i in different]
        known = [text for text in texts if text not in self._fresh]
        found = self._fresh | dict(zip(known, encode_all(self._backend, known, offsets=True), strict=True))
        bounds = np.searchsorted(group, np.arange(len(different) + 1))  # `which` rises, and so does `group`
        runs = [
            _first_tokens(found[text], characters[a:b]) for text, (a, b) in zip(texts, pairwise(bounds), strict=True)
        ]
        return np.concatenate(runs)

    def _encode_whole(self, texts: Sequence[str], starts: Sequence[Sequence[int]]) -> Encoded:
        runs: list[Integers] = []
        sentences: list[int] = []
        end = 0
        for found, run in zip(encode_all(self._backend, texts, offsets=True), starts, strict=True):
            runs += [np.array(found.ids, np.int64), np.array([self._end])]
            inner = np.array([character for character in run if character > 0], np.int64)
            sentences += (end + _first_tokens(found, inner)).tolist()
            end += len(found.ids) + 1
        tokens = np.concatenate(runs).astype(self._dtype) if runs else np.zeros(0, self._dtype)
        document_ends = np.cumsum([len(run) for run in runs])[1::2].astype(np.int64)
        return _finish(tokens, document_ends, np.array(sentences, np.int64))


def _first_tokens(encoding: tokenizers.Encoding, characters: Integers) -> Integers:
    """The token that holds each character, or the next; one look at a time while that is cheaper than all offsets."""
    if len(encoding) * len(characters) < _MANY_LOOKS:
        looks = [encoding.char_to_token(character) for character in characters.tolist()]
        if None not in looks:
            return np.array(looks, np.int64)
    ends = np.maximum.accumulate(np.array([0, *(last for _, last in encoding.offsets)]))[1:]
    return np.searchsorted(ends, characters, side="right")


def _finish(tokens: NDArray[Any], document_ends: Integers, sentences: Integers) -> Encoded:
    """Every document begins a sentence; none begins at an end token unless the document is empty."""
    lengths = np.diff(document_ends, prepend=0)
    begins_one = np.zeros(len(tokens) + 1, np.bool_)
    begins_one[sentences] = True
    begins_one[document_ends - 1] = False
    begins_one[document_ends - lengths] = True
    return Encoded(tokens, lengths, np.flatnonzero(begins_one[:-1]))


def cutting_pattern(layout: Mapping[str, Any]) -> re.Pattern[str] | None:
    """The regex that cuts text into pieces which this tokenizer treats apart; None where none is known."""
    if any(not token["special"] for token in layout["added_tokens"]):
        return None
    normalize = stages(layout["normalizer"], "normalizers")
    split = stages(layout["pre_tokenizer"], "pretokenizers")
    model = layout["model"]
    kinds = (*(step["type"] for step in (*normalize, *split)), model["type"])
    if kinds == ("BertNormalizer", "BertPreTokenizer", "WordPiece"):
        lone = _HAN_MARKS + (_HAN if normalize[0]["handle_chinese_chars"] else "")
        return re.compile(_BERT.format(blank=_BLANK, lone=lone, mark=_PUNCTUATION))
    if kinds == ("ByteLevel", "BPE") and not model["dropout"]:
        plain = split[0]["use_regex"] and not split[0]["add_prefix_space"]
        return re.compile(_GPT2.format(space=_SPACE)) if plain else None
    if kinds[-2:] == ("Metaspace", "Unigram") and tuple(normalize) == UNIGRAM_NORMALIZERS:
        plain = split[0]["prepend_scheme"] == "always" and split[0]["split"]
        return re.compile(_UNIGRAM.format(space=_SPACE)) if plain else None
    return None
