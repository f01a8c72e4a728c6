"""Passages: windows that cover a text, keep within their size, end where sentences do, and say where they stand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tinymodels import word_tokenizer

from pretune.config import validate
from pretune.errors import UsageError
from pretune.search.documents import Document
from pretune.search.passages import WindowConfig, cut_documents, cut_text

ALPHABET = ["word ", "another ", "X. ", "Long? ", "中文", "。", "\n\n", "  ", "verylongwordwithoutanyspaces", "3.14 "]


def random_text(seed: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choices(ALPHABET, k=draw.randint(1, 60)))


@pytest.mark.parametrize("overlap", [0, 7])
def test_windows_cover_a_text_and_keep_within_their_size(overlap: int) -> None:
    for seed in range(500):
        text = random_text(seed)
        spans = cut_text(text, np.arange(len(text)), 20, overlap)
        covered = np.zeros(len(text), int)
        for start, end in spans:
            assert 0 < end - start <= 20, seed
            assert text[start:end].strip() == text[start:end] != "", seed
            covered[start:end] += 1
        bare = np.array([not character.isspace() for character in text])
        assert (covered[bare] >= 1).all(), seed
        if not overlap:
            assert covered.max(initial=0) <= 1, seed
        assert [start for start, _ in spans] == sorted({start for start, _ in spans}), seed


def test_windows_end_where_sentences_do() -> None:
    text = "One two three. Four five six. Seven eight nine ten."
    spans = cut_text(text, np.arange(len(text)), 32, 0)
    assert [text[a:b] for a, b in spans] == ["One two three. Four five six.", "Seven eight nine ten."]


def test_a_long_sentence_is_cut_between_words_and_overlaps() -> None:
    text = "alpha beta gamma delta epsilon zeta"
    spans = cut_text(text, np.arange(len(text)), 16, 6)
    assert [text[a:b] for a, b in spans] == ["alpha beta gamma", "gamma delta", "delta epsilon", "zeta"]


def test_chinese_is_cut_between_characters() -> None:
    text = "今天天气很好我们去公园散步"
    assert [b - a for a, b in cut_text(text, np.arange(len(text)), 5, 0)] == [5, 5, 3]


def test_tokens_are_counted_by_the_tokenizer() -> None:
    tokenizer = word_tokenizer()
    text = "The quick brown fox. The lazy dog. The cat ate a hat."
    documents = [Document("d", text), Document("e", "fox")]
    (_, passages), (_, others) = cut_documents(documents, WindowConfig(size=10, unit="tokens"), tokenizer)
    assert [len(tokenizer.encode(passage.text)) <= 10 for passage in passages] == [True] * len(passages)
    assert len(passages) > 1
    assert all(text[p.start : p.end] == p.text for p in passages)
    assert [passage.text for passage in others] == ["fox"]


def test_size_zero_keeps_documents_whole() -> None:
    ((_, passages),) = cut_documents([Document("d", " a b. c d. ", "T")], WindowConfig(size=0))
    assert [(p.start, p.end, p.searched) for p in passages] == [(1, 10, "T\na b. c d.")]


def test_overlap_is_below_the_size() -> None:
    with pytest.raises(UsageError, match="overlap 10 is not below the size 10"):
        validate(WindowConfig, {"size": 10, "overlap": 10}, "passages")
