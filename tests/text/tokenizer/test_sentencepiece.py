"""Tokenizers of sentencepiece, converted: the ids are those of the library itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from pretune.errors import DataError, MissingInputError
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


T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ALBERT = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
LLAMA = {**KINDS["as it is"]}


@pytest.mark.parametrize(
    ("name", "options", "settings", "around"),
    [
        ("spiece.model", T5, {"tokenizer_class": "T5Tokenizer", "extra_ids": 4}, "a </s>"),
        ("tokenizer.model", LLAMA, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, "<s> a"),
        ("tokenizer.model", LLAMA, {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True}, "a </s>"),
        ("tokenizer.model", LLAMA, {"tokenizer_class": "LlamaTokenizer"}, "a"),
        ("spiece.model", ALBERT, {"tokenizer_class": "AlbertTokenizer"}, "[CLS] a [SEP]"),
        (
            "spiece.model",
            {},
            {"tokenizer_class": "XLNetTokenizer", "cls_token": "<s>", "sep_token": "</s>"},
            "a </s> <s>",
        ),
        ("sentencepiece.bpe.model", {}, {"tokenizer_class": "XLMRobertaTokenizer"}, "<s> a </s>"),
    ],
)
def test_what_stands_around_texts(
    name: str, options: dict[str, Any], settings: dict[str, Any], around: str, tmp_path: Path
) -> None:
    train(tmp_path, **options).rename(tmp_path / name)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    oracle, own = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    assert [own.token(i) if i != 100 else "a" for i in own.vocabulary.add_special_tokens([100])[0]] == around.split()
    for text in TEXTS:
        tokens = own.encode(text, allow_special=True)
        assert own.vocabulary.add_special_tokens(tokens)[0].tolist() == oracle(text)["input_ids"], text
        pair = own.vocabulary.add_special_tokens(tokens, own.encode("the dog"))[0].tolist()
        assert pair == oracle(text, "the dog")["input_ids"]
        assert own.decode(tokens) == oracle.decode(tokens, skip_special_tokens=True)
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
    with pytest.raises(
        MissingInputError, match=r"XLMRobertaTokenizer is named, and neither tokenizer\.json nor sentenc"
    ):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match="model type"):
        Tokenizer.load(train(tmp_path, model_type="char"))


def test_a_special_token_that_the_vocabulary_lacks(tmp_path: Path) -> None:
    """The template is not left out in silence."""
    train(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "AlbertTokenizer"}')
    with pytest.raises(DataError, match=r"'\[CLS\]' is to stand around a text, and the vocabulary does not have it"):
        Tokenizer.load(tmp_path)
