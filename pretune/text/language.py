"""Tells Chinese text from other text, so that examples for a user are in the language of the data."""

from __future__ import annotations

import re

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_OR_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_MANY, _FEW = 0.3, 0.02  # of the characters that are no space


def language_of(text: str) -> str:
    """`zh` for a text that is mostly Chinese, else `en`."""
    size = max(len("".join(text.split())), 1)
    is_chinese = len(_HAN.findall(text)) >= _MANY * size and len(_KANA_OR_HANGUL.findall(text)) < _FEW * size
    return "zh" if is_chinese else "en"
