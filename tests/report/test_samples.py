"""Samples of the page are written as their texts are: no spaces of decoding, the word that was masked beside them."""

from __future__ import annotations

import pytest
import tinymodels

from pretune.report.samples import join_signs, masked_text


@pytest.mark.parametrize(
    ("decoded", "written"),
    [
        ("otherwise , it ' s [MASK] no - op .", "otherwise, it's [MASK] no-op."),
        ("he said : “ do not ! ” ( twice )", "he said: “do not!” (twice)"),
        ("we don ’ t , 5 - 6 %", "we don’t, 5-6%"),
        ("[MASK] is it", "[MASK] is it"),
        ("> > > x = beta", "> > > x = beta"),
    ],
)
def test_signs_stand_as_their_writer_would_set_them(decoded: str, written: str) -> None:
    assert join_signs(decoded) == written


def test_a_mask_stands_where_its_word_stood() -> None:
    words = tinymodels.word_tokenizer()
    for text, word, masked in [
        ("the lazy dog, and the cat", "dog", "the lazy [MASK], and the cat"),
        ("模型 语言", "语", "模型[MASK]言"),
    ]:
        tokens = words.encode(text).tolist()
        position = next(n for n in range(len(tokens)) if words.decode(tokens[n : n + 1]) == word)
        assert masked_text(words, tokens, position) == (masked, word)


def test_a_tokenizer_that_keeps_spaces_keeps_the_text() -> None:
    """A space before a sign that was written is none that decoding has put there."""
    bytes_ = tinymodels.byte_tokenizer()
    text = "the cat , and  a hat"
    tokens = bytes_.encode(text).tolist()
    position = next(n for n in range(len(tokens)) if "," in bytes_.decode(tokens[n : n + 1]))
    masked, word = masked_text(bytes_, tokens, position)
    mask = bytes_.token(bytes_.vocabulary.mask or 0)
    assert masked.replace(mask, word) == text
