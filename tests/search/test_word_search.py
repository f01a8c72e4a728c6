"""Search by words: how texts become words, and BM25 equal to its formula."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from searchkit import WORDS, contents

from pretune.errors import DataError, MissingPackageError, UsageError
from pretune.find import find_class
from pretune.search.backend import Backend
from pretune.search.vectors import StoredVectors
from pretune.search.words import WordIndex, best_rows, tokenization_of


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("bigrams", "The Fox's don’t 3.5", ["the", "fox's", "don’t", "3", "5"]),
        ("bigrams", "我爱BERT模型，中", ["我爱", "bert", "模型", "中"]),
        ("bigrams", "ＡＢＣ１２３中文搜", ["abc123", "中文", "文搜"]),
        ("characters", "我爱BERT模型", ["我", "爱", "bert", "模", "型"]),
        ("bigrams", "…!? _", []),
        ("bigrams", "Straße ÉCOLE", ["straße", "école"]),
    ],
)
def test_words_of_texts(name: str, text: str, words: list[str]) -> None:
    assert tokenization_of(name)(text) == words


def test_words_of_jieba() -> None:
    pytest.importorskip("jieba")
    assert tokenization_of("jieba")("北京大学 in 2024") == ["北京大学", "in", "2024"]


def test_a_tokenization_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "whole.py"
    path.write_text(
        "from pretune.search.tokenization import Tokenization\n"
        "class Whole(Tokenization):\n"
        "    def split(self, run: str):\n"
        "        yield run\n"
    )
    assert tokenization_of(str(path))("中文搜索 ok") == ["中文搜索", "ok"]
    with pytest.raises(UsageError, match="did you mean 'bigrams'"):
        tokenization_of("bigram")


def _bm25(texts: Sequence[list[str]], query: list[str]) -> list[float]:
    """Lucene's BM25 by its formula."""
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        counts, score = Counter(text), 0.0
        for word in query:
            holding = sum(word in other for other in texts)
            if not holding:
                continue
            weight = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            score += weight * counts[word] / (counts[word] + 1.5 * (1 - 0.75 + 0.75 * len(text) / mean))
        scores.append(score)
    return scores


def test_scores_are_those_of_the_formula(tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(20):
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 20))) for _ in range(draw.randint(2, 30))]
        WordIndex.build(texts, "bigrams", tmp_path / str(number))
        index = WordIndex.open(tmp_path / str(number), "bigrams", len(texts))
        for _ in range(5):
            query = draw.choices([*WORDS, "unknown"], k=draw.randint(1, 5))
            expected = _bm25([text.split() for text in texts], query)
            np.testing.assert_allclose(index.scores(" ".join(query)), expected, rtol=1e-5, atol=1e-6)


def test_passages_without_a_word_of_the_query_are_not_found(tmp_path: Path) -> None:
    WordIndex.build(["a cat", "a dog", "", "a cat and a dog"], "bigrams", tmp_path / "w")
    index = WordIndex.open(tmp_path / "w", "bigrams", 4)
    assert index.search("cat", 10)[0].tolist() == [0, 3]
    assert index.search("cat", 10, np.array([False, True, True, True]))[0].tolist() == [3]
    assert index.search("bird", 10)[0].tolist() == []
    with pytest.raises(DataError, match="do not fit together"):
        WordIndex.open(tmp_path / "w", "bigrams", 5)
    with pytest.raises(DataError, match="no passage has a word"):
        WordIndex.build(["...", "!"], "bigrams", tmp_path / "x")


def test_best_rows_of_equal_scores_are_the_first() -> None:
    rows, scores = best_rows(np.array([1, 3, 2, 3, 3], np.float32), 3)
    assert (rows.tolist(), scores.tolist()) == ([1, 3, 4], [3, 3, 3])
    assert best_rows(np.array([1, 2], np.float32), 5)[0].tolist() == [1, 0]


@pytest.mark.slow
def test_the_same_texts_give_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """bm25s numbers words by a set, whose order hangs on the hash of strings: numbers are given here."""
    code = (
        "import sys; from pathlib import Path; from pretune.search.words import WordIndex\n"
        "WordIndex.build(['the cat sat', 'a dog and a cat', 'birds fly'], 'bigrams', Path(sys.argv[1]))"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        subprocess.run([sys.executable, "-c", code, tmp_path / seed], check=True, env=environment)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pretune\[search\]'"):
        WordIndex.build(["a cat"], "bigrams", tmp_path)
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pretune\[zh\]'"):
        tokenization_of("jieba")
    monkeypatch.setitem(sys.modules, "usearch", None)
    backend = find_class("search.backends", "usearch", Backend)
    vectors = StoredVectors([np.eye(4, dtype=np.float32)])
    with pytest.raises(MissingPackageError, match=r"pip install 'pretune\[search\]', or --backend exact"):
        backend.build(vectors, tmp_path, {})


def test_a_chinese_character_alone_is_found_inside_of_words(tmp_path: Path) -> None:
    WordIndex.build(["今天天气很好", "小猫在睡觉", "猫 and dog", "dog"], "bigrams", tmp_path)
    words = WordIndex.open(tmp_path, "bigrams", 4)
    assert sorted(words.search("猫", 4)[0].tolist()) == [1, 2]
    assert sorted(words.search("猫 dog", 4)[0].tolist()) == [1, 2, 3]
    assert words.search("狗", 4)[0].tolist() == []
    assert words.search("猫在", 4)[0].tolist() == [1]
    assert sorted(words.search("猫 天气", 4)[0].tolist()) == [0, 1, 2]
    assert sorted(words.search("猫？", 4)[0].tolist()) == [1, 2]


def test_a_character_between_signs_brings_no_pairs_along(tmp_path: Path) -> None:
    """第 and 届 of 第3届 were searched as all pairs with them, which outweighed what was asked for."""
    passages = ["第一第二第三第四届中届时届满", "电影节在上海举行", "上海的天气"]
    WordIndex.build(passages, "bigrams", tmp_path)
    words = WordIndex.open(tmp_path, "bigrams", 3)
    assert words.search("第3届电影节在哪里", 3)[0].tolist() == [1]


def _nested(folder: Path) -> None:
    (folder / "vocab.index.json").write_text("[" * 6000)


def _large(folder: Path) -> None:
    with (folder / "vocab.index.json").open("r+b") as file:
        file.truncate(1 << 40)  # a hole, which takes no room on the disk and would all be read


def _numbered(number: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "vocab.index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "cat": number}))

    return change


def _other_parameters(folder: Path) -> None:
    path = folder / "params.index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "method": "bm25+"}))


def _large_parameters(folder: Path) -> None:
    with (folder / "params.index.json").open("r+b") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nested, r"vocab\.index\.json: not JSON"),
        (_large, r"vocab\.index\.json: [\d,]+ bytes, more than the [\d,]+ that such a file can need"),
        (_numbered(-1), r"vocab\.index\.json: does not number its words"),
        (_numbered(0.5), r"vocab\.index\.json: does not number its words"),
        (_numbered(10**30), r"vocab\.index\.json: does not number its words"),
        (_other_parameters, "is of another kind of BM25"),
        (_large_parameters, r"params\.index\.json: [\d,]+ bytes, more than"),
    ],
)
def test_a_hostile_vocabulary_is_refused(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    WordIndex.build(["a cat", "a dog", "birds"], "bigrams", tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        WordIndex.open(tmp_path, "bigrams", 3)
