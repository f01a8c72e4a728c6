"""The tokenizers of the Marian translators: the ids are those of `transformers.MarianTokenizer`."""

from __future__ import annotations

import json
import logging
import random
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pretune
from pretune.errors import DataError
from pretune.text.tokenizer.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece", reason="the extra 'sentencepiece' is not installed")
ENGLISH = [
    "the quick brown fox jumps over the lazy dog and the cat ate a hat",
    "don't you think it's 3.14159 or 42? I do; they don't!",
    "a model of language learns the language from text",
]
CHINESE = ["模型学习语言，语言模型学习。中文文本没有空格。", "我爱北京天安门", "今天天气很好，我们去公园散步。"]


def translator(folder: Path, drop: int = 0, **options: Any) -> Path:
    """Files as those of an OPUS translator, of a few lines."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, None] = {}
    for name, lines in (("source", ENGLISH), ("target", CHINESE)):
        text = folder / f"{name}.txt"
        text.write_text("\n".join(lines * 20), encoding="utf-8")
        given = {"vocab_size": 90, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1, **options}
        sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=str(folder / name), **given)
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        actual = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces |= dict.fromkeys(actual.id_to_piece(n) for n in range(actual.vocab_size()))
    for name in ("<unk>", "<s>", "</s>"):
        del pieces[name]
    kept = [">>cmn<<", *reversed(pieces)][: len(pieces) + 1 - drop]  # ids that are not those of either file
    names = ["</s>", "<unk>", *kept, "<pad>"]
    vocab = {name: n for n, name in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "zh"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def test_what_is_read_has_the_ids_of_the_library(tmp_path: Path) -> None:
    folder = translator(tmp_path / "model")
    oracle, own = transformers.MarianTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    assert own.vocabulary.size == len(oracle)
    assert (own.vocabulary.pad, own.vocabulary.eos, own.vocabulary.unk) == (len(oracle) - 1, 0, 1)
    texts = [*ENGLISH, "", " ", "  the  dog ", ">>cmn<< the dog", "ＡＢ the", "the dog ☃ and the ☃☃ cat", "</s> the"]
    for text in texts[:-1]:
        assert own.vocabulary.with_end(own.encode(text)).tolist() == oracle(text)["input_ids"], text
    assert 0 not in own.encode(texts[-1])  # text is text
    for text in CHINESE:
        written = oracle(text_target=text)["input_ids"]
        messages = oracle.decode(written, skip_special_tokens=True)
        assert own.decode(written) == messages == unicodedata.normalize("NFKC", text)


def test_a_translator_as_others_publish_it(tmp_path: Path) -> None:
    """A configuration with the fields of older libraries, and this tokenizer: the texts are those of `transformers`."""
    folder = translator(tmp_path / "model")
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    pad = tokenizer.pad_token_id
    config = transformers.MarianConfig(
        vocab_size=len(tokenizer), pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0,
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, activation_function="swish",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.MarianMTModel(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "embed_positions" not in name:  # the waves are no weights
                parameter.mul_(4.0)
    theirs.generation_config.update(bad_words_ids=[[pad]], max_length=None)
    theirs.save_pretrained(folder)
    messages = json.loads((folder / "config.json").read_text())
    messages |= {"static_position_embeddings": True, "normalize_before": False, "normalize_embedding": False}
    messages |= {"add_bias_logits": False, "extra_pos_embeddings": len(tokenizer), "prefix": ">>cmn<< ", "num_beams": 6}
    (folder / "config.json").write_text(json.dumps(messages))
    model = pretune.load(folder, device="cpu", precision="fp32")
    for text in ENGLISH:
        with torch.inference_mode():
            actual = theirs.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=12, num_beams=1)
        assert model.generate(text, max_new_tokens=12, temperature=0.0) == tokenizer.decode(
            actual[0], skip_special_tokens=True
        )


def test_it_is_saved_for_everybody(tmp_path: Path) -> None:
    own = Tokenizer.load(translator(tmp_path / "model"))
    own.save(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in ENGLISH:
        assert again(text)["input_ids"] == own.vocabulary.with_end(own.encode(text)).tolist()
        assert Tokenizer.load(tmp_path / "saved").encode(text).tolist() == own.encode(text).tolist()


def test_pieces_without_an_id_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Tokenizer.load(translator(tmp_path / "model", drop=3))
    assert "3 of " in caplog.text
    assert "have no id in vocab.json" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": {"</s>": 0, "<unk>": 2, "<pad>": 1, "a": 4}}, "each id from 0 on once"),
        ({"vocab": ["</s>"]}, "expected an object of pieces"),
        ({"vocab": {"</s>": 0, "<unk>": 1, "a": 2}}, "'<pad>' is not in it"),
        ({"settings": {"separate_vocabs": True}}, "a vocabulary for each side"),
        ({"options": {"model_type": "bpe"}}, "expected unigram"),
    ],
)
def test_what_would_give_other_ids_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = translator(tmp_path / "model", **change.get("options", {}))
    if "vocab" in change:
        (folder / "vocab.json").write_text(json.dumps(change["vocab"]))
    if "settings" in change:
        (folder / "tokenizer_config.json").write_text(json.dumps(change["settings"]))
    with pytest.raises(DataError, match=message):
        Tokenizer.load(folder)


def _random_settings(folder: Path, seed: int) -> None:
    """Fields and added tokens at random, now and then with an id that is taken or leaves a gap."""
    draw = random.Random(seed)
    first = len(json.loads((folder / "vocab.json").read_text())) + draw.choice([0, 0, 0, 5, -2])
    words = draw.sample(["aspirin", "<drug>", "dog", "<e1>"], 2)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if draw.random() < 0.3:
        (folder / "added_tokens.json").write_text(json.dumps({word: first + n for n, word in enumerate(words)}))
    if draw.random() < 0.3:
        settings["added_tokens_decoder"] = {
            str(first + n): {"content": word, "lstrip": draw.random() < 0.2, "special": draw.random() < 0.5}
            for n, word in enumerate(words)
        }
    if draw.random() < 0.3:
        settings["additional_special_tokens"] = words
    if draw.random() < 0.2:
        settings["eos_token"] = draw.choice(["<x>", "</s>", None])
    if draw.random() < 0.2:
        (folder / "special_tokens_map.json").write_text(
            '{"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}'
        )
    if draw.random() < 0.3:
        del settings["tokenizer_class"]
    (folder / "config.json").write_text('{"model_type": "marian"}')
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_fields_at_random_give_the_same_ids_or_are_refused(tmp_path: Path) -> None:
    base, equal = translator(tmp_path / "model"), 0
    lines = [
        *ENGLISH,
        *("", " ", "  the  dog ", "the dog  aspirin ", "<drug>the", "x</s> the <unk> a <pad>", "ａ dog dogs hotdog"),
        *("the<e1>dog", " aspirin the", "aspirins", ">>cmn<<aspirin the", ">>cmn<< the aspirin<drug> dog"),
    ]
    for seed in range(40):
        folder = shutil.copytree(base, tmp_path / str(seed))
        _random_settings(folder, seed)
        try:
            own = Tokenizer.load(folder)
        except DataError:
            continue
        oracle = transformers.AutoTokenizer.from_pretrained(folder)
        for line in lines:
            ids = own.vocabulary.add_special_tokens(own.encode(line, allow_special=True))[0].tolist()
            assert ids == oracle(line)["input_ids"], (seed, line)
            assert own.decode(ids).strip() == oracle.decode(ids, skip_special_tokens=True), (seed, line)
        equal += 1
    assert equal > 15
