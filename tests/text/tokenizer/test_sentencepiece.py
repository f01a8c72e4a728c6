"""Tokenizers of sentencepiece, converted: the ids are those of the library itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from pretune.errors import DataError
from pretune.text.tokenizer.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece", reason="the extra 'sentencepiece' is not installed")
LINES = [
    "the quick brown fox jumps over the lazy dog and the cat ate a hat",
    "模型学习语言，语言模型学习。中文文本没有空格。",
    "don't you think it's 3.14159 or 42? I do; they don't!",
    "Ünïcode naïve café résumé",
]
TEXTS = [
    *LINES,
    "",
    " ",
    "  two  spaces   and a tab\tand\nlines  ",
    "full-width ＡＢＣ １２３",
    "emoji 😀 and 🏳️‍🌈 unknown ก ข ค",
    "a",
    "▁ a",
    "学习 learns 语言",
    "<s> </s> <unk>",
    "(the)the. a-b – £5(the fox) x <user>y <user><user> <user> ",
]
KINDS: dict[str, dict[str, Any]] = {
    "unigram": {"model_type": "unigram"},
    "unigram bytes": {"model_type": "unigram", "byte_fallback": True, "vocab_size": 420},
    "bpe": {"model_type": "bpe"},
    "bpe bytes": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 420},
    "as it is": {
        "model_type": "bpe",
        "byte_fallback": True,
        "vocab_size": 420,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "no prefix": {"model_type": "unigram", "add_dummy_prefix": False},
    "own pieces": {"user_defined_symbols": ["<user>", "(", ")", ".", "-", "–", "£", "the"]},  # as ALBERT and XLNet have
}


def train(folder: Path, **options: Any) -> Path:
    """A model file of a few lines."""
    text = folder / "text.txt"
    text.write_text("\n".join(LINES * 20), encoding="utf-8")
    options = {"vocab_size": 150, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1, **options}
    sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=str(folder / "spiece"), **options)
    return folder / "spiece.model"


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_those_of_the_library(kind: str, tmp_path: Path) -> None:
    path = train(tmp_path, **KINDS[kind])
    oracle, own = sentencepiece.SentencePieceProcessor(model_file=str(path)), Tokenizer.load(path)
    assert own.vocabulary.size == oracle.vocab_size()
    for text in TEXTS:
        ids = own.encode(text).tolist()
        assert ids == oracle.encode(text), text
        if oracle.unk_id() not in ids:
            assert own.decode(ids) == oracle.decode(ids), text
    again = tmp_path / "saved"
    own.save(again)
    assert [Tokenizer.load(again).encode(text).tolist() for text in TEXTS] == [oracle.encode(text) for text in TEXTS]
    saved = transformers.AutoTokenizer.from_pretrained(again)
    for text in LINES:
        assert saved.encode(text, add_special_tokens=False) == oracle.encode(text)


@pytest.mark.parametrize(
    ("settings", "single", "pair"),
    [
        ({"tokenizer_class": "T5Tokenizer", "extra_ids": 4}, "a </s>", "a </s> b </s>"),
        ({"tokenizer_class": "LlamaTokenizer"}, "<s> a", "<s> a <s> b"),
        ({"add_bos_token": True, "add_eos_token": True}, "<s> a </s>", "<s> a </s> <s> b </s>"),
        (
            {"tokenizer_class": "AlbertTokenizer", "cls_token": "<s>", "sep_token": "</s>"},
            "<s> a </s>",
            "<s> a </s> b </s>",
        ),
        (
            {"tokenizer_class": "XLNetTokenizer", "cls_token": "<s>", "sep_token": "</s>"},
            "a </s> <s>",
            "a </s> b </s> <s>",
        ),
    ],
)
def test_what_stands_around_texts(settings: dict[str, Any], single: str, pair: str, tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    own = Tokenizer.load(tmp_path)
    names = {"<s>": 1, "</s>": 2, "a": 100, "b": 101}
    assert own.vocabulary.add_special_tokens([100])[0].tolist() == [names[part] for part in single.split()]
    assert own.vocabulary.add_special_tokens([100], [101])[0].tolist() == [names[part] for part in pair.split()]
    if settings.get("extra_ids"):
        size = own.vocabulary.size
        assert own.vocabulary.sentinels == (size - 1, size - 2, size - 3, size - 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "bpe", "user_defined_symbols": ["<user>"]}, "1 user-defined pieces .'<user>'. in a BPE"),
        ({"user_defined_symbols": ["ＡＢ"]}, "'ＡＢ' is not what normalization makes of it"),
        ({"treat_whitespace_as_suffix": True}, "white space is a suffix"),
    ],
)
def test_what_would_give_other_ids_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        Tokenizer.load(train(tmp_path, **options))


def test_files_that_are_not_models(tmp_path: Path) -> None:
    path = tmp_path / "spiece.model"
    for content in (b"", b"not a model at all", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"spiece\.model: not a sentencepiece model"):
            Tokenizer.load(tmp_path)
    train(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    with pytest.raises(DataError, match="ids of XLMRobertaTokenizer are not those of this file"):
        Tokenizer.load(tmp_path)
    with pytest.raises(DataError, match="model type"):
        Tokenizer.load(train(tmp_path / "..", model_type="char"))


def test_a_special_token_that_the_vocabulary_lacks(tmp_path: Path) -> None:
    """The template is not left out in silence."""
    train(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "AlbertTokenizer"}')
    with pytest.raises(DataError, match=r"'\[CLS\]' is to stand around a text, and the vocabulary does not have it"):
        Tokenizer.load(tmp_path)
