"""Training tokenizers: what is learned, what is promised (same text, same tokenizer), what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from pretune.errors import DataError, UsageError
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

ENGLISH = [f"sentence number {n} says that words are learned from many words, naïvely {n * 7}" for n in range(200)]
CHINESE = [
    "深度学习模型从文本中学习语言。你好，世界！",
    "自然语言处理的模型在学习。",
    "我们学习语言，语言学习我们。",
] * 40


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("texts", [ENGLISH, CHINESE, ENGLISH + CHINESE], ids=["english", "chinese", "both"])
def test_same_text_same_tokenizer(kind: str, texts: list[str]) -> None:
    config = TokenizerConfig(kind=kind, vocab_size=500)
    assert len({train_tokenizer(iter(texts), config).hash for _ in range(3)}) == 1


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_size_and_coverage(kind: str) -> None:
    tokenizer = train_tokenizer(ENGLISH, TokenizerConfig(kind=kind, vocab_size=400))
    assert 150 < tokenizer.vocabulary.size <= 400
    ids = tokenizer.encode(ENGLISH[3])
    assert tokenizer.vocabulary.unk not in ids
    assert len(ids) < len(ENGLISH[3]) * (0.9 if kind == "unigram" else 0.5)  # its trainer needs varied words
    if kind != "wordpiece":
        assert tokenizer.decode(ids) == ENGLISH[3]


def test_special_ids_of_each_kind() -> None:
    bert = train_tokenizer(ENGLISH, TokenizerConfig(vocab_size=300)).vocabulary
    assert (bert.pad, bert.unk, bert.cls, bert.sep, bert.mask, bert.bos, bert.eos) == (0, 1, 2, 3, 4, None, None)
    gpt = train_tokenizer(ENGLISH, TokenizerConfig(kind="bpe", vocab_size=300)).vocabulary
    assert (gpt.pad, gpt.unk, gpt.mask, gpt.bos, gpt.eos) == (None, None, None, 0, 0)
    piece = train_tokenizer(ENGLISH, TokenizerConfig(kind="unigram", vocab_size=300)).vocabulary
    assert piece.unk == 0
    assert (piece.bos, piece.eos, piece.pad, piece.mask) == tuple(range(piece.size - 4, piece.size))
    assert (piece.cls, piece.sep) == (piece.bos, piece.eos)


@pytest.mark.parametrize(
    ("special", "ids", "template"),
    [
        ("roberta", {"cls": 0, "bos": 0, "pad": 1, "sep": 2, "eos": 2, "mask": 4}, [0, 9, 2, 2, 9, 2]),
        ("bert", {"pad": 0, "cls": 2, "sep": 3, "mask": 4, "eos": None}, [2, 9, 3, 9, 3]),
    ],
)
def test_bytes_with_mask_pad_and_frame(special: str, ids: dict[str, int | None], template: list[int]) -> None:
    """What RoBERTa, BART and ModernBERT are pretrained with; the mask takes the space before it, as theirs do."""
    fields = {"kind": "bpe", "vocab_size": 300, "special_tokens": special}
    tokenizer = train_tokenizer(ENGLISH, TokenizerConfig.model_validate(fields))
    vocabulary = tokenizer.vocabulary
    assert {role: getattr(vocabulary, role) for role in ids} == ids
    assert vocabulary.add_special_tokens([9], [9])[0].tolist() == template
    mask = tokenizer.token(4)
    assert tokenizer.encode(f"a {mask} b", allow_special=True)[1] == 4
    assert tokenizer.decode(tokenizer.encode(f"a {mask} b")) == f"a {mask} b"  # of plain text no special token comes


def test_wordpiece_options() -> None:
    cased = train_tokenizer(["Über Über naïve"] * 9, TokenizerConfig(vocab_size=100, lowercase=False))
    assert cased.decode(cased.encode("Über")) == "Über"
    kept = train_tokenizer(["Über Über naïve"] * 9, TokenizerConfig(vocab_size=100))
    assert kept.decode(kept.encode("Über")) == "über"
    plain = train_tokenizer(["Über Über naïve"] * 9, TokenizerConfig(vocab_size=100, strip_accents=True))
    assert plain.decode(plain.encode("Über")) == "uber"


WORDS = {  # each pair is two words
    "japanese": ("か\u3099く", "かく"),
    "hindi": ("कि", "का"),
    "vietnamese": ("mà", "ma"),
    "thai": ("ข้าว", "ขาว"),
    "german": ("möchte", "mochte"),
    "hebrew": ("שָׁם", "שֵׁם"),
}


@pytest.mark.parametrize("script", WORDS)
def test_different_words_stay_different(script: str) -> None:
    """BERT's normalizer takes every mark of class Mn once it lowers case; a tokenizer of ours takes none by default."""
    one, other = WORDS[script]
    texts = [f"{one} {other}"] * 30
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=100))
    assert tokenizer.encode(one).tolist() != tokenizer.encode(other).tolist()
    assert tokenizer.decode(tokenizer.encode(one)) == one
    latin = script in ("german", "vietnamese")
    stripped = train_tokenizer(texts, TokenizerConfig(vocab_size=100, strip_accents=True))
    assert (stripped.encode(one).tolist() == stripped.encode(other).tolist()) == latin
    accented = 30 * latin
    total = len(texts[0]) * 30
    assert stripped.notes == [
        f"strip_accents: {accented} of {total} characters lose an accent ({accented / total:.2%})"
    ]


def test_byte_fallback_loses_nothing_and_is_not_spelt_by_text() -> None:
    tokenizer = train_tokenizer(CHINESE, TokenizerConfig(kind="unigram", vocab_size=600, byte_fallback=True))
    for text in ("龘😀 Ω", "<0x41><0x0A> 你", "a\u200bb"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.vocabulary.unk not in tokenizer.encode(text)
    assert not any(tokenizer.token(i).startswith("<0x") for i in tokenizer.encode("<0x41>"))
    without = train_tokenizer(CHINESE, TokenizerConfig(kind="unigram", vocab_size=300))
    assert without.vocabulary.unk in without.encode("龘")


def test_text_is_read_once_and_to_the_limit() -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for text in ENGLISH:
            read += 1
            yield text

    train_tokenizer(texts(), TokenizerConfig(kind="bpe", vocab_size=300, max_bytes=1000))
    assert 10 < read < 20


def test_settings_are_saved(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(ENGLISH, TokenizerConfig(vocab_size=300, max_length=77))
    tokenizer.save(tmp_path)
    assert '"model_max_length": 77' in (tmp_path / "tokenizer_config.json").read_text()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("texts", [[], [""], [" \n\t", "\u3000"]])
def test_no_text(kind: str, texts: list[str]) -> None:
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(texts, TokenizerConfig(kind=kind, vocab_size=300))


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 20), ("bpe", 256), ("unigram", 20)])
def test_vocabulary_too_small(kind: str, size: int) -> None:
    with pytest.raises(UsageError, match="too small"):
        train_tokenizer(ENGLISH, TokenizerConfig(kind=kind, vocab_size=size))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "bpe", "lowercase": True},
        {"byte_fallback": True},
        {"vocab_size": 0},
        {"kind": "word"},
        {"special_tokens": "bert"},
    ],
)
def test_options_of_another_kind(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TokenizerConfig.model_validate(fields)


def test_lone_surrogate() -> None:
    with pytest.raises(DataError, match="surrogate"):
        train_tokenizer(["fine", "a\ud800"], TokenizerConfig(vocab_size=300))


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_one_word(kind: str) -> None:
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind=kind, vocab_size=300))
    assert tokenizer.decode(tokenizer.encode("a")) == "a"
