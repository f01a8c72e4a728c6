"""Weights that the files lack, repeat or have too many of: done as `transformers` does, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import parity
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from pretune.errors import DataError
from pretune.interop.huggingface import load_model, save_model

pytestmark = pytest.mark.usefixtures("unsealed")

Tensors = dict[str, Tensor]
LLAMA = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
BERT = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 40, "pad_token_id": 0}
DISTILBERT = {"vocab_size": 61, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 48}
_SIDE = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
MARIAN = {
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in _SIDE.items()},
    "vocab_size": 61,
    "d_model": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
T5 = {"vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def saved(folder: Path, model: type, config: type, **fields: object) -> Path:
    torch.manual_seed(0)
    theirs = model(config(**fields))
    parity.randomise(theirs)
    theirs.save_pretrained(folder)
    return folder


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def reconfigure(folder: Path, **fields: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def test_an_output_layer_that_is_missing_is_refused(tmp_path):
    """It was random: "4.07 bits per byte"."""
    folder = rewrite(saved(tmp_path, hf.LlamaForCausalLM, hf.LlamaConfig, **LLAMA), without("lm_head.weight"))
    with pytest.raises(DataError, match=r"weight 'lm_head.weight' is missing.*'clm'.*architectures"):
        load_model(folder)
    body = load_model(folder, heads=[])
    assert body.loaded.initialised == []


@pytest.mark.parametrize(
    ("model", "config", "fields", "output"),
    [
        (hf.LlamaForCausalLM, hf.LlamaConfig, {**LLAMA, "tie_word_embeddings": True}, "lm_head.weight"),
        (hf.GPT2LMHeadModel, hf.GPT2Config, GPT2, "lm_head.weight"),
        (hf.BertForMaskedLM, hf.BertConfig, BERT, "cls.predictions.decoder.weight"),
        (hf.DistilBertForMaskedLM, hf.DistilBertConfig, DISTILBERT, "vocab_projector.weight"),
    ],
    ids=["llama", "gpt2", "bert", "distilbert"],
)
def test_an_output_layer_of_its_own_is_used_whatever_the_configuration_says(model, config, fields, output, tmp_path):
    """As `transformers` 5 does; the embedding was used instead."""
    folder = saved(tmp_path / "theirs", model, config, **fields)
    own = torch.randn(61, 32)
    rewrite(folder, lambda tensors: tensors | {output: own.clone()})
    ours = load_model(folder)
    assert any(f"weight '{output}' is another than the embedding" in note for note in ours.loaded.notes)
    assert ours.config.tie_word_embeddings is False
    parity.assert_parity(ours, model.from_pretrained(folder))
    save_model(ours, tmp_path / "ours")
    parity.assert_parity(ours, parity.reload(model, tmp_path / "ours"))


def logits(model: hf.T5ForConditionalGeneration, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=tokens, decoder_input_ids=tokens).logits


def test_t5_with_an_output_layer_of_its_own(tmp_path):
    """`transformers` 5 writes such a folder for every T5 v1.1: tied in config.json, untied in the weights."""
    fields = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    folder = saved(tmp_path / "theirs", hf.T5ForConditionalGeneration, hf.T5Config, **fields)
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": torch.randn(61, 32)})
    written = json.loads((folder / "config.json").read_text())
    assert (written["tie_word_embeddings"], written["scale_decoder_outputs"]) == (True, False)
    ours = load_model(folder)
    assert "heads.clm.weight" in dict(ours.named_parameters())
    tokens = torch.arange(2, 12)[None]
    want = logits(hf.T5ForConditionalGeneration.from_pretrained(folder), tokens)
    save_model(ours, tmp_path / "ours")
    again = hf.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(logits(again, tokens), want, rtol=1e-5, atol=1e-5)


def test_an_embedding_that_stands_under_the_name_of_the_output_layer(tmp_path):
    fields = {**LLAMA, "tie_word_embeddings": True}
    folder = saved(tmp_path, hf.LlamaForCausalLM, hf.LlamaConfig, **fields)

    def swapped(tensors: Tensors) -> Tensors:
        return {("lm_head.weight" if "embed" in name else name): tensor for name, tensor in tensors.items()}

    rewrite(folder, swapped)
    parity.assert_parity(load_model(folder), hf.LlamaForCausalLM.from_pretrained(folder))


def test_a_layer_that_the_configuration_does_not_have(tmp_path):
    folder = saved(tmp_path, hf.LlamaForCausalLM, hf.LlamaConfig, **LLAMA)
    reconfigure(folder, num_hidden_layers=1)
    with pytest.raises(DataError, match=r"'model.layers.1.*' is of a layer that config.json does not have"):
        load_model(folder)
    reconfigure(folder, num_hidden_layers=2)
    cut = load_model(folder, overrides={"num_hidden_layers": 1})
    assert len(cut.stack.blocks) == 1
    assert "model.layers.1.mlp.up_proj.weight" in cut.loaded.unexpected


def test_a_part_that_the_configuration_does_not_have(tmp_path):
    folder = saved(tmp_path, hf.LlamaForCausalLM, hf.LlamaConfig, **LLAMA, attention_bias=True)
    reconfigure(folder, attention_bias=False)
    with pytest.raises(DataError, match=r"'model.layers.0.self_attn.._proj.bias' has no place"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.0.self_attn.q_proj.lora_A.default.weight", "is of an adapter; merge it .*merge_and_unload"),
        ("model.layers.0.mlp.up_proj.weight.absmax", "is of a quantized model"),
    ],
)
def test_weights_of_adapters_and_of_quantization(name, message, tmp_path):
    folder = saved(tmp_path, hf.LlamaForCausalLM, hf.LlamaConfig, **LLAMA)
    rewrite(folder, lambda tensors: tensors | {name: torch.randn(2, 32)})
    with pytest.raises(DataError, match=message):
        load_model(folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "student."])
def test_a_prefix_of_all_names_is_named(prefix, tmp_path):
    folder = saved(tmp_path, hf.LlamaForCausalLM, hf.LlamaConfig, **LLAMA)
    rewrite(folder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    with pytest.raises(DataError, match=f"begin with '{prefix}'.*remove the prefix from the names"):
        load_model(folder)


def test_encoder_and_decoder_with_embeddings_of_their_own(tmp_path):
    folder = saved(tmp_path, hf.T5ForConditionalGeneration, hf.T5Config, **T5)
    rewrite(folder, lambda tensors: tensors | {"encoder.embed_tokens.weight": torch.randn(61, 32)})
    with pytest.raises(DataError, match=r"'encoder.embed_tokens.weight' is another than 'shared.weight'"):
        load_model(folder)


def test_positions_that_are_not_the_sines_of_the_family(tmp_path):
    folder = saved(tmp_path, hf.MarianMTModel, hf.MarianConfig, **MARIAN)
    rewrite(folder, lambda t: t | {"model.encoder.embed_positions.weight": torch.randn(40, 32)})
    with pytest.raises(DataError, match=r"'model.encoder.embed_positions.weight' holds other positions"):
        load_model(folder)


def test_an_encoder_alone_of_a_whole_model(tmp_path):
    """`sentence-t5` says T5EncoderModel in `architectures` and leaves `is_encoder_decoder` as it was."""
    folder = saved(tmp_path / "theirs", hf.T5EncoderModel, hf.T5Config, **T5)
    reconfigure(folder, is_encoder_decoder=True)
    ours = load_model(folder)
    assert ours.is_encoder_alone
    parity.assert_parity(ours, hf.T5EncoderModel.from_pretrained(folder))
    save_model(ours, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == ["T5EncoderModel"]
    parity.assert_parity(ours, parity.reload(hf.T5EncoderModel, tmp_path / "ours"))


def test_a_head_that_several_classes_may_have_is_said(tmp_path):
    folder = saved(tmp_path, hf.DistilBertForSequenceClassification, hf.DistilBertConfig, **DISTILBERT)
    reconfigure(folder, architectures=None)
    ours = load_model(folder)
    assert list(ours.heads) == ["classification"]
    assert any(
        "classification is read, and the same weights may be those of multiple_choice" in n for n in ours.loaded.notes
    )


def test_an_adapter_alone_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"adapter_.*: an adapter of peft.*; merge it into its base"):
        load_model(tmp_path)


def test_an_adapter_beside_a_model_is_not_left_out(tmp_path):
    """`transformers` reads the base that the adapter names, and the adapter."""
    folder = saved(tmp_path, hf.LlamaForCausalLM, hf.LlamaConfig, **LLAMA)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(DataError, match=r"adapter_config.json: an adapter of peft"):
        load_model(folder)


def test_templates_of_chats_are_handed_on(tmp_path):
    folder = saved(tmp_path / "theirs", hf.LlamaForCausalLM, hf.LlamaConfig, **LLAMA)
    (folder / "additional_chat_templates").mkdir()
    for name in ("chat_template.jinja", "additional_chat_templates/tools.jinja"):
        (folder / name).write_bytes(b"{{ messages }}\n")
    save_model(load_model(folder), tmp_path / "ours")
    for name in ("chat_template.jinja", "additional_chat_templates/tools.jinja"):
        assert (tmp_path / "ours" / name).read_bytes() == b"{{ messages }}\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_positions_of_published_translators_are_the_sines_of_the_family(dtype, tmp_path):
    """512 positions of 512 values, as opus-mt has them: in fp32 they would be 3e-5 off."""
    fields = {**MARIAN, "d_model": 512, "max_position_embeddings": 512}
    theirs = hf.MarianMTModel(hf.MarianConfig(**fields))
    table = theirs.model.encoder.embed_positions
    with torch.no_grad():
        table.weight.copy_(table.create_weight())
    theirs.save_pretrained(tmp_path)
    name = "model.encoder.embed_positions.weight"
    rewrite(tmp_path, lambda tensors: tensors | {name: table.weight.detach().to(dtype).contiguous()})
    ours = load_model(tmp_path)
    positions = ours.embedding.position(torch.arange(512))
    torch.testing.assert_close(positions, table.create_weight(), rtol=0, atol=1e-7)


def test_tensors_that_no_one_reads_are_no_loss(tmp_path):
    folder = saved(tmp_path, hf.T5ForConditionalGeneration, hf.T5Config, **T5)
    old = {
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.randn(32, 4),
        "encoder.version": torch.ones(1),
    }
    rewrite(folder, lambda tensors: tensors | old)
    assert load_model(folder).loaded.messages() == []
