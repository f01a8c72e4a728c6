"""GPT-2 against `transformers`, both ways, and its initial weights."""

import math

import parity
import pytest
import transformers

from pretune.interop.huggingface import load_model, save_model
from pretune.models import build, gpt2
from pretune.models.flops import count_parameters

SMALL = {"vocab_size": 97, "n_positions": 40, "n_embd": 48, "n_layer": 3, "n_head": 4}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
KINDS = {
    transformers.GPT2LMHeadModel: ["clm"],
    transformers.GPT2ForSequenceClassification: ["classification"],
    transformers.GPT2Model: [],
}
VARIANTS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "inner": {"n_inner": 60, "activation_function": "gelu"},
    "unscaled": {"scale_attn_weights": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_theirs_read_by_us(kind, tmp_path):
    theirs = kind(transformers.GPT2Config(**SMALL, **TOKENS, num_labels=4))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert list(model.heads) == KINDS[kind]
    assert not model.loaded.initialised
    assert not model.loaded.unexpected
    parity.assert_parity(model, theirs)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_ours_read_by_them(kind, tmp_path):
    model = build("gpt2", "tiny", KINDS[kind], {**SMALL, **TOKENS}, labels=["a", "b", "c"])
    parity.randomise(model)
    save_model(model, tmp_path / "out")
    parity.assert_parity(model, parity.reload(kind, tmp_path / "out"))


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_both_ways(name, tmp_path):
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **TOKENS, **VARIANTS[name]))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    parity.assert_parity(model, theirs)
    save_model(model, tmp_path / "ours")
    parity.assert_parity(model, parity.reload(transformers.GPT2LMHeadModel, tmp_path / "ours"))


def test_generation_knows_where_to_stop(tmp_path):
    model = build("gpt2", "tiny", ["clm"], {**SMALL, **TOKENS})
    save_model(model, tmp_path / "out")
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 0)


def test_sizes_have_the_published_numbers_of_parameters():
    """Of GPT2LMHeadModel, in millions."""
    published = {"small": 124.44, "medium": 354.82, "large": 774.03, "xl": 1557.61}
    for size, millions in published.items():
        assert count_parameters(build("gpt2", size, ["clm"], allocate=False)) / 1e6 == pytest.approx(millions, abs=0.01)
    assert {"tiny", "mini", "nano"} < set(gpt2.SIZES)


def test_initial_weights_are_theirs_in_scale():
    model = build("gpt2", "mini", ["clm"], {"vocab_size": 500})
    std = {name: p.std().item() for name, p in model.named_parameters() if p.ndim == 2}
    for name, value in std.items():
        ends = name.endswith(("attention.output.weight", "feedforward.down.weight"))
        assert value == pytest.approx(0.02 / math.sqrt(8) if ends else 0.02, rel=0.03), name
    assert model.stack.blocks[0].norms.before_attention.weight.min() == 1
    assert model.stack.blocks[0].feedforward.up.bias.abs().max() == 0
