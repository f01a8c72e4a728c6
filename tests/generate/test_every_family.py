"""Every decoder and encoder-decoder writes what `transformers` writes, and the same with its cache and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
import transformers as hf
from generationkit import written_once
from numpy.typing import NDArray
from tinymodels import byte_tokenizer

from pretune import native
from pretune.batch import Batch, ragged
from pretune.errors import DataError, UsageError
from pretune.generate.generate import generate
from pretune.generate.options import GenerateConfig
from pretune.generate.sample import apply_constraints
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import GenerationConstraints

NEW = 12
END, PAD = 0, 1
LENGTHS = (3, 9, 1, 14)
_IDS = {"vocab_size": 300, "bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
_LLAMA = {
    **_IDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_GPT = {**_IDS, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
_NEO = {
    **_IDS,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "max_position_embeddings": 64,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 5,
}
_BART = {
    **_IDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": PAD,
    "forced_eos_token_id": None,
}
_T5 = {**_IDS, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2, "decoder_start_token_id": PAD}
_YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt": (hf.OpenAIGPTConfig, hf.OpenAIGPTLMHeadModel, _GPT),
    "gpt2": (hf.GPT2Config, hf.GPT2LMHeadModel, _GPT),
    "gpt3": (hf.GPTNeoConfig, hf.GPTNeoForCausalLM, _NEO),
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, _LLAMA),
    "llama yarn": (hf.LlamaConfig, hf.LlamaForCausalLM, {**_LLAMA, "rope_parameters": _YARN}),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, _LLAMA),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {**_LLAMA, "head_dim": 16}),
    "bart": (hf.BartConfig, hf.BartForConditionalGeneration, _BART),
    "bart forced": (
        hf.BartConfig,
        hf.BartForConditionalGeneration,
        {**_BART, "forced_bos_token_id": 7, "forced_eos_token_id": END},
    ),
    "bart words": (
        hf.BartConfig,
        hf.BartForConditionalGeneration,
        {**_BART, "bad_words_ids": [[5], *([n, n] for n in range(3, 300))], "forced_eos_token_id": [END]},
    ),
    "marian": (hf.MarianConfig, hf.MarianMTModel, {**_BART, "bad_words_ids": [[PAD]], "activation_function": "relu"}),
    "t5": (hf.T5Config, hf.T5ForConditionalGeneration, _T5),
    "t5 gated": (hf.T5Config, hf.T5ForConditionalGeneration, {**_T5, "feed_forward_proj": "gated-gelu"}),
}
STD = {"marian": 0.1}  # of the weights: prompts of all are to give different texts
Pair = tuple[Any, LanguageModel]


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(request.param, tmp_path_factory.mktemp("model"))


def make(name: str, folder: Path) -> Pair:
    config, kind, fields = CASES[name]
    torch.manual_seed(1)
    theirs = kind(config(**fields)).eval()
    writing = {
        key: fields[key] for key in ("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids") if key in fields
    }
    theirs.generation_config.update(**writing)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if parameter.dim() > 1 and "embed_positions" not in key:
                parameter.normal_(0, STD.get(name, 0.25))
    theirs.save_pretrained(folder)
    return theirs, load_model(folder).eval()


def prompts() -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, 300, size=n) for n in LENGTHS]


def reference(model: Any, runs: list[NDArray[np.int64]], **options: object) -> list[list[int]]:
    """What `transformers` writes for one prompt after the other."""
    return written_once(_reference, model, runs, options)


def _reference(model: Any, runs: list[NDArray[np.int64]], options: dict[str, object]) -> list[list[int]]:
    out = []
    for run in runs:
        both = model.config.is_encoder_decoder
        ids = torch.from_numpy(np.append(run, END) if both else run)[None]
        mask = torch.ones_like(ids)
        built = model.generate(
            ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=PAD, **options
        )
        row = built[0, 1 if both else len(run) :].tolist()
        out.append(row[: row.index(END) + 1] if END in row else row)
    return out


def written(model: LanguageModel, **options: object) -> list[list[int]]:
    config = GenerateConfig(max_new_tokens=NEW, **options)  # type: ignore[arg-type]
    return [one.tokens for one in generate(model, byte_tokenizer(), prompts(), config)]


@pytest.mark.parametrize("fused", [False, True])
def test_greedy_text_is_that_of_transformers(pair: Pair, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch; see test_native_decoding.py for kernels."""
    monkeypatch.setattr(native, "available", lambda: False)
    theirs, model = pair
    expected = reference(theirs, prompts())
    assert written(fuse(model) if fused else model) == expected
    assert len({tuple(row) for row in expected}) > 1


