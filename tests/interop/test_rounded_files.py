"""Rounded models in files: as small as their format, read again bit for bit, refused where damaged or misread."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from pretune.batch import ragged
from pretune.errors import DataError, MissingInputError
from pretune.interop.fingerprint import body_fingerprint, fingerprint_of_files
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.savable import check_savable
from pretune.models.model import LanguageModel
from pretune.nn.rounded import rounded_bricks, rounded_tensors
from pretune.tune.surgery import merge_bricks, projection_sites
from tests.nn.roundkit import round_all, small
from tests.train.trainkit import make_tokenizer

FORMATS = ["bf16", "int8", "q8_0", "q4_0"]


def outputs(model: LanguageModel) -> Tensor:
    batch = ragged([torch.arange(9).numpy(), torch.arange(4).numpy()])
    with torch.inference_mode():
        hidden: Tensor = model(batch).last_hidden_state
        return next(iter(model.heads.values()))(hidden) if model.heads else hidden


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_rounded_model_is_read_bit_for_bit(family: str, name: str, tmp_path: Path) -> None:
    model = round_all(small(family), name, inputs={"q8_0": "int8", "int8": "int7"}.get(name, "exact"))
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model").eval()
    assert again.loaded is not None
    assert again.loaded.messages() == []
    held, read = rounded_tensors(model), rounded_tensors(again)
    assert held.keys() == read.keys()
    assert all(torch.equal(held[key], read[key]) for key in held)
    assert torch.equal(outputs(model), outputs(again))
    assert [brick.inputs for _, brick in rounded_bricks(again)] == [brick.inputs for _, brick in rounded_bricks(model)]
    assert body_fingerprint(model) == body_fingerprint(again) == fingerprint_of_files(tmp_path / "model")
    save_model(again, tmp_path / "twice")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "twice" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


def test_an_untied_output_layer_and_both_sides_of_a_model_are_kept(tmp_path: Path) -> None:
    for number, model in enumerate((small("llama", tie_word_embeddings=False), small("t5"))):
        round_all(model, "q4_0", "q8_0")
        save_model(model, tmp_path / str(number))
        again = load_model(tmp_path / str(number)).eval()
        assert rounded_tensors(again).keys() == rounded_tensors(model).keys()
        assert {brick.packed.name for _, brick in rounded_bricks(again)} == {"q4_0", "q8_0"}
        if number == 0:
            assert "heads.clm.blocks" in rounded_tensors(again)
            assert torch.equal(outputs(model), outputs(again))


def test_a_part_of_a_tensor_of_others_can_stay_as_it_is(tmp_path: Path) -> None:
    model = small("gpt2")
    plain = {site.path: site.brick for site in projection_sites(model)}
    round_all(model, "int8")
    for site in projection_sites(model):
        if site.role == "attention.key":  # a third of GPT-2's c_attn
            site.replace(plain[site.path])
    save_model(model, tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert "stack.blocks.0.attention.key.weight" in names
    assert "transformer.h.0.attn.c_attn.weight" not in names
    assert "transformer.h.0.attn.c_attn.bias" in names
    assert torch.equal(outputs(model), outputs(load_model(tmp_path / "model").eval()))


@pytest.mark.parametrize(("name", "expected"), [("q8_0", 0.27), ("q4_0", 0.15), ("int8", 0.26), ("bf16", 0.5)])
def test_files_and_memory_are_as_small_as_the_format(name: str, expected: float, tmp_path: Path) -> None:
    model = small("llama", hidden_size=128, intermediate_size=384, num_attention_heads=4, vocab_size=2000)
    save_model(model, tmp_path / "plain")
    full = sum(parameter.numel() * 4 for parameter in model.parameters())
    save_model(round_all(model, name), tmp_path / "rounded")
    sizes = [(tmp_path / folder / "model.safetensors").stat().st_size for folder in ("plain", "rounded")]
    assert sizes[1] / sizes[0] < expected + 0.01
    again = load_model(tmp_path / "rounded")
    held = {t.data_ptr(): t.numel() * t.element_size() for t in (*again.parameters(), *again.buffers())}
    assert sum(held.values()) / full < expected + 0.01


@pytest.mark.parametrize("loader", [AutoModel, AutoModelForCausalLM])
def test_transformers_refuses_a_rounded_model_loudly(loader: Any, tmp_path: Path) -> None:
    save_model(round_all(small("gpt2"), "int8"), tmp_path / "model")
    assert AutoConfig.from_pretrained(tmp_path / "model").model_type == "gpt2"
    with pytest.raises(ValueError, match="quant_method"):
        loader.from_pretrained(tmp_path / "model")


def test_a_model_made_plain_again_is_one_for_everybody(tmp_path: Path) -> None:
    model = round_all(small("gpt2"), "q8_0")
    expected = outputs(model)
    merge_bricks(model)
    save_model(model, tmp_path / "model")
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.inference_mode():
        logits = theirs(torch.arange(9)[None]).logits[0]
    torch.testing.assert_close(logits, expected[:9], atol=1e-4, rtol=1e-4)


def test_saving_is_rehearsed_with_rounded_matrices(tmp_path: Path) -> None:
    check_savable(round_all(small("gpt2")), make_tokenizer(tmp_path / "tokenizer"), tmp_path)


def test_plain_models_say_nothing_of_rounding(tmp_path: Path) -> None:
    save_model(small("gpt2"), tmp_path / "model")
    text = (tmp_path / "model" / "config.json").read_text()
    assert "rounded" not in text
    assert "quantization" not in text


PLACE = "stack.blocks.1.feedforward.up"


def _config(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def _tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, {"format": "pt"})


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _nan_scale(tensors: dict[str, Tensor]) -> None:
    blocks = tensors[f"{PLACE}.blocks"].clone()
    blocks[3, :2] = torch.tensor([float("nan")]).half().view(torch.uint8)
    tensors[f"{PLACE}.blocks"] = blocks


def _first(fields: Any) -> Any:
    return fields["pretune"]["rounded"][0]


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "model.safetensors"),
    "missing": (lambda f: _tensors(f, lambda t: t.pop(f"{PLACE}.blocks")), f"{PLACE}.blocks' is missing"),
    "shape": (
        lambda f: _tensors(f, lambda t: t.update({f"{PLACE}.blocks": t[f"{PLACE}.blocks"][:, :-1]})),
        "q8_0 of a matrix of",
    ),
    "dtype": (
        lambda f: _tensors(f, lambda t: t.update({f"{PLACE}.blocks": t[f"{PLACE}.blocks"].float()})),
        "is torch.float32 of shape",
    ),
    "nan": (lambda f: _tensors(f, _nan_scale), f"{PLACE}' holds NaN or infinity in its scales"),
    "format": (lambda f: _config(f, lambda c: _first(c).update(name="q9_0")), "did you mean 'q8_0'"),
    "other format": (lambda f: _config(f, lambda c: _first(c).update(name="q4_0")), "q4_0 of a matrix of"),
    "layout": (lambda f: _config(f, lambda c: _first(c).update(layout=2)), "newer pretune"),
    "place": (
        lambda f: _config(f, lambda c: _first(c)["places"].append("stack.blocks.7.attention.query")),
        "has no matrix there",
    ),
    "field": (lambda f: _config(f, lambda c: _first(c).update(inputs="int4")), "inputs"),
    "hidden": (lambda f: _config(f, lambda c: c.pop("quantization_config")), "disagree"),
    "forgotten": (lambda f: _config(f, lambda c: c["pretune"].pop("rounded")), "disagree"),
    "others": (
        lambda f: _config(f, lambda c: c.update(quantization_config={"quant_method": "gptq"})),
        "quantized weights of others are not read",
    ),
}


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize("fault", BROKEN)
def test_damaged_files_are_refused(fault: str, tmp_path: Path) -> None:
    damage, message = BROKEN[fault]
    save_model(round_all(small("gpt2")), tmp_path / "model")
    load_model(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(DataError, match=message) as error:
        load_model(tmp_path / "model")
    assert str(tmp_path) in str(error.value)


def test_the_seal_covers_rounded_tensors(tmp_path: Path) -> None:
    save_model(round_all(small("gpt2")), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # a flipped bit in the last matrix
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_model(tmp_path / "model")


OWN = """
from pretune.nn.formats.rounded_matmul import derived_product
NAME, BITS, GROUP = "half", 16.0, 1
def pack(weight): return {"bits": weight.half()}
def dense(tensors): return tensors["bits"].float()
def product(tensors, bias, activation=None, inputs="exact"):
    return derived_product(dense, tensors, bias, activation, inputs)
"""


def test_a_format_of_ones_own_is_saved_and_read_by_its_path(tmp_path: Path) -> None:
    own = tmp_path / "half.py"
    own.write_text(OWN)
    model = round_all(small("gpt2"), str(own))
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model").eval()
    assert torch.equal(outputs(model), outputs(again))
    own.write_text(OWN + "\n# changed\n")
    with pytest.raises(DataError, match="has changed since the model was saved"):
        load_model(tmp_path / "model")
    own.unlink()
    with pytest.raises(MissingInputError, match="put it back"):
        load_model(tmp_path / "model")
