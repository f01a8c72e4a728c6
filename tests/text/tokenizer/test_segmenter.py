"""Words of texts that have no spaces: segmenters, their place in a store, and masks that keep to them."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import pretune.text.store.prepare as preparing
from pretune.draw import Draw
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.objectives.mixture import build
from pretune.text.readers.corpus import CorpusConfig
from pretune.text.samples.views.view import build_view
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.segmenter import LongestMatch, WordFinder, word_starts
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

TEXTS = [
    "自然语言处理很有意思。Language models 读2026年的新闻！",
    "我们在学习自然语言。\n\n处理 数据 很慢",
    "很𠀀奇怪的字，不是吗？it isn't",
]
LIST = ["自然", "自然语言", "语言", "处理", "有意思", "新闻", "我们", "学习", "数据", "奇怪"]


@pytest.fixture
def words(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{word} 5 n\n" for word in LIST), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("自然语言处理很有意思", ["自然语言", "处理", "很", "有意思"]),
        ("Language models 读2026年", ["Language", " ", "models", " ", "读", "2026", "年"]),
        ("abc语言", ["abc", "语言"]),
        ("𠀀奇怪", ["𠀀", "奇怪"]),
        ("", []),
        ("。。", ["。", "。"]),
    ],
)
def test_the_longest_word_is_taken(text: str, expected: list[str]) -> None:
    assert LongestMatch(LIST)(text) == expected


def test_any_text_is_cut_without_loss() -> None:
    random.seed(0)
    for _ in range(300):
        text = "".join(random.choices("自然语言处理 \n很ab19。𠀀é", k=random.randrange(30)))
        assert "".join(LongestMatch(LIST)(text)) == text


def test_words_are_found_in_their_text() -> None:
    assert word_starts("a  b语言", ["a", " ", "b", "", "语言"]) == [0, 3, 4]
    assert word_starts("", []) == []
    with pytest.raises(DataError, match="does not follow"):
        word_starts("语言", ["言", "语"])
    with pytest.raises(DataError, match="no word for the end"):
        word_starts("语言处理", ["语言"])


def test_jieba_and_a_function_and_a_list(words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def pairs(text):\n    return [text[n : n + 2] for n in range(0, len(text), 2)]\n"
    )
    ours = WordFinder(f"{tmp_path / 'mine.py'}:pairs")
    assert ours("自然语言处") == [0, 2, 4]
    assert ours.fingerprint.endswith("mine.py:pairs")
    assert WordFinder(words)("自然语言处理") == [0, 4]
    assert WordFinder(words).fingerprint.startswith("list ")
    jieba = pytest.importorskip("jieba")
    actual = WordFinder("jieba")
    assert actual.fingerprint == f"jieba {jieba.__version__}"
    for text in TEXTS:
        starts = [*actual(text), len(text)]
        given = [word for word in jieba.lcut(text) if not word.isspace()]
        assert [text[a:b].rstrip() for a, b in pairwise(starts)] == given


def test_a_segmenter_that_is_not_there_is_told_before_reading(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("other = 3\n\ndef wrong(text):\n    return ['x']\n")
    for name, kind, match in [
        ("nowhere.txt", MissingInputError, "nor a word list"),
        (f"{tmp_path / 'mine.py'}:other", UsageError, "no function 'other'"),
        (f"{tmp_path / 'none.py'}:cut", MissingInputError, "no such file"),
        ("no.such.module:cut", UsageError, "cannot import"),
    ]:
        with pytest.raises(kind, match=match):
            prepare(tmp_path / "absent.txt", trained(), tmp_path / "store", PrepareConfig(segmenter=name))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="without words"):
        WordFinder(str(tmp_path / "empty.txt"))("a")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        WordFinder(str(tmp_path / "latin.txt"))("a")
    (tmp_path / "text.txt").write_text("语言")
    wrong = PrepareConfig(segmenter=f"{tmp_path / 'mine.py'}:wrong")
    with pytest.raises(DataError, match=r"wrong.*does not follow"):
        prepare(tmp_path / "text.txt", trained(), tmp_path / "s", wrong)


def trained(kind: str = "wordpiece") -> Tokenizer:
    return train_tokenizer(TEXTS * 5, TokenizerConfig(kind=kind, vocab_size=400))


def store_of(folder: Path, texts: list[str], tokenizer: Tokenizer, **fields: object) -> TokenStore:
    folder.mkdir(parents=True)
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    config = PrepareConfig(validation=0.0, corpus=CorpusConfig(), **fields)
    return prepare(path, tokenizer, folder / "store", config)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_store_knows_the_words_of_its_tokens(kind: str, words: str, tmp_path: Path) -> None:
    """Against offsets of the whole text: a word begins at the token that holds its first character."""
    tokenizer = trained(kind)
    split = store_of(tmp_path / "a", TEXTS, tokenizer, segmenter=words).split("train")
    assert split.has_words
    offsets = split.document_offsets
    actual = split.read_word_starts(offsets[:-1], offsets[1:])
    expected: list[bool] = []
    for text in TEXTS:
        encoding = tokenizer.plain.encode(text, add_special_tokens=False)
        begins = {0, len(encoding.ids)}
        for start in WordFinder(words)(text):
            token = next(n for n, (_, last) in enumerate(encoding.offsets) if last > start)
            begins.add(token - (token > 0 and encoding.tokens[token - 1] == "▁"))  # a space of its own goes with it
        expected += [n in begins for n in range(len(encoding.ids) + 1)]
    assert actual.tolist() == expected
    assert 0.3 < actual.mean() < 0.95


def test_any_number_of_processes_gives_the_same_words(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "BATCH_BYTES", 2000)
    texts = [f"{text}{n}" for n in range(200) for text in TEXTS]
    tokenizer = trained()
    one, two = (store_of(tmp_path / str(n), texts, tokenizer, segmenter=words, processes=n) for n in (1, 2))
    assert one.fingerprint == two.fingerprint
    held = PrepareConfig(validation=0.3, segmenter=words)
    other = prepare(tmp_path / "1" / "text.jsonl", tokenizer, tmp_path / "held", held)
    assert other.split("validation").has_words
    counts = [
        other.split(name).read_word_starts(np.array([0]), np.array([other.split(name).token_count])).sum()
        for name in ("train", "validation")
    ]
    whole = one.split("train")
    assert sum(counts) == whole.read_word_starts(np.array([0]), np.array([whole.token_count])).sum()


def test_another_segmenter_is_another_store(words: str, tmp_path: Path) -> None:
    tokenizer = trained()
    store = store_of(tmp_path / "a", TEXTS, tokenizer, segmenter=words)
    path = tmp_path / "a" / "text.jsonl"
    config = PrepareConfig(validation=0.0, segmenter=words)
    assert prepare(path, tokenizer, store.path, config).fingerprint == store.fingerprint
    Path(words).write_text("自然\n", encoding="utf-8")
    with pytest.raises(Exception, match="segmenter"):
        prepare(path, tokenizer, store.path, config)
    plain = store_of(tmp_path / "b", TEXTS, tokenizer)
    assert not plain.split("train").has_words
    assert "segmenter" not in plain.manifest.config
    with pytest.raises(DataError, match="prepare it with a segmenter"):
        plain.split("train").read_word_starts(np.array([0]), np.array([3]))


@pytest.mark.parametrize(
    "objective",
    [{"mlm": {"units": "word"}}, {"mlm": {"units": "word"}, "nsp": 1.0}, {"sop": 1.0, "mlm": {"units": "word"}}],
)
def test_masks_keep_to_the_words_of_the_store_wherever_sentences_go(
    objective: dict[str, object], words: str, tmp_path: Path
) -> None:
    tokenizer = trained()
    texts = [f"{a}{b}{n}" for n in range(20) for a in TEXTS for b in TEXTS]
    store = store_of(tmp_path / "a", texts, tokenizer, segmenter=words)
    built = build(objective, tokenizer.vocabulary)
    view = build_view(store.split("train"), built.view, 60 - built.overhead, 0, built.pack, built.words)
    rows = view.read(np.arange(len(view)), 0, 0, Draw(1))
    batch = built.build_batch(rows, Draw(1))
    index, label = batch.targets["mlm"]
    tokens = batch.tokens.clone()
    tokens[index] = label
    hidden = np.zeros(len(tokens), np.bool_)
    hidden[index.numpy()] = True
    assert int(tokens.max()) < tokenizer.vocabulary.size
    assert batch.continues_word is not None
    checked = 0
    for a, b in zip(batch.layout.bounds, batch.layout.bounds[1:], strict=False):
        text = [tokenizer.token(int(t)) for t in tokens[a:b]]
        for word in ("自然语言", "有意思", "我们"):
            size = len(word)
            for n in range(len(text) - size + 1):
                if text[n : n + size] == list(word):
                    assert len(set(hidden[a + n : a + n + size].tolist())) == 1
                    checked += 1
    assert checked > 50
    if "nsp" in batch.targets or "sop" in batch.targets:
        plain = build_view(store.split("train"), built.view, 60 - built.overhead, 0, built.pack)
        assert built.prepare(plain.read(np.arange(len(view)), 0, 0, Draw(1)), Draw(1)).tokens.equal(tokens)


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_chinese_sentences_are_masked_by_words(count: int, data_folder: Path, tmp_path: Path) -> None:
    """The masked tokens are words of the segmenter, and 15 % of all tokens, to 0.2."""
    jieba = pytest.importorskip("jieba")
    lines = (data_folder / "corpora/zh/peoples-daily-199801-plain.txt").read_text(encoding="utf-8").splitlines()
    sentences = [line.strip() for line in lines if 8 <= len(line.strip()) <= 300][:count]
    assert len(sentences) == count
    tokenizer = train_tokenizer(sentences, TokenizerConfig(vocab_size=8000))
    store = store_of(tmp_path / "zh", sentences, tokenizer, segmenter="jieba")
    split = store.split("train")
    objective = build({"mlm": {"units": "word"}}, tokenizer.vocabulary)
    view = build_view(split, "stream", 400, 0, "document", objective.words)
    assert len(view) == split.document_count > 0.99 * count  # equal sentences are one
    batch = objective.build_batch(view.read(np.arange(len(view)), 0, 0, Draw(0)), Draw(0))
    index, _ = batch.targets["mlm"]
    total = batch.layout.total - 2 * batch.layout.count
    assert abs(len(index) / total - 0.15) < 0.002
    hidden = np.zeros(batch.layout.total, np.bool_)
    hidden[index.numpy()] = True
    texts = list(dict.fromkeys(sentences))
    partial = whole = 0
    for n, (a, b) in enumerate(zip(batch.layout.bounds, batch.layout.bounds[1:], strict=False)):
        encoding = tokenizer.plain.encode(texts[n], add_special_tokens=False)
        ours, words = hidden[a + 1 : b - 1], jieba.lcut(texts[n])
        assert len(ours) == len(encoding.ids)
        owner = np.repeat(np.arange(len(words)), [len(word) for word in words])
        first = owner[[start for start, _ in encoding.offsets]]
        for word in set(first[ours].tolist()):
            inside = ours[first == word]
            whole += bool(inside.all())
            partial += not inside.all()
    assert partial == 0
    assert whole > 2 * count
