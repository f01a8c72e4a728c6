"""Lines on which two readers of one tokenizer are compared."""

from __future__ import annotations

import numpy as np

from pretune.draw import Draw
from pretune.text.tokenizer.tokenizer import Tokenizer

LINES = (
    "The quick brown fox jumps over the lazy dog; it's 12,345.67 o'clock, don't you think?",
    "Café Zürich, naïve façade, Ångström, möchte: l'été à São Paulo.",
    "模型学习语言很快，不是吗？我们今天去北京。Hello World 我好",
    "東京タワーへ行きました。か゛ が ｶﾀｶﾅ ＡＢＣ",
    "हिन्दी भाषा में नमस्ते दुनिया",
    "Привет, мир! Как дела?  Ёжик",
    "مرحبا بالعالم، كيف حالك؟",
    "Tiếng Việt rất đẹp và thú vị",
    "ภาษาไทยสวยงาม 한국어도 배워요",
    "  two  spaces\tand a tab, then\na line; 🙂👍🏽 ½ ﬁ №",
)
_LINE = 8  # tokens of a drawn line


def sample_lines(tokenizer: Tokenizer, count: int) -> list[str]:
    """Lines in many scripts, and lines of drawn tokens, in which no special token is spelt; at most so many."""
    ordinary = np.flatnonzero(~tokenizer.vocabulary.special)
    names = [str(tokenizer.subwords[n]) for n in np.flatnonzero(tokenizer.vocabulary.special) if tokenizer.subwords[n]]
    draw, drawn_lines = Draw(0).at("lines"), count - len(LINES)
    drawn = ordinary[draw.below(np.arange(drawn_lines * _LINE), len(ordinary))].reshape(drawn_lines, _LINE)
    lines = [*LINES, *(tokenizer.decode(tokens) for tokens in drawn)]
    return [line for line in lines if line.strip() and not any(name in line for name in names)]
