"""What the files of a model say of how it writes is obeyed as `transformers` obeys it, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tinymodels import byte_tokenizer, save_gpt2, save_t5

import pretune
from pretune.cli import main
from pretune.errors import DataError
from pretune.generate.defaults import resolve_options
from pretune.interop.huggingface import load_model, save_model
from pretune.models.generation_fields import GENERATION_FIELDS
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

PROMPTS = ["the quick brown fox", "a hat", "the dog and the cat ate"]
OBEYED: list[dict[str, Any]] = [
    {"max_new_tokens": 7},
    {"max_length": 30},
    {"num_beams": 3, "max_new_tokens": 12},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "max_new_tokens": 12},
    {"num_beams": 2, "length_penalty": 2.0, "early_stopping": "never", "max_new_tokens": 12},
    {"no_repeat_ngram_size": 2, "max_new_tokens": 24},
    {"no_repeat_ngram_size": 1, "max_new_tokens": 8},
    {"num_beams": 2, "no_repeat_ngram_size": 2, "max_new_tokens": 12},
    {"encoder_no_repeat_ngram_size": 2, "max_new_tokens": 24},
    {"repetition_penalty": 1.7, "max_new_tokens": 24},
    {"num_beams": 2, "repetition_penalty": 1.7, "max_new_tokens": 12},
    {"min_new_tokens": 10, "max_new_tokens": 24},
    {"min_length": 30, "max_new_tokens": 24},
    {"suppress_tokens": [3, 4, 5, 250], "begin_suppress_tokens": [10, 11, 251], "max_new_tokens": 12},
    {"bad_words_ids": [[3], [5, 6]], "max_new_tokens": 12},
    {"forced_bos_token_id": 9, "forced_eos_token_id": 8, "max_new_tokens": 6},
]


def folder(path: Path, fields: dict[str, Any], *, beside: bool = True, seed: int = 0) -> Path:
    """A random GPT-2 whose files say something of how it writes."""
    save_gpt2(path, byte_tokenizer(), seed=seed)
    name = "generation_config.json" if beside else "config.json"
    if not beside:
        (path / "generation_config.json").unlink()
    tree = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**tree, **fields}))
    return path


def theirs(path: Path, prompts: list[str], kind: Any = transformers.AutoModelForCausalLM) -> list[list[int]]:
    """The new tokens that `transformers` writes."""
    tokenizer, model = Tokenizer.load(path), kind.from_pretrained(path).eval()
    out = []
    for prompt in prompts:
        ids = torch.from_numpy(tokenizer.encode(prompt))[None]
        start = 1 if model.config.is_encoder_decoder else ids.shape[1]
        if model.config.is_encoder_decoder:
            ids = torch.from_numpy(tokenizer.vocabulary.with_end(ids[0].numpy()))[None]
        with torch.no_grad():
            out.append(model.generate(ids, attention_mask=torch.ones_like(ids))[0, start:].tolist())
    return out


def ours(path: Path, prompts: list[str]) -> list[list[int]]:
    model = pretune.load(path, device="cpu", precision="fp32")
    return [continuation.tokens for continuation in model.continuations(prompts)]


@pytest.mark.parametrize("fields", OBEYED, ids=str)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_the_file_says_is_done(fields: dict[str, Any], seed: int, tmp_path: Path) -> None:
    """num_beams, no_repeat_ngram_size, min_length, penalties were ignored without a word."""
    path = folder(tmp_path, {"eos_token_id": [0, 40, 90], **fields}, seed=seed)
    expected = theirs(path, PROMPTS)
    assert ours(path, PROMPTS) == expected
    save_model(load_model(path), tmp_path / "again", Tokenizer.load(path))
    assert theirs(tmp_path / "again", PROMPTS) == expected


@pytest.mark.parametrize("fields", OBEYED[2:], ids=str)
def test_of_an_encoder_decoder_too(fields: dict[str, Any], tmp_path: Path) -> None:
    save_t5(tmp_path, byte_tokenizer())
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [0, 17], **fields}))
    assert ours(tmp_path, PROMPTS) == theirs(tmp_path, PROMPTS, transformers.AutoModelForSeq2SeqLM)


@pytest.mark.parametrize("beside", [True, False])
def test_several_end_tokens(beside: bool, tmp_path: Path) -> None:
    """`eos_token_id: [2000, 2001, 2002]` was cut to its first, and export forgot the list."""
    plain = theirs(folder(tmp_path / "plain", {"max_new_tokens": 16}), PROMPTS)
    ends = [0, plain[0][5], plain[1][2]]
    path = folder(tmp_path / "model", {"eos_token_id": ends, "max_new_tokens": 16}, beside=beside)
    if not beside:
        assert "eos_token_id" in json.loads((path / "config.json").read_text())
    expected = theirs(path, PROMPTS) if beside else [tokens[: _end(tokens, ends)] for tokens in plain]
    model = pretune.load(path, device="cpu", precision="fp32")
    actual = model.continuations(PROMPTS, max_new_tokens=16)
    assert [c.tokens for c in actual] == expected
    assert actual[1].reason == "end"
    save_model(load_model(path), tmp_path / "again", Tokenizer.load(path))
    name = "generation_config.json" if beside else "config.json"
    assert json.loads((tmp_path / "again" / name).read_text())["eos_token_id"] == ends


def test_no_end_token_in_the_file_is_said(tmp_path: Path) -> None:
    """`transformers` never stops then, whatever config.json and the tokenizer say."""
    path = folder(tmp_path, {"eos_token_id": None, "max_new_tokens": 30})
    assert all(len(tokens) == 30 for tokens in theirs(path, PROMPTS))
    model = load_model(path)
    assert model.loaded is not None
    assert any("names no 'eos_token_id'" in note for note in model.loaded.notes)


def _end(tokens: list[int], ends: list[int]) -> int:
    return next((n + 1 for n, token in enumerate(tokens) if token in ends), len(tokens))


def test_sampling_of_the_file_is_the_default_and_flags_go_first(tmp_path: Path) -> None:
    fields = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 12}
    path = folder(tmp_path / "model", fields)
    plain = pretune.load(folder(tmp_path / "plain", {}), device="cpu", precision="fp32")
    model = pretune.load(path, device="cpu", precision="fp32")
    options: Any = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "max_new_tokens": 12}
    assert model.generate(PROMPTS) == plain.generate(PROMPTS, **options)
    assert model.generate(PROMPTS, temperature=0.0) == plain.generate(PROMPTS, max_new_tokens=12)
    assert model.generate(PROMPTS, beams=2) == plain.generate(PROMPTS, max_new_tokens=12, beams=2)
    assert model.generate(PROMPTS, max_new_tokens=3, temperature=0.0) == plain.generate(PROMPTS, max_new_tokens=3)


REFUSED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"num_beams": 4, "num_beam_groups": 2}, {"beams": 1}),
    ({"num_beams": 4, "diversity_penalty": 0.5}, {"beams": 1}),
    ({"penalty_alpha": 0.6, "top_k": 4}, {"beams": 2}),
    ({"do_sample": True, "typical_p": 0.5}, {"temperature": 0.0}),
    ({"do_sample": True, "num_beams": 4}, {"beams": 4}),
    ({"num_return_sequences": 3}, {}),
    ({"encoder_repetition_penalty": 1.5}, {}),
    ({"guidance_scale": 1.5}, {}),
    ({"exponential_decay_length_penalty": [5, 1.1]}, {}),
    ({"sequence_bias": [[[3], 2.0]]}, {}),
    ({"num_beams": 2, "renormalize_logits": True}, {"beams": 1}),
    ({"max_time": 2.0}, {}),
]


@pytest.mark.parametrize(("fields", "instead"), REFUSED, ids=str)
def test_what_is_not_built_is_refused_by_name(fields: dict[str, Any], instead: dict[str, Any], tmp_path: Path) -> None:
    model = pretune.load(folder(tmp_path, fields), device="cpu", precision="fp32")
    name = list(fields)[0 if "num_beams" in list(fields)[1:] or len(fields) == 1 else -1]
    name = "penalty_alpha" if "penalty_alpha" in fields else name
    with pytest.raises(DataError, match=f"generation_config.json: fields? '{name}'"):
        model.generate("the")
    assert model.embed(["the"]).shape == (1, 32)
    if instead:
        assert model.generate("the", **instead)


def test_a_field_of_another_type_and_one_that_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"generation_config.json: field 'num_beams' = \"4\": expected a whole number"):
        load_model(folder(tmp_path / "a", {"num_beams": "4"}))
    model = load_model(folder(tmp_path / "b", {"num_baems": 4}))
    assert model.loaded is not None
    assert any("'num_baems' is not known here" in note for note in model.loaded.notes)
    save_model(model, tmp_path / "c", byte_tokenizer())
    assert json.loads((tmp_path / "c" / "generation_config.json").read_text())["num_baems"] == 4


def test_every_field_of_transformers_is_in_the_table() -> None:
    names = {name for name in transformers.GenerationConfig().to_dict() if not name.startswith("_")}
    assert names <= {*GENERATION_FIELDS}


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
@pytest.mark.parametrize("options", [{}, {"beams": 2}, {"temperature": 1.0}], ids=str)
def test_a_continuation_begins_with_its_space(options: Any, kind: Any, tmp_path: Path) -> None:
    """With WordPiece 60 of 60 continuations lost the space before their first word, with Unigram 46 of 60."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "the",
        "lazy",
        "dog",
        "and",
        "the",
        "cat",
        "ate",
        "a",
        "hat",
    ]
    texts = [" ".join(words[n % 14 :] + words[: n % 5]) for n in range(40)]
    size = 320 if kind == "bpe" else 100
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind=kind, vocab_size=size, min_frequency=1))
    save_gpt2(tmp_path, tokenizer, std=0.5)
    model = pretune.load(tmp_path, device="cpu", precision="fp32")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in ["the quick", "a hat", "the lazy dog", "cat"]:
        (actual,) = model.continuations([prompt], max_new_tokens=8, **options)
        ids = model.tokenizer.encode(prompt).tolist()
        assert prompt + actual.text == theirs.decode([*ids, *actual.tokens], skip_special_tokens=True)
        assert "".join(model.stream(prompt, max_new_tokens=8, **options)) == actual.text
        first = model.tokenizer.token(actual.tokens[0])
        begins_word = {"wordpiece": first.isalnum(), "unigram": first[0] == "▁", "bpe": first[0] == "Ġ"}[kind]
        assert actual.text.startswith(" ") == begins_word


