"""Texts of megabytes: in blocks, or no more than what stays, with the ids and places of the whole text."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable

import numpy as np
import pytest
import tokenizers
from tinymodels import byte_tokenizer, word_tokenizer
from tokenizers import models

from pretune.errors import DataError
from pretune.text.tokenizer import long_texts
from pretune.text.tokenizer.long_texts import LONG, EncodedText, Keep, LongText
from pretune.text.tokenizer.tokenizer import Tokenizer, encode_all
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

SIZE = 40_000  # characters of a text
WORDS = {
    "latin": "the quick, brown fox's (42) jumps over 1234567 lazy dogs. don't! École naïve Ünïcödé",
    "cyrillic": "Привет, мир! Как дела? Ёжик 3,14",
    "arabic": "مرحبا بالعالم، كيف حالك؟ الْعَرَبِيَّةُ",
    "hindi": "हिन्दी भाषा में नमस्ते दुनिया क्षत्रिय १२३",
    "code": "def f(x):\n    return x+1\n\t\tif a==b: {'k':[1,2,3]} #--------------------------------------------------",
}
CHARACTERS = {
    "chinese": "模型学习语言很快不是吗我们今天去北京，。！？0123abc",
    "japanese": "カタカナひらがな漢字東京タワー。、\n がぎぐ",
    "thai": "ภาษาไทยสวยงามก็ดีครับ ",
    "emoji": "🙂👍🏽👨‍👩‍👧é x\n\t",
    "digits": "0123456789",
    "base64": "ABCDEFabcdef0123456789+/",
    "one letter": "a",
}


def make_text(kind: str, size: int = SIZE) -> str:
    draw = random.Random(kind)
    if kind == "spaces":
        return "".join(draw.choice(["a", " " * draw.randint(1, 3000), "\n" * 700, "word"]) for _ in range(size // 800))
    if kind == "long words":
        sizes = (5, 90, 101, 110, 500, 3000, 40_000)
        return " ".join("".join(draw.choices("abcXYZéя", k=draw.choice(sizes))) for _ in range(size // 5000))
    if kind in CHARACTERS:
        return "".join(draw.choices(CHARACTERS[kind], k=size)) + " the end."
    words = WORDS[kind].split(" ")
    blanks = [" ", " ", " ", "  ", "\n", "\u3000", "\xa0"]
    return "".join(draw.choice(words) + draw.choice(blanks) for _ in range(size // 6))


def unigram() -> Tokenizer:
    texts = [make_text(kind, 4000) for kind in (*WORDS, *CHARACTERS)]
    return train_tokenizer(texts, TokenizerConfig(kind="unigram", vocab_size=700))


def unsplit() -> Tokenizer:
    """BPE over whole texts, as in Llama 2: nothing cuts them into words."""
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "a"), ("aa", "aa"), ("o", "n"), ("▁", "▁"), ("1", "2")]
    pieces = ["<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz0123456789", *("".join(pair) for pair in merges)]
    vocab = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True))
    replace = tokenizers.normalizers.Replace(" ", "▁")
    backend.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("▁"), replace])
    backend.add_special_tokens(["<unk>"])
    return Tokenizer(backend, {"unk_token": "<unk>"})


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": word_tokenizer,
    "bytes": byte_tokenizer,
    "unigram": unigram,
    "unsplit": unsplit,
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return MAKERS[request.param]()


def whole(tokenizer: Tokenizer, text: str) -> EncodedText:
    (encoding,) = encode_all(tokenizer.plain, [text], offsets=True)
    return EncodedText(np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2))


def long_text(tokenizer: Tokenizer, text: str) -> LongText:
    max_word = tokenizer.layout["model"].get("max_input_chars_per_word")

    def encode(part: str) -> tuple[np.ndarray, np.ndarray]:
        tokens, offsets = whole(tokenizer, part)
        return tokens, offsets

    return LongText(text, encode, tokenizer.vocabulary.unk, max_word)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind, marks=pytest.mark.slow if kind in ("cyrillic", "hindi", "japanese", "emoji", "digits") else ()
        )
        for kind in (*WORDS, *CHARACTERS, "spaces", "long words")
    ],
)
def test_ids_are_those_of_the_whole_text(tokenizer: Tokenizer, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_texts, "LONG", 1 << 14)
    text = make_text(kind)
    wanted, long = whole(tokenizer, text), long_text(tokenizer, text)
    read = long.beginning()
    np.testing.assert_array_equal(read.tokens, wanted.tokens)
    np.testing.assert_array_equal(read.offsets, wanted.offsets)
    for count in (30, 500):
        head, tail, both = (long.kept(Keep.of(count, name)) for name in ("head", "tail", "head+tail"))
        enough = min(count + 1, len(wanted.tokens))
        for part in (head, tail, both):
            assert len(part.tokens) >= enough
            assert (part.dropped == 0) == (len(part.tokens) == len(wanted.tokens))
        size = len(head.tokens)
        np.testing.assert_array_equal(head.tokens, wanted.tokens[:size])
        np.testing.assert_array_equal(head.offsets, wanted.offsets[:size])
        np.testing.assert_array_equal(tail.tokens, wanted.tokens[-len(tail.tokens) :])
        np.testing.assert_array_equal(tail.offsets, wanted.offsets[-len(tail.tokens) :])
        np.testing.assert_array_equal(both.tokens[:enough], wanted.tokens[:enough])
        np.testing.assert_array_equal(both.tokens[-enough:], wanted.tokens[-enough:])


def test_what_is_dropped_is_estimated(tokenizer: Tokenizer) -> None:
    text = make_text("latin")
    wanted = len(whole(tokenizer, text).tokens)
    for truncate in ("head", "tail", "head+tail", "error"):
        kept = long_text(tokenizer, text).kept(Keep.of(200, truncate))
        assert len(kept.tokens) + kept.dropped == pytest.approx(wanted, rel=0.1)


def test_ten_megabytes_are_cut_before_they_are_encoded(tokenizer: Tokenizer) -> None:
    text = make_text("latin", 20_000) * 500
    assert len(text) > 10_000_000
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for truncate in ("head", "tail", "head+tail"):
        (kept,) = tokenizer.encode_kept([text], Keep.of(512, truncate))
        assert 513 <= len(kept.tokens) < 20_000
    assert time.process_time() - begin < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10


def test_long_and_short_texts_together(tokenizer: Tokenizer) -> None:
    texts = ["the cat", make_text("latin", LONG + 500), "a dog ate", make_text("chinese", LONG + 500)]
    runs = tokenizer.encode_batch(texts)
    pairs = tokenizer.encode_kept(texts)
    for text, run, (tokens, offsets) in zip(texts, runs, pairs, strict=True):
        (encoding,) = encode_all(tokenizer.plain, [text], offsets=True)
        assert run.tolist() == tokens.tolist() == encoding.ids
        assert len(offsets) == len(tokens)


def test_a_surrogate_far_behind_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=f"text 2 of 2: lone surrogate U.D800 at character {LONG + 7}"):
        tokenizer.encode_batch(["a", "a" * (LONG + 7) + "\ud800"], keep=Keep(10))


def test_a_word_too_long_for_wordpiece_is_one_unknown_token() -> None:
    tokenizer = word_tokenizer()
    text = "a" * 3_000_000 + " the fox " + "é" * 200_000
    read = long_text(tokenizer, text).beginning()
    wanted = [tokenizer.vocabulary.unk, *tokenizer.encode("the fox").tolist(), tokenizer.vocabulary.unk]
    assert read.tokens.tolist() == wanted
    assert read.offsets[[0, -1]].tolist() == [[0, 3_000_000], [3_000_009, 3_200_009]]
