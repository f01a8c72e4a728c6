"""Pruned models of every family: what stays computes as a masked model does, and `transformers` opens the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
import transformers as hf

from pretune.batch import ragged
from pretune.compress.pruning import structure
from pretune.compress.pruning.selection import (
    best_heads,
    best_inner,
    best_layers,
    drop_layers,
    narrow_heads,
    narrow_inner,
)
from pretune.errors import UsageError
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.model import LanguageModel

_BERT = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
_LLAMA = {**_BERT, "num_key_value_heads": 2}
_SIDES = {
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 64,
    "d_model": 48,
}
CASES: dict[str, tuple[dict[str, Any], list[str], Any]] = {
    "albert": ({**_BERT, "embedding_size": 24}, ["mlm"], hf.AlbertForMaskedLM),
    "bart": (_SIDES, ["clm"], hf.BartForConditionalGeneration),
    "bert": (_BERT, ["mlm"], hf.BertForMaskedLM),
    "distilbert": ({"dim": 48, "n_layers": 4, "n_heads": 4, "hidden_dim": 96}, ["mlm"], hf.DistilBertForMaskedLM),
    "electra": ({**_BERT, "embedding_size": 24}, ["rtd"], hf.ElectraForPreTraining),
    "gpt": ({"n_embd": 48, "n_layer": 4, "n_head": 4}, ["clm"], hf.OpenAIGPTLMHeadModel),
    "gpt2": ({"n_embd": 48, "n_layer": 4, "n_head": 4}, ["clm"], hf.GPT2LMHeadModel),
    "gpt3": (
        {"hidden_size": 48, "num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]}
        | {"window_size": 5},
        ["clm"],
        hf.GPTNeoForCausalLM,
    ),
    "llama": (_LLAMA, ["clm"], hf.LlamaForCausalLM),
    "marian": (_SIDES, ["clm"], hf.MarianMTModel),
    "modernbert": (
        {**_BERT, "local_attention": 8, "num_hidden_layers": 7, "global_attn_every_n_layers": 3},
        ["mlm"],
        hf.ModernBertForMaskedLM,
    ),
    "qwen2": (
        {**_LLAMA, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        ["clm"],
        hf.Qwen2ForCausalLM,
    ),
    "qwen3": ({**_LLAMA, "head_dim": 16}, ["clm"], hf.Qwen3ForCausalLM),
    "roberta": (_BERT, ["mlm"], hf.RobertaForMaskedLM),
    "t5": (
        {"d_model": 48, "d_kv": 12, "num_heads": 4, "d_ff": 96, "num_layers": 3, "num_decoder_layers": 3}
        | {"feed_forward_proj": "gated-gelu"},
        ["clm"],
        hf.T5ForConditionalGeneration,
    ),
    "xlnet": ({"d_model": 48, "n_head": 4, "d_head": 12, "n_layer": 4, "d_inner": 96}, [], hf.XLNetModel),
}
WITH_HEADS = ("llama", "qwen2", "qwen3", "t5")
WITHOUT_LAYERS = ("albert",)
WITHOUT_INNER = ("gpt",)
FAMILIES = tuple(CASES)


def make(family: str, **fields: Any) -> LanguageModel:
    shapes, heads, _ = CASES[family]
    model = build(family, "tiny", heads, {"vocab_size": 97, **shapes, **fields}).eval()
    parity.randomise(model)
    return model


def scores_of(model: LanguageModel, part: str) -> dict[str, Any]:
    """Importance that is drawn, so that what stays is no simple pattern."""
    generator = torch.Generator().manual_seed(3)
    if part == "layers":
        paths = [
            f"{path}.blocks.{n}" for path, stack in structure.stacks(model).items() for n in range(len(stack.order))
        ]
        return {path: float(torch.rand((), generator=generator)) for path in paths}
    if part == "heads":
        return {p: torch.rand(a.heads, generator=generator) for p, a in structure.attentions(model).items()}
    return {p: torch.rand(f.down.in_features, generator=generator) for p, f in structure.feedforwards(model).items()}


def prune(model: LanguageModel, part: str) -> LanguageModel:
    scores = scores_of(model, part)
    if part == "layers":
        return drop_layers(model, best_layers(model, scores, 1 / 3))
    if part == "heads":
        return narrow_heads(model, best_heads(model, scores, 0.5))
    return narrow_inner(model, best_inner(scores, 1 / 3, 8))


def hidden(model: LanguageModel) -> torch.Tensor:
    return parity.ours(model, parity.sequences(97), False)["hidden"]


@pytest.mark.parametrize("part", ["layers", "heads", "inner"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_files_are_plain(family: str, part: str, tmp_path: Path) -> None:
    model = make(family)
    count = sum(parameter.numel() for parameter in model.parameters())
    refused = {"layers": WITHOUT_LAYERS, "inner": WITHOUT_INNER}
    if family in refused.get(part, ()) or (part == "heads" and family not in WITH_HEADS):
        before = hidden(model)
        with pytest.raises(UsageError, match=f"config.json of a {family} cannot say it.*; prune "):
            prune(model, part)
        assert torch.equal(hidden(model), before)
        return
    prune(model, part)
    assert sum(parameter.numel() for parameter in model.parameters()) < count
    save_model(model, tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert not again.loaded.messages()
    assert torch.equal(hidden(again), hidden(model))
    theirs = parity.reload(CASES[family][2], tmp_path / "out")
    if not model.has_encoder:
        parity.assert_parity(model, theirs)
    else:
        assert_pair_parity(model, theirs)


def assert_pair_parity(model: LanguageModel, theirs: Any) -> None:
    """A source and a target, one sequence each."""
    source, target = parity.sequences(97, (9, 6))
    batch = replace(ragged([target]), source=ragged([source]))
    with torch.no_grad():
        ours = model.heads["clm"](model(batch).last_hidden_state)
        other = theirs(
            input_ids=torch.from_numpy(source)[None], decoder_input_ids=torch.from_numpy(target)[None]
        ).logits[0]
    assert float((ours - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_heads_is_as_masked(family: str) -> None:
    """Heads whose output is zero say nothing: the model without them gives the same."""
    masked, pruned = make(family), make(family)
    gone = {path: [0, 1] if family in ("llama", "qwen2", "qwen3") else [1] for path in structure.attentions(pruned)}
    structure.prune_heads(pruned, gone)
    with torch.no_grad():
        for path, attention in structure.attentions(masked).items():
            columns = [head * attention.head_width + n for head in gone[path] for n in range(attention.head_width)]
            attention.output.weight[:, columns] = 0.0
    want = hidden(masked)
    assert float((hidden(pruned) - want).abs().max()) <= 1e-6 * max(1.0, float(want.abs().max()))
    assert float((hidden(make(family)) - want).abs().max()) > 1e-3, "the heads said nothing"


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WITHOUT_INNER])
def test_without_inner_values_is_as_masked(family: str) -> None:
    masked, pruned = make(family), make(family)
    scores = scores_of(pruned, "inner")
    index = best_inner(scores, 0.4, 8)
    narrow_inner(pruned, index)
    with torch.no_grad():
        for path, feedforward in structure.feedforwards(masked).items():
            keep = torch.zeros(feedforward.down.in_features, dtype=torch.bool)
            keep[index[path]] = True
            feedforward.down.weight[:, ~keep] = 0.0
    want = hidden(masked)
    assert float((hidden(pruned) - want).abs().max()) <= 1e-6 * max(1.0, float(want.abs().max()))
    assert float((hidden(make(family)) - want).abs().max()) > 1e-3
