"""Takes out the spaces that decoding puts where a text has none.

BERT's splitting makes every Chinese character and every sign a word, and the decoder sets a space between words, so
that what was written as one run comes back as single characters. Chinese has no such spaces: between two of its
characters, or one and a sign, a digit or kana, the space goes. Beside the letters of other scripts it stays, since the
vocabulary does not keep whether there was one. English has none before signs: a tokenizer's files may ask for that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pretune.text.tokenizer.vocabulary import stages

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SIGNS = "\u3000-\u3004\u3008-\u303f\ufe30-\ufe4f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffef"
_KANA = "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_JOINS = f"[{_HAN}{_SIGNS}{_KANA}]|[^\\w\\s]|[\\d_]"
_SPACE = re.compile(
    f"(?<=[{_SIGNS}]) +| +(?=[{_SIGNS}])|(?<=[{_HAN}]) +(?={_JOINS})|(?<=[{_HAN}{_KANA}]) +(?=[{_HAN}])"
    f"|(?<=[^\\w\\s]) +(?=[{_HAN}])|(?<=[\\d_]) +(?=[{_HAN}])"
)


def splits_han(layout: Mapping[str, Any]) -> bool:
    """Whether a tokenizer makes a word of each Chinese character and joins words by spaces."""
    normalizers = stages(layout["normalizer"], "normalizers")
    return layout["model"]["type"] == "WordPiece" and any(step.get("handle_chinese_chars") for step in normalizers)


def join_han(text: str) -> str:
    """Returns a decoded text without the spaces that decoding put around Chinese characters and signs."""
    return _SPACE.sub("", text)


_CLEAN = tuple((f" {sign}", sign) for sign in (".", "?", "!", ","))
_CLEAN += ((" ' ", "'"), *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")))


def clean_up(text: str) -> str:
    """Returns a text as `clean_up_tokenization_spaces` has it. Source: huggingface/transformers."""
    for spaced, sign in _CLEAN:
        text = text.replace(spaced, sign)
    return text


def cleans_up(layout: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the files ask for it; for a BPE, whose spaces are those of the text, by a field of its own."""
    bpe = layout["model"]["type"] == "BPE"
    harmful = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    return bool(settings.get("clean_up_tokenization_spaces")) and (not bpe or bool(settings.get(harmful)))
