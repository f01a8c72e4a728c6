"""Files of llama.cpp: written, read back by our reader bit for bit, and by llama.cpp where its wheel is installed."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import parity
import pytest
import tokenizers
import torch
from tinymodels import byte_tokenizer, save_gpt2, word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.evaluate.uses import USES
from pretune.interop import llamacpp
from pretune.interop.export_target import TargetExport, export_to
from pretune.interop.gguf_writer import FAMILIES, stored
from pretune.interop.huggingface import load_model
from pretune.interop.targets import gguf as target
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.models.text_vectors import TextVectors
from pretune.nn.prompt import LearnedPrompt
from pretune.text.tokenizer.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")


@pytest.fixture(autouse=True)
def few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for each test are more than it needs; one reads all of them."""
    monkeypatch.setattr(target, "LINES", 300)
    monkeypatch.setattr(llamacpp, "COUNT", 300)


def make(family: str, **fields: object) -> tuple[LanguageModel, Tokenizer]:
    """A random model with more rows than its tokenizer has tokens."""
    tokenizer = word_tokenizer() if family == "bert" else byte_tokenizer()
    roles = [] if family == "bert" else ["clm"]
    model = build(family, "tiny", roles, {"vocab_size": tokenizer.vocabulary.size + 3, **fields}).eval()
    parity.randomise(model)
    return model, tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_the_same_when_it_is_read_again(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family in ("llama", "bert"):
        monkeypatch.setattr(target, "LINES", 10_000)
    model, tokenizer = make(family)
    model = copy.deepcopy(model)  # as surgery leaves it: nothing may depend on which objects are there
    path = tmp_path / "model.gguf"
    result = export_to("gguf", model, tokenizer, path, "f32")
    assert result.size == path.stat().st_size
    assert f"the ids of {target.LINES:,} lines" in result.compared
    again = load_model(path)
    assert again.family == family
    expected = dict(model.named_parameters())
    for name, tensor in again.named_parameters():
        assert torch.equal(tensor, expected[name]), name
    assert len(dict(again.named_parameters())) == len(expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(("kind", "bits"), [("q8_0", 8.5), ("q4_0", 4.5), ("f16", 16), ("bf16", 16)])
def test_types_are_what_the_package_makes(kind: str, bits: float, tmp_path: Path) -> None:
    """An oracle beside our own packing: `gguf.quants`, which follows llama.cpp's reference."""
    model, tokenizer = make("llama", tie_word_embeddings=False)
    export_to("gguf", model, tokenizer, tmp_path / "m.gguf", kind)
    by_name = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    plain = {tensor.name: tensor for tensor in stored(model, "f32")}
    assert by_name.keys() == plain.keys()
    for name, tensor in by_name.items():
        own = kind if plain[name].data.ndim > 1 else "f32"
        own = "q8_0" if kind == "q4_0" and name in ("token_embd.weight", "output.weight") else own
        assert tensor.tensor_type.name.lower() == own
        expected = gguf.quants.quantize(plain[name].data, tensor.tensor_type)
        assert np.array_equal(np.asarray(tensor.data).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))
    wide = by_name["blk.0.ffn_down.weight"]
    assert wide.n_bytes * 8 / wide.n_elements == bits


def test_a_changed_bit_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = make("gpt2")

    def spoiled(export: TargetExport, path: Path) -> None:
        write(export, path)
        content = bytearray(path.read_bytes())
        content[-8] ^= 1
        path.write_bytes(content)

    write = target.write
    monkeypatch.setattr(target, "write", spoiled)
    with pytest.raises(DataError, match=r"tensor 'output_norm.bias' is another in the files"):
        export_to("gguf", model, tokenizer, tmp_path / "m.gguf")
    assert not [*tmp_path.iterdir()], "nothing is left, not even a draft"


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("gpt3", {}, "written for llama, qwen2, qwen3, gpt2, bert alone"),
        ("gpt2", {"activation_function": "relu"}, "its activation is 'relu'"),
        ("gpt2", {"scale_attn_weights": False}, "scales scores by 1"),
        ("gpt2", {"n_embd": 48, "n_head": 2}, "rows of 48 numbers, and q8_0 has groups of 32"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "layer 1 sees"),
    ],
)
def test_what_llama_cpp_lacks_is_refused_by_name(
    family: str, fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    model, tokenizer = make(family, **fields)
    with pytest.raises(DataError, match=message):
        export_to("gguf", model, tokenizer, tmp_path / "m.gguf", "q8_0")
    assert not [*tmp_path.iterdir()]


def test_heads_prompts_and_other_tokenizers_are_refused(tmp_path: Path) -> None:
    model = build("bert", "tiny", ["classification"], {"vocab_size": 160}, labels=["a", "b"]).eval()
    with pytest.raises(DataError, match="no head 'classification'; use --format onnx"):
        export_to("gguf", model, word_tokenizer(), tmp_path / "m.gguf")
    model, tokenizer = make("gpt2")
    with pytest.raises(DataError, match="its tokenizer is a WordPiece"):
        export_to("gguf", model, word_tokenizer(), tmp_path / "m.gguf")
    layout = tokenizer.layout
    other = {**layout, "pre_tokenizer": {**layout["pre_tokenizer"], "add_prefix_space": True}}
    spaced = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(other)), tokenizer.settings)
    with pytest.raises(DataError, match=r"no key \(tokenizer.ggml.pre\)"):
        export_to("gguf", model, spaced, tmp_path / "m.gguf")
    model.embedding.prompt = LearnedPrompt(torch.zeros(2, model.width))
    with pytest.raises(DataError, match="a prompt of 2 vectors stands before every text"):
        export_to("gguf", model, tokenizer, tmp_path / "m.gguf")


