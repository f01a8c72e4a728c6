"""Folders of compressed-tensors: levels and scales bit for bit, and run by transformers where the package is there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from safetensors.torch import load_file
from tinymodels import byte_tokenizer, save_bert, word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.interop import export_target
from pretune.interop.export_target import TargetExport, export_to
from pretune.interop.targets import compressed_tensors as target
from pretune.models import build
from pretune.models.model import LanguageModel, get_family
from pretune.nn.formats.format import find_format
from pretune.nn.projection import Projection
from pretune.nn.rounded import RoundedProjection, RoundedVocabulary
from pretune.tune.surgery import projection_sites, vocabulary_sites

FAMILIES = (
    *("albert", "bart", "bert", "distilbert", "electra", "gpt3", "llama", "marian", "qwen2", "qwen3", "roberta"),
)


def make(family: str, **fields: Any) -> LanguageModel:
    roles = list(max(get_family(family).ARCHITECTURES.values(), key=len))
    model = build(family, "tiny", roles, {"vocab_size": 300, **fields}).eval()
    parity.randomise(model)
    return model


def rounded(family: str, name: str, vocabulary: str | None = None) -> LanguageModel:
    """A model whose layers are rounded, as `pretune compress quantize` leaves it."""
    model, form = make(family), find_format(name)
    for site in projection_sites(model):
        if site.layer is not None and isinstance(site.brick, Projection):
            site.replace(RoundedProjection.of(form, site.brick.weight.detach(), site.brick.bias))
    for site in vocabulary_sites(model) if vocabulary else ():
        site.replace(RoundedVocabulary.of(find_format(str(vocabulary)), site.brick.dense().detach()))  # type: ignore[union-attr]
    return model


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other reader, which takes seconds; `test_transformers_computes_the_same` has it."""
    monkeypatch.setattr(target, "_READERS", ("no_such_package",))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", ["int8", "q8_0", "q4_0"])
def test_words_are_levels_and_scales(kind: str, tmp_path: Path) -> None:
    model = make("llama")
    result = export_to("compressed-tensors", model, byte_tokenizer(), tmp_path / "out", kind)
    assert result.notes == ["no other reader has opened it: no_such_package is not installed"]
    files = load_file(tmp_path / "out" / "model.safetensors")
    form, bits = find_format(kind), 4 if kind == "q4_0" else 8
    stem = "model.layers.1.mlp.down_proj.weight"
    weight = model.stack.blocks[1].feedforward.down.weight  # type: ignore[union-attr]
    assert isinstance(weight, torch.Tensor)
    levels = target.unpacked_words(files[f"{stem}_packed"], bits, weight.shape[1])
    scale = files[f"{stem}_scale"]
    values = (levels.view(*scale.shape, -1) * scale[..., None]).flatten(1)
    assert torch.equal(values, form.dense(form.pack(weight.detach())))
    assert files[f"{stem}_shape"].tolist() == list(weight.shape)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["config_groups"]["group_0"]["weights"]["group_size"] == (None if kind == "int8" else 32)
    assert set(config["ignore"]) >= {"lm_head", "model.embed_tokens"}


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_words_are_those_of_the_package(bits: int) -> None:
    """By its definition: element i of a row stands in bits i * bits of the row's words, plus half of the range."""
    levels = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (3, 40)).to(torch.int8)
    words = target.packed_words(levels, bits)
    assert words.dtype == torch.int32
    assert torch.equal(target.unpacked_words(words, bits, 40), levels)
    for row, packed in zip(levels.tolist(), words.tolist(), strict=True):
        whole = sum((word & 0xFFFFFFFF) << (32 * n) for n, word in enumerate(packed))
        assert [(whole >> (bits * n) & ((1 << bits) - 1)) - (1 << (bits - 1)) for n in range(40)] == row