@pytest.mark.parametrize("beams", [2, 4])
def test_beams_are_those_of_transformers(pair: Pair, beams: int) -> None:
    theirs, model = pair
    assert written(model, beams=beams) == reference(theirs, prompts(), num_beams=beams)


@torch.no_grad()
def test_text_is_the_same_without_a_cache(pair: Pair) -> None:
    _, model = pair
    for run, expected in zip(prompts(), written(model), strict=True):
        built: list[int] = []
        constraints = model.constraints if isinstance(model, EncoderDecoder) else GenerationConstraints()
        while len(built) < len(expected):
            if isinstance(model, EncoderDecoder):
                batch = ragged([[model.start, *built]])
                batch = Batch(batch.tokens, batch.layout, source=ragged([np.append(run, END)]))
            else:
                batch = ragged([[*run.tolist(), *built]])
            logits = model.heads["clm"](model(batch).last_hidden_state[-1:])
            built.append(int(apply_constraints(logits, constraints, [1], [built], [NEW]).argmax()))
        assert built == expected


def test_rules_come_back_from_the_files(tmp_path: Path) -> None:
    _, model = make("bart forced", tmp_path / "theirs")
    assert isinstance(model, EncoderDecoder)
    assert model.constraints == GenerationConstraints(first=7, last=(END,))
    save_model(model, tmp_path / "ours")
    again = load_model(tmp_path / "ours")
    assert isinstance(again, EncoderDecoder)
    assert again.constraints == model.constraints
    theirs = hf.BartForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert written(model) == reference(theirs, prompts())
    assert all(row[0] == 7 and row[-1] == END for row in written(model))


def test_a_rule_about_a_token_that_is_not_there() -> None:
    _, _, fields = CASES["bart"]
    model = build("bart", "tiny", ["clm"], {**fields, "forced_eos_token_id": 299, "vocab_size": 400})
    assert generate(model, byte_tokenizer(), prompts(), GenerateConfig(max_new_tokens=2))
    model = build("bart", "tiny", ["clm"], {**fields, "forced_eos_token_id": 300, "vocab_size": 400})
    with pytest.raises(DataError, match="force or forbid token 300, but the tokenizer has only 300"):
        generate(model, byte_tokenizer(), prompts(), GenerateConfig(max_new_tokens=2))


def test_limits_of_an_encoder_decoder() -> None:
    """Source and text have positions of their own; a source that does not fit is refused."""
    _, _, fields = CASES["bart"]
    model = build("bart", "tiny", ["clm"], {**fields, "max_position_embeddings": 16})
    long = [np.arange(2, 17)]  # with its end token as long as the encoder reads
    (built,) = generate(model, byte_tokenizer(), long, GenerateConfig(max_new_tokens=50))
    assert len(built.tokens) == 15 or built.reason == "end"
    assert built.prompt_tokens == 16
    with pytest.raises(UsageError, match="prompt 1 has 17 tokens, which exceeds the encoder's context of 16"):
        generate(model, byte_tokenizer(), [np.arange(2, 18)], GenerateConfig())
    (empty,) = generate(model, byte_tokenizer(), [np.zeros(0, np.int64)], GenerateConfig(max_new_tokens=3))
    assert empty.prompt_tokens == 1


def test_parity_of_logits_is_what_this_rests_on(pair: Pair) -> None:
    """So that a difference in text is known to come from decoding."""
    theirs, model = pair
    if not isinstance(model, EncoderDecoder):
        parity.assert_parity(model, theirs)
