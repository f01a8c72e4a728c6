"""What stands around a text is the model's: every family with every kind of tokenizer, judged by `transformers`."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
import transformers
from tinymodels import byte_tokenizer, word_tokenizer

from pretune import api
from pretune.batch import ragged
from pretune.errors import DataError, UsageError
from pretune.find import variants
from pretune.interop.export import export_model
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.model_tokenizer import fit_tokenizer, resolve_token_ids
from pretune.models import build
from pretune.models.model import LanguageModel, get_family
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

LINES = [
    "The quick brown fox jumps over the lazy dog; it's 12345 o'clock in Café Zürich.",
    "模型学习语言很快，不是吗？我们今天去北京。 Hello World 我好",
    "か゛ が東京タワーへ行きました。ありがとうＡＢＣ",
    "हिन्दी भाषा में नमस्ते दुनिया",
    "  two  spaces\tand a tab, don't you'll 2024-11-28",
    "Tiếng Việt rất đẹp và thú vị",
]
KINDS = ("wordpiece", "bpe", "unigram")
SAMPLE = {
    ("gpt2", "wordpiece"),
    ("llama", "unigram"),
    ("roberta", "wordpiece"),
    ("t5", "bpe"),
    ("bart", "wordpiece"),
    ("qwen2", "bpe"),
    ("xlnet", "unigram"),
}
MATRIX = [
    pytest.param(family, kind, marks=() if (family, kind) in SAMPLE else pytest.mark.slow)
    for family in variants("models")
    for kind in KINDS
]


@cache
def trained(kind: str) -> Tokenizer:
    return train_tokenizer(LINES * 30, TokenizerConfig(kind=kind, vocab_size=700))  # type: ignore[arg-type]


def anew(family: str, tokenizer: Tokenizer) -> LanguageModel:
    """A random model with the tokenizer's ids in its configuration, as a run builds it."""
    roles = list(max(get_family(family).ARCHITECTURES.values(), key=len))
    fields, _ = resolve_token_ids(family, "tiny", {}, tokenizer)
    labels = ["a", "b"] if "classification" in roles else None
    model = build(family, "tiny", roles, fields, labels=labels).eval()
    parity.randomise(model)
    return model


def padded(model: Any, inputs: Any, has_encoder: bool) -> torch.Tensor:
    """The last hidden states of a padded batch, its real tokens alone."""
    real = inputs["attention_mask"].bool()
    decoder = {"decoder_input_ids": inputs["input_ids"], "decoder_attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        outputs = model(**inputs, **(decoder if has_encoder else {}), output_hidden_states=True)
    layers = getattr(outputs, "decoder_hidden_states", None) or outputs.hidden_states
    hidden: torch.Tensor = layers[-1][real]
    return hidden


@pytest.mark.parametrize(("family", "kind"), MATRIX)
def test_transformers_reads_a_text_as_the_model_does(family: str, kind: str, tmp_path: Path) -> None:
    """The same ids and segments, hidden states of a padded batch and greedy text, of what `AutoTokenizer` gives."""
    export_model(anew(family, trained(kind)), tmp_path / "out", trained(kind))
    ours = api.load(tmp_path / "out", "cpu", "fp32")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    vocabulary, network = ours.tokenizer.vocabulary, ours.network
    assert ("token_type_ids" in theirs("a")) == (network.segments > 1)
    rows = []
    for line, other in zip(LINES, reversed(LINES), strict=True):
        encoded = [ours.tokenizer.encode(text) for text in (line, other)]
        single = (
            vocabulary.with_end(encoded[0]) if network.has_encoder else vocabulary.add_special_tokens(encoded[0])[0]
        )
        assert theirs(line)["input_ids"] == single.tolist()
        tokens, segments = vocabulary.add_special_tokens(*encoded)
        pair = theirs(line, other)
        assert pair["input_ids"] == tokens.tolist()
        assert pair.get("token_type_ids", segments.tolist()) == segments.tolist()
        rows.append(single)
    kind_of_model = getattr(transformers, json.loads((tmp_path / "out/config.json").read_text())["architectures"][0])
    model = kind_of_model.from_pretrained(tmp_path / "out").eval()
    batch = ragged(rows)
    with torch.no_grad():
        hidden = network(replace(batch, source=batch) if network.has_encoder else batch).last_hidden_state
    other_hidden = padded(model, theirs(LINES, padding=True, return_tensors="pt"), network.has_encoder)
    assert float((hidden - other_hidden).abs().max()) <= 1e-4 * max(1.0, float(hidden.abs().max()))
    if "generate" in ours.abilities:
        prompt = "The quick brown"
        inputs = theirs(prompt, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
        first = 1 if network.has_encoder else inputs["input_ids"].shape[1]
        (continuation,) = ours.continuations([prompt], max_new_tokens=12, temperature=0)
        assert continuation.tokens == written[first:].tolist()


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "BertTokenizer", "GPT2Tokenizer", "RobertaTokenizer"])
def test_the_class_of_the_source_is_not_kept(name: str, tmp_path: Path) -> None:
    """`transformers` 5 makes normalizer and pre-tokenizer of such a class anew, whatever tokenizer.json says."""
    tokenizer = trained("bpe" if name != "BertTokenizer" else "wordpiece")
    named = Tokenizer(tokenizer.backend, {**tokenizer.settings, "tokenizer_class": name, "add_bos_token": True})
    named.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for line in LINES:
        assert theirs(line, add_special_tokens=False)["input_ids"] == tokenizer.encode(line).tolist()