def test_the_output_is_a_new_file_and_the_type_one_of_its_own(tmp_path: Path) -> None:
    model, tokenizer = make("gpt2")
    with pytest.raises(UsageError, match=r"give it the ending .gguf"):
        export_to("gguf", model, tokenizer, tmp_path / "folder")
    with pytest.raises(UsageError, match="--type q5_0: gguf has f32"):
        export_to("gguf", model, tokenizer, tmp_path / "m.gguf", "q5_0")
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(CannotCreateError):
        export_to("gguf", model, tokenizer, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"


def test_a_bert_says_how_its_vectors_are_pooled(tmp_path: Path) -> None:
    model, tokenizer = make("bert")
    model.vectors = TextVectors.pooled("cls")
    export_to("gguf", model, tokenizer, tmp_path / "m.gguf", "f32")
    again = pretune.load(tmp_path / "m.gguf", device="cpu", precision="fp32")
    ours = pretune.Model(model, tokenizer)
    assert again.network.vectors is not None
    assert again.network.vectors.pooling == "cls"
    texts = ["the quick brown fox", "a hat"]
    np.testing.assert_array_equal(again.embed(texts), ours.embed(texts))


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_gpt2(tmp_path / "model", byte_tokenizer())
    words = ["export", str(tmp_path / "model")]
    assert main([*words, str(tmp_path / "m.gguf"), "--format", "gguf", "--type", "q8_0"]) == 0
    said = capsys.readouterr().err
    assert "read back and compared, all equal: " in said
    assert "the ids of 300 lines" in said
    assert "next: llama-cli -m" in said
    assert pretune.load(tmp_path / "m.gguf", device="cpu").generate("the", max_new_tokens=2)
    assert main([*words, str(tmp_path / "o"), "--format", "ggfu"]) == 64
    assert "did you mean 'gguf'?" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "o"), "--type", "q8_0"]) == 64
    assert not (tmp_path / "o").exists()


def test_a_target_of_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / "lines.py"
    own.write_text(
        "TYPES, SUFFIX, PACKAGES = ('f32',), '.txt', ((), 'none')\n"
        "def refuse(export): return None\n"
        "def write(export, path): path.write_text(export.model.family)\n"
        "def compare(export, path): return ['its name'] if path.read_text() == export.model.family else []\n"
        "def use(export, path): return f'cat {path}'\n"
    )
    model, tokenizer = make("gpt2")
    result = export_to(str(own), model, tokenizer, tmp_path / "out.txt")
    assert (result.compared, result.use) == (["its name"], f"cat {tmp_path / 'out.txt'}")
    assert (tmp_path / "out.txt").read_text() == "gpt2"
    lacking = tmp_path / "lacking.py"
    lacking.write_text("TYPES = ()\n")
    with pytest.raises(UsageError, match="the file has no SUFFIX and no PACKAGES"):
        export_to(str(lacking), model, tokenizer, tmp_path / "other.txt")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp (xllamacpp) is not installed")
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_reads_the_same(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 lines have the same ids, and four prompts the same greedy texts."""
    monkeypatch.setattr(llamacpp, "COUNT", 10_000)
    model, tokenizer = make(family)
    result = export_to("gguf", model, tokenizer, tmp_path / "m.gguf", "f32", USES)
    assert result.compared[-1].startswith("llama.cpp")