def test_only_what_the_files_decide_is_said_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file's temperature was said while the flag's was used."""
    path = folder(tmp_path, {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.2})
    words = ["generate", str(path), "a hat", "--max-new-tokens", "1", "--device", "cpu", "--no-allocator"]
    for flags, expected in (
        ([], "repetition_penalty 1.2, temperature 0.5, top_k 50, top_p 0.9"),
        (["--temperature", "0.7", "--top-k", "3"], "repetition_penalty 1.2, top_p 0.9"),
        (["--temperature", "0", "--repetition-penalty", "1"], None),
    ):
        assert main([*words, *flags]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("decoding as")]
        assert lines == ([] if expected is None else [f"decoding as the model's files say: {expected}"])


def test_a_flag_that_samples_leaves_the_rest_to_the_file(tmp_path: Path) -> None:
    """`--temperature` left out the file's top_k, top_p and min_p where it has no do_sample."""
    path = folder(tmp_path, {"top_k": 7, "top_p": 0.5, "min_p": 0.01})
    model = pretune.load(path, device="cpu", precision="fp32").network
    network = transformers.AutoModelForCausalLM.from_pretrained(path)
    fields = network._prepare_generation_config(None, do_sample=True, temperature=0.7)[0]
    config = resolve_options(model, {"temperature": 0.7})
    assert (config.top_k, config.top_p, config.min_p) == (fields.top_k, fields.top_p, fields.min_p) == (7, 0.5, 0.01)
    assert resolve_options(model, {"temperature": 0.7, "top_k": 3}).top_k == 3
    assert resolve_options(model, {}).temperature == 0
