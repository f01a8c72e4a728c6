"""Cuts text into the pretokens that a tokenizer encodes independently, so that each is encoded only once.

A cut is made only where the pipeline provably treats both sides apart, so the ids are those of the whole text; a test
holds them equal. ASCII is cut by array arithmetic on the classes of characters, a megabyte in milliseconds. A run
between white space that holds any other character is cut by a regex, which knows less and so cuts less.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.text.tokenizer.vocabulary import stages

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Codes = NDArray[Any]  # code points of texts, a NUL at each one's end: uint8 where all are ASCII, else uint32

SPACE = (
    "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode White_Space, as the Rust crates see it
)
WHITE = "".join(c for c in map(chr, range(0x3001)) if re.match(f"[{SPACE}]", c))
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
_END, _WHITE, _OTHER, _LETTER, _DIGIT, _MARK = range(6)  # classes of characters; _OTHER ones are for the pattern
_ASCII = 0x7F
_KNOWN = 0x3002  # white space lies below; the last code stands for all that follow


@dataclass(frozen=True)
class Cutter:
    """How text is cut.

    Attributes:
        pattern: cuts any text, and what the arrays leave whole, into pretokens that together are all of it.
        bounds: where pretokens of ASCII text begin and end, from classes and codes; None: all by the pattern.
        classes: of the characters below U+3001; later ones are `_OTHER`.
    """

    pattern: re.Pattern[str]
    bounds: Callable[[NDArray[np.uint8], Codes], tuple[Flags, Flags]] | None = None
    classes: NDArray[np.uint8] | None = None

    def cut(self, codes: Codes) -> tuple[Integers, Integers, Flags] | None:
        """Cut texts by arrays; None if these are not for that.

        Shape:
            codes: (T,); return: first code (P,) and size (P,) of each pretoken, and whether it is left to the pattern
            (P,). The NULs at the ends of texts are pretokens; white space that gives no token is in none.
        """
        if self.bounds is None or self.classes is None:
            return None
        if codes.dtype == np.uint8:
            kinds = np.frombuffer(codes.tobytes().translate(self.classes[:256].tobytes()), np.uint8)
        else:
            kinds = self.classes.take(codes, mode="clip")
        first, last = self.bounds(kinds, codes)
        left = (kinds == _WHITE) & (codes > _ASCII)
        for a, b in zip(*_mixed(kinds), strict=True):
            begin = a - 1 if first[a - 1] and not last[a - 1] else a  # with the blank that is joined to it
            first[begin + 1 : b], last[begin : b - 1] = False, False
            first[begin] = last[b - 1] = left[begin] = True
        start = np.flatnonzero(first)
        size = np.flatnonzero(last) + 1 - start
        whole = np.zeros(len(start), np.bool_)
        whole[start.searchsorted(np.flatnonzero(left), side="right") - 1] = True
        return start, size, whole


def _mixed(kinds: NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """Bounds of the runs between white space that hold a character for the pattern."""
    other = np.flatnonzero(kinds == _OTHER)
    if not len(other):
        return [], []
    solid = (kinds != _WHITE) & (kinds != _END)
    edge = np.flatnonzero(solid[1:] != solid[:-1]) + 1
    run = edge.searchsorted(other, side="right")  # 0 for what comes before the first edge
    run = run[np.append(True, run[1:] != run[:-1])]
    return np.append(0, edge)[run].tolist(), np.append(edge, len(kinds))[run].tolist()


def _bert(kinds: NDArray[np.uint8], codes: Codes) -> tuple[Flags, Flags]:
    """Runs of one class; white space is left out, as it gives no token."""
    first, last = np.ones(len(kinds), np.bool_), np.ones(len(kinds), np.bool_)
    first[1:] = last[:-1] = kinds[1:] != kinds[:-1]
    solid, end = kinds != _WHITE, kinds == _END
    return (first | end) & solid, (last | end) & solid


def _gpt2(kinds: NDArray[np.uint8], codes: Codes) -> tuple[Flags, Flags]:
    """GPT-2's regex: contractions, runs of one class with a blank before them, white space but the last of its run."""
    here, following = kinds[:-1], kinds[1:]
    white = here == _WHITE
    ahead = (following != _WHITE) & (following != _END)  # something that a blank can be joined to
    first = kinds == _END
    first[0] = True
    first[1:] |= (here != following) & ~((codes[:-1] == ord(" ")) & ahead)
    first[:-1] |= white & ahead
    quote = np.flatnonzero((codes == ord("'")) & first)
    if len(quote):
        more = np.append(codes, (0, 0))
        one, two = more[quote + 1], more[quote + 2]
        short = (one == ord("s")) | (one == ord("t")) | (one == ord("m")) | (one == ord("d"))
        e, ll = ((one == ord("r")) | (one == ord("v"))) & (two == ord("e")), (one == ord("l")) & (two == ord("l"))
        first[quote[short | e | ll] + 1] = False
        first[quote[short] + 2] = True
        first[quote[e | ll] + 3] = True
    return first, np.append(first[1:], True)


def cutter(layout: Mapping[str, Any]) -> Cutter | None:
    """How text is cut into pretokens that this tokenizer treats apart; None where no way is known."""
    if any(not token["special"] for token in layout["added_tokens"]):
        return None
    normalize = stages(layout["normalizer"], "normalizers")
    split = stages(layout["pre_tokenizer"], "pretokenizers")
    model = layout["model"]
    kinds = (*(step["type"] for step in (*normalize, *split)), model["type"])
    if kinds == ("BertNormalizer", "BertPreTokenizer", "WordPiece"):
        lone = _HAN_MARKS + (_HAN if normalize[0]["handle_chinese_chars"] else "")
        pattern = re.compile(_BERT.format(blank=_BLANK, lone=lone, mark=_PUNCTUATION))
        return Cutter(
            pattern, _bert, _table({_WHITE: f"[{_BLANK}]", _MARK: f"[{_PUNCTUATION}]", _LETTER: "[\x01-\x7f]"})
        )
    if kinds == ("ByteLevel", "BPE") and not model["dropout"]:
        if not split[0]["use_regex"] or split[0]["add_prefix_space"]:
            return None
        table = _table({_WHITE: f"[{SPACE}]", _LETTER: "[A-Za-z]", _DIGIT: "[0-9]", _MARK: f"[{_PUNCTUATION}]"})
        return Cutter(re.compile(_GPT2.format(space=SPACE)), _gpt2, table)
    if kinds[-2:] == ("Metaspace", "Unigram") and tuple(normalize) == UNIGRAM_NORMALIZERS:
        plain = split[0]["prepend_scheme"] == "always" and split[0]["split"]
        return Cutter(re.compile(_UNIGRAM.format(space=SPACE))) if plain else None
    return None


def _table(sets: Mapping[int, str]) -> NDArray[np.uint8]:
    """The class of each character: the first whose regex holds it, else `_OTHER`; NUL ends a text."""
    kinds = np.full(_KNOWN, _OTHER, np.uint8)
    for char_class, members in reversed(list(sets.items())):
        kinds[[code for code in range(_KNOWN) if re.match(members, chr(code))]] = char_class
    kinds[0] = _END
    return kinds
