"""CTranslate2's files against the models that they were written of; opt-in: `pip install 'pretune[export]'`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from tinymodels import byte_tokenizer, save_gpt2

import pretune
from pretune.cli import main
from pretune.errors import DataError
from pretune.interop.ctranslate2_specs import DECODERS, ENCODERS, TRANSLATORS
from pretune.interop.export_target import TargetExport, export_to
from pretune.interop.targets import ctranslate2 as target
from pretune.models import build
from pretune.models.model import LanguageModel, get_family

ctranslate2 = pytest.importorskip("ctranslate2", reason="the extra 'export' is not installed")
FAMILIES = (*DECODERS, *TRANSLATORS, *ENCODERS)
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def make(family: str, *roles: str, **fields: object) -> LanguageModel:
    chosen = list(roles or max(get_family(family).ARCHITECTURES.values(), key=len))
    labels = ["a", "b"] if "classification" in chosen else None
    model = build(family, "tiny", chosen, {"vocab_size": 303, **fields}, labels=labels).eval()
    parity.randomise(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same(family: str, tmp_path: Path) -> None:
    result = export_to("ctranslate2", make(family), byte_tokenizer(), tmp_path / "out")
    assert "of 3 texts, within" in result.compared[0]
    assert {"model.bin", "config.json", "tokenizer.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("kind", ["int8", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["gpt2", "t5", "bert"])
def test_smaller_types(family: str, kind: str, tmp_path: Path) -> None:
    model = make(family)
    sizes = {
        each: export_to("ctranslate2", model, byte_tokenizer(), tmp_path / each, each).size
        for each in ("float32", kind)
    }
    assert sizes[kind] < 0.6 * sizes["float32"]
    unchanged = make(family)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), unchanged.parameters(), strict=True))


@pytest.mark.parametrize("rope", [_LLAMA3, {"rope_type": "linear", "rope_theta": 1000.0, "factor": 3.0}])
def test_scaled_rotary_positions(rope: dict[str, object], tmp_path: Path) -> None:
    model = make("llama", rope_parameters=rope, max_position_embeddings=512)
    export_to("ctranslate2", model, byte_tokenizer(), tmp_path / "out")


def test_the_vocabulary_has_a_name_for_each_row(tmp_path: Path) -> None:
    """The converter of CTranslate2 stops where tokenizer and model are of different sizes."""
    model, tokenizer = make("gpt2"), byte_tokenizer()
    assert tokenizer.vocabulary.size < model.vocab_size
    export_to("ctranslate2", model, tokenizer, tmp_path / "out")
    tokens = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert len(tokens) == len(set(tokens)) == model.vocab_size
    assert tokens[:256] == tokenizer.subwords[:256]
    with pytest.raises(DataError, match="a tokenizer of 300 tokens, a model of 280"):
        export_to("ctranslate2", make("gpt2", vocab_size=280), tokenizer, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_greedy_tokens_are_the_same(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "model", byte_tokenizer(), std=1.0)
    model = pretune.load(tmp_path / "model", device="cpu", precision="fp32")
    model.export_for("ctranslate2", tmp_path / "out")
    generator = ctranslate2.Generator(str(tmp_path / "out"), compute_type="float32", intra_threads=1)
    prompt = model.tokenizer.encode("the quick brown").tolist()
    tokens = [str(model.tokenizer.subwords[n]) for n in prompt]
    answer = generator.generate_batch([tokens], max_length=8, sampling_topk=1, include_prompt_in_result=False)[0]
    ours = model.continuations(["the quick brown"], max_new_tokens=8)[0]
    assert answer.sequences_ids[0] == list(ours.tokens)[: len(answer.sequences_ids[0])]
    assert len(answer.sequences_ids[0]) >= 7


def test_a_wrong_weight_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = target.write
    for family in ("gpt2", "t5", "bert"):
        model = make(family)
        norm = model.stack.norm if family != "bert" else model.embedding.norm

        def spoiled(export: TargetExport, path: Path, norm: torch.nn.Module = norm) -> None:
            weight = norm.weight
            assert isinstance(weight, torch.Tensor)
            before = weight.detach().clone()
            weight.data[0] += 0.05
            write(export, path)
            weight.data.copy_(before)

        with monkeypatch.context() as patch:
            patch.setattr(target, "write", spoiled)
            with pytest.raises(DataError, match=r"as CTranslate2 reads it, .* differ by"):
                export_to("ctranslate2", model, byte_tokenizer(), tmp_path / "out")
        assert not [*tmp_path.iterdir()]


def test_what_it_lacks_is_refused_by_name(tmp_path: Path) -> None:
    for family in ("albert", "electra", "gpt3", "modernbert", "xlnet"):
        with pytest.raises(DataError, match="it is written for gpt, gpt2, llama"):
            export_to("ctranslate2", make(family), byte_tokenizer(), tmp_path / "out")
    window = make("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    for model, message in (
        (make("bert", "classification"), "no head 'classification'; use --format onnx"),
        (make("gpt2", activation_function="mish"), "its activation is none of gelu"),
        (window, "a layer sees SlidingWindow"),
    ):
        with pytest.raises(DataError, match=message):
            export_to("ctranslate2", model, byte_tokenizer(), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_gpt2(tmp_path / "model", byte_tokenizer())
    words = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "ctranslate2", "--type", "int8"]
    assert main(words) == 0
    assert f"ctranslate2 {ctranslate2.__version__}: logits of 3 texts" in capsys.readouterr().err
    assert np.fromfile(tmp_path / "out" / "model.bin", np.uint8).size > 1000