def test_what_stands_around_a_text_is_not_part_of_the_tokenizers_hash() -> None:
    """A store holds texts alone, so that a model's own frame does not make it another tokenizer's."""
    tokenizer = trained("unigram")
    fitted = fit_tokenizer(tokenizer, anew("gpt2", tokenizer))
    assert fitted.vocabulary.templates[0] == ((None, 0),)
    assert tokenizer.vocabulary.prefix == (tokenizer.vocabulary.cls,)
    assert fitted.hash == tokenizer.hash


def test_a_model_that_was_read_keeps_the_frame_of_its_files(tmp_path: Path) -> None:
    """A decoder of elsewhere whose tokenizer puts tokens around a text is exported with them."""
    tokenizer = trained("wordpiece")
    save_model(anew("gpt2", tokenizer), tmp_path / "in")
    tokenizer.save(tmp_path / "in")
    api.load(tmp_path / "in", "cpu", "fp32").export(tmp_path / "out")
    source, exported = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("in", "out"))
    assert source("a b")["input_ids"] == exported("a b")["input_ids"]
    assert exported("a b")["input_ids"][-1] == tokenizer.vocabulary.sep
    assert "token_type_ids" not in exported("a b")  # GPT-2 would add the words of these ids to the text


def test_segments_that_a_model_lacks(tmp_path: Path) -> None:
    """RoBERTa has one segment: the pair template of BERT would look up a second one."""
    tokenizer = word_tokenizer()
    model = load_model_of("roberta", tokenizer, tmp_path)
    vocabulary = model.tokenizer.vocabulary
    assert vocabulary.add_special_tokens([7], [8])[1].tolist() == [0] * 5
    assert tokenizer.vocabulary.add_special_tokens([7], [8])[1].tolist() == [0, 0, 0, 1, 1]


def load_model_of(family: str, tokenizer: Tokenizer, folder: Path) -> api.Model:
    save_model(anew(family, tokenizer), folder)
    tokenizer.save(folder)
    return api.load(folder, "cpu", "fp32")


def last_pad() -> Tokenizer:
    """A tokenizer whose pad token has the last of its ids."""
    tokenizer = trained("bpe")
    backend = type(tokenizer.backend).from_str(tokenizer.backend.to_str())
    backend.add_special_tokens(["<pad>"])
    return Tokenizer(backend, {**tokenizer.settings, "pad_token": "<pad>"})


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), last_pad()], ids=["first", "last"])
def test_roberta_counts_positions_from_the_tokenizers_pad(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A run with pad 0 was read again with pad 0 and positions from pad 1; with the last id, by nobody."""
    pad = tokenizer.vocabulary.pad
    assert pad is not None
    model = anew("roberta", tokenizer)
    assert model.config.pad_token_id == pad  # type: ignore[attr-defined]
    assert model.max_length == 512
    save_model(model, tmp_path, tokenizer)
    again = load_model(tmp_path).eval()
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    row = np.array([t for t in range(3, 40) if t != pad])
    with torch.no_grad():
        outputs = [m(ragged([row])).last_hidden_state for m in (model, again)]
        outputs.append(theirs(torch.from_numpy(row)[None]).last_hidden_state[0])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=1e-5, atol=1e-4)


def test_a_roberta_built_by_hand_is_written_with_the_tokenizers_pad(tmp_path: Path) -> None:
    """Its positions move with the pad token; what it computes stays."""
    model = build("roberta", "tiny", ["mlm"], {"vocab_size": 300}).eval()
    before = model(ragged([np.arange(3, 20)])).last_hidden_state
    save_model(model, tmp_path, word_tokenizer())
    again = load_model(tmp_path).eval()
    assert again.config.pad_token_id == 0  # type: ignore[attr-defined]
    torch.testing.assert_close(again(ragged([np.arange(3, 20)])).last_hidden_state, before, rtol=0, atol=0)


def test_roberta_needs_a_pad_of_its_own() -> None:
    bare = byte_tokenizer()
    fields, _ = resolve_token_ids("roberta", "tiny", {}, bare)
    assert fields["pad_token_id"] == 0  # the end of a text, which stands around none
    framed = bare.with_templates((((None, 0), ((0,), 0)), ((None, 0), ((0,), 0), (None, 0))), bare.settings)
    with pytest.raises(DataError, match="counts positions from its pad token, and this tokenizer has none"):
        resolve_token_ids("roberta", "tiny", {}, framed)


@pytest.mark.parametrize(
    ("family", "start"), [("bart", "eos"), ("marian", "pad"), ("t5", "pad")], ids=["bart", "marian", "t5"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_a_new_model_are_the_tokenizers(family: str, start: str, kind: str) -> None:
    """BART forced the token 2 at the end and began with it, [CLS] of a WordPiece and a byte of a BPE."""
    tokenizer = fit_tokenizer(trained(kind), anew(family, trained(kind)))
    vocabulary = tokenizer.vocabulary
    fields, _ = resolve_token_ids(family, "tiny", {}, trained(kind))
    ids = {"pad": vocabulary.pad, "eos": vocabulary.ending}
    assert (fields["pad_token_id"], fields["eos_token_id"]) == (ids["pad"], ids["eos"])
    assert fields["decoder_start_token_id"] == ids[start]
    assert fields.get("forced_eos_token_id", ids["eos"]) == ids["eos"]
    assert fields.get("forced_bos_token_id") is None


def test_a_field_that_contradicts_the_tokenizer() -> None:
    with pytest.raises(UsageError, match=r"'model.overrides.pad_token_id' = 7: the tokenizer says 0"):
        resolve_token_ids("bart", "tiny", {"pad_token_id": 7}, word_tokenizer())
    fields, _ = resolve_token_ids("bart", "tiny", {"forced_bos_token_id": 7}, word_tokenizer())
    assert fields["forced_bos_token_id"] == 7  # the tokenizer says nothing of it