@pytest.mark.usefixtures("alone")
def test_a_rounded_model_is_written_as_it_is(tmp_path: Path) -> None:
    """The type is that of the model by default; another would round its rounded values again."""
    model = rounded("bert", "q4_0", "q8_0")
    result = export_to("compressed-tensors", model, byte_tokenizer(), tmp_path / "out")
    assert result.type == "q4_0"
    files = load_file(tmp_path / "out" / "model.safetensors")
    brick = model.stack.blocks[0].attention.query  # type: ignore[union-attr]
    assert isinstance(brick, RoundedProjection)
    form: Any = find_format("q4_0")
    levels, scale = form.levels(brick.tensors())
    stem = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(target.unpacked_words(files[f"{stem}_packed"], 4, levels.shape[1]), levels)
    assert torch.equal(files[f"{stem}_scale"], scale)
    assert torch.equal(files["bert.embeddings.word_embeddings.weight"], model.embedding.word.dense())
    assert not [name for name in files if name.endswith("blocks")]
    with pytest.raises(UsageError, match="rounded to q4_0 already, and rounding them again would add to the error"):
        export_to("compressed-tensors", model, byte_tokenizer(), tmp_path / "again", "int8")


@pytest.mark.parametrize(("name", "family", "kind"), [("gguf", "llama", "q8_0"), ("gguf", "gpt2", "q4_0")])
def test_blocks_go_into_a_gguf_bit_for_bit(name: str, family: str, kind: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")
    model = rounded(family, kind, "q8_0")
    result = export_to(name, model, byte_tokenizer(), tmp_path / "m.gguf")
    assert result.type == kind
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    brick = model.stack.blocks[1].feedforward.down  # type: ignore[union-attr]
    assert isinstance(brick, RoundedProjection)
    assert (torch.from_numpy(tensors["blk.1.ffn_down.weight"].data.copy()) == brick.tensors()["blocks"]).all()
    word = model.embedding.word
    assert isinstance(word, RoundedVocabulary)
    assert (torch.from_numpy(tensors["token_embd.weight"].data.copy()) == word.tensors()["blocks"]).all()
    assert tensors["token_embd.weight"].tensor_type.name == "Q8_0"


@pytest.mark.usefixtures("alone")
def test_a_changed_word_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(export: TargetExport, path: Path) -> None:
        write(export, path)
        files = load_file(path / "model.safetensors")
        next(tensor for name, tensor in files.items() if name.endswith("_packed"))[0, 0] ^= 1
        from safetensors.torch import save_file

        save_file(files, path / "model.safetensors", {"format": "pt"})

    write = target.write
    monkeypatch.setattr(target, "write", spoiled)
    with pytest.raises(DataError, match="is another in the files that were written"):
        export_to("compressed-tensors", make("bert"), byte_tokenizer(), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_what_transformers_does_not_round_is_refused_by_name(tmp_path: Path) -> None:
    for family, message in (
        ("gpt2", "its layers are no Linear in transformers"),
        ("xlnet", "its layers are no Linear in transformers"),
        ("t5", "reads the plain matrices of a t5"),
    ):
        with pytest.raises(DataError, match=message):
            export_to("compressed-tensors", make(family), byte_tokenizer(), tmp_path / "out")
    odd = make("bert", hidden_size=48, num_attention_heads=2)
    with pytest.raises(DataError, match="rows of 48 numbers, and q4_0 has groups of 32"):
        export_to("compressed-tensors", odd, byte_tokenizer(), tmp_path / "out", "q4_0")
    with pytest.raises(UsageError, match="did you mean 'compressed-tensors'"):
        export_target.find_target("compressed-tensor")
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("alone")
def test_the_verb_and_our_own_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is for transformers and vLLM; pretune says that it does not read it, and how to go on."""
    save_bert(tmp_path / "model", word_tokenizer())
    words = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "compressed-tensors"]
    assert main(words) == 0
    assert "rounded matrices, bit for bit" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"field 'quantization_config' .*quantized weights of others are not read"):
        pretune.load(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None, reason="the package compressed-tensors is not installed"
)
@pytest.mark.parametrize("kind", ["int8", "q8_0", "q4_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_computes_the_same(family: str, kind: str, tmp_path: Path) -> None:
    result = export_to("compressed-tensors", make(family), byte_tokenizer(), tmp_path / "out", kind)
    assert result.compared[-1].startswith("transformers ")
