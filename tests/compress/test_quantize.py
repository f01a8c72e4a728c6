"""Quantization: which places are rounded, in which order layers are calibrated, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pretune.compress import quantize
from pretune.compress.calibration import Calibration, CalibrationConfig, read_calibration
from pretune.compress.folding import find_source
from pretune.compress.method import CompressContext, find_compression
from pretune.compress.walk import walk
from pretune.config import validate
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.rounded import RoundedProjection, RoundedVocabulary
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.tune.surgery import projection_sites
from tests.tinymodels import TEXTS, byte_tokenizer, word_tokenizer

LLAMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {**LLAMA, "num_key_value_heads": 2, "max_position_embeddings": 64},
    "bert": {**BERT, "max_position_embeddings": 64},
    "albert": {**BERT, "num_hidden_layers": 3, "embedding_size": 32, "max_position_embeddings": 64},
    "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4},
    "xlnet": {"d_model": 64, "d_inner": 128, "n_layer": 2, "n_head": 4, "d_head": 16},
}
OBJECTIVES = {"gpt2": "clm", "llama": "clm", "bert": "mlm", "albert": "mlm"}


def _tokenizer(family: str) -> Tokenizer:
    return byte_tokenizer() if family in ("gpt2", "llama", "t5") else word_tokenizer()


def _model(family: str) -> LanguageModel:
    """A random model whose inputs are of unlike sizes, as those of trained ones."""
    tokenizer = _tokenizer(family)
    torch.manual_seed(0)
    heads = () if family in ("t5", "xlnet") else (OBJECTIVES[family],)
    model = build(family, "tiny", heads, {"vocab_size": tokenizer.vocabulary.size, **SIZES[family]})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.08)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
                module.weight.copy_(torch.logspace(-0.7, 0.7, len(module.weight))[torch.randperm(len(module.weight))])
    return model.eval()


def _calibration(model: LanguageModel, family: str, tmp_path: Path, tokens: int = 900) -> Calibration:
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(f"{TEXTS[n % 2]} {n} {n * 7}" for n in range(150)))
    config = CalibrationConfig(data=(str(path),), tokens=tokens)
    return read_calibration(model, _tokenizer(family), config, Draw(0), tmp_path)


def _context(family: str, calibration: Calibration | None) -> CompressContext:
    return CompressContext(_tokenizer(family), Draw(0), calibration)


def _hidden(model: LanguageModel, calibration: Calibration) -> torch.Tensor:
    batch = replace(calibration.batches[0], output_rows=None, order=None)
    with torch.no_grad():
        return model(batch).last_hidden_state


def test_layers_are_rounded_and_the_vocabulary_in_8_bits() -> None:
    model = _model("gpt2")
    head = model.heads["clm"]
    quantize.apply(model, quantize.Config(format="q4_0", keep=("layers[0:1].attention",)), _context("gpt2", None))
    formats = {
        site.path.removeprefix("stack.blocks."): site.brick.format.NAME
        for site in projection_sites(model)
        if isinstance(site.brick, RoundedProjection)
    }
    assert set(formats.values()) == {"q4_0"}
    assert not any(path.startswith("0.attention") for path in formats)
    assert len(formats) == 8
    assert isinstance(model.embedding.word, RoundedVocabulary)
    assert model.embedding.word.format.NAME == "q8_0"
    assert head.vocabulary is model.embedding.word  # type: ignore[union-attr]
    assert "vocabulary" not in {name.partition(":")[0] for name in quantize.acted(model)}
    assert any(line == "embedding.word: q8_0" for line in quantize.acted(model))


@pytest.mark.parametrize("family", sorted(SIZES))
def test_every_family_is_calibrated_layer_by_layer(family: str, tmp_path: Path) -> None:
    model = _model(family)
    calibration = _calibration(model, family, tmp_path)
    plain = _hidden(model, calibration)
    errors = {}
    for values in ("rtn", "gptq"):
        rounded = copy.deepcopy(model)
        context = _context(family, calibration)
        config = quantize.Config(format="q4_0", values=values, keep=("vocabulary",))
        quantize.apply(rounded, config, context)
        inside = [site for site in projection_sites(rounded) if "blocks." in site.path]
        assert all(isinstance(site.brick, RoundedProjection) for site in inside)
        assert all(0 < float(context.facts[site.path]["error"]) < 0.5 for site in inside)
        errors[values] = float((_hidden(rounded, calibration) - plain).norm() / plain.norm())
    assert 0 < errors["gptq"] < 0.8 * errors["rtn"]


def test_a_layer_sees_the_outputs_of_what_was_rounded_before_it(tmp_path: Path) -> None:
    model = _model("gpt2")
    calibration = _calibration(model, "gpt2", tmp_path)
    untouched = copy.deepcopy(model)
    seen = []
    for layer, original in zip(walk(model, calibration), walk(untouched, calibration), strict=True):
        first, second = layer.observe(layer.sites), original.observe(original.sites)
        assert first is not None
        assert second is not None
        assert [site.role for site in first.sites] == ["attention.query", "attention.key", "attention.value"]
        seen.append(torch.equal(first.inputs.moments, second.inputs.moments))
        for site in layer.sites:
            site.brick.get_parameter("weight").data.mul_(0.5)
    assert seen == [True, False]


def test_observed_inputs_are_those_of_a_whole_pass(tmp_path: Path) -> None:
    model = _model("llama")
    calibration = _calibration(model, "llama", tmp_path)
    rows: list[torch.Tensor] = []
    brick = model.get_submodule("stack.blocks.1.feedforward.down")
    hook = brick.register_forward_pre_hook(lambda module, arguments: rows.append(arguments[0]))
    with torch.no_grad():
        for batch in calibration.batches:
            model(batch)
    hook.remove()
    for layer in walk(model, calibration):  # a layer has its inputs until the next one is asked for
        group = layer.observe([site for site in layer.sites if site.role == "feedforward.down"])
    assert group is not None
    x = torch.cat(rows)
    assert group.inputs.rows == len(x)
    assert torch.allclose(group.inputs.moments, x.T @ x / len(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_folded_factors_change_no_output(family: str, tmp_path: Path) -> None:
    model = _model(family)
    calibration = _calibration(model, family, tmp_path)
    before = _hidden(model, calibration)
    folded = set()
    for layer in walk(model, calibration):
        pending = list(layer.sites)
        while pending and (group := layer.observe(pending)) is not None:
            source = find_source(model, group.sites)
            if source is not None:
                source.rescale(torch.linspace(0.5, 2.0, len(group.inputs.magnitude)))
                folded |= {site.role for site in group.sites}
            pending = [site for site in pending if site not in group.sites]
    assert torch.allclose(_hidden(model, calibration), before, rtol=1e-3, atol=1e-4)
    inputs = {"attention.query", "attention.key", "attention.value"}
    expected = {"gpt2": {"attention.output", "feedforward.up"}, "llama": {"feedforward.gate", "feedforward.value"}}
    assert folded == inputs | expected[family] | ({"feedforward.down"} if family == "llama" else set())


def test_awq_says_what_it_cannot_fold_and_beats_plain_rounding(tmp_path: Path) -> None:
    model = _model("llama")
    calibration = _calibration(model, "llama", tmp_path)
    plain = _hidden(model, calibration)
    errors = {}
    for values in ("rtn", "awq"):
        rounded, context = copy.deepcopy(model), _context("llama", calibration)
        quantize.apply(rounded, quantize.Config(format="q4_0", values=values, keep=("vocabulary",)), context)
        errors[values] = float((_hidden(rounded, calibration) - plain).norm())
    assert errors["awq"] < errors["rtn"]
    (note,) = [note for note in context.notes if note.startswith("awq")]
    assert "inputs of 2 places, such as stack.blocks.0.attention.output" in note  # heads share values


def test_the_result_reloads_bit_for_bit(tmp_path: Path) -> None:
    model, tokenizer = _model("gpt2"), byte_tokenizer()
    calibration = _calibration(model, "gpt2", tmp_path)
    quantize.apply(model, quantize.Config(format="q4_0", values="gptq"), _context("gpt2", calibration))
    save_model(model, tmp_path / "small", tokenizer)
    again = load_model(tmp_path / "small").eval()
    assert torch.equal(_hidden(again, calibration), _hidden(model, calibration))


def test_what_cannot_be_rounded_is_refused_before_anything_changes(tmp_path: Path) -> None:
    model = _model("gpt2")
    calibration = _calibration(model, "gpt2", tmp_path)
    down = model.get_submodule("stack.blocks.1.feedforward.down")
    down.get_parameter("weight").data[3, 5] = float("nan")
    with pytest.raises(DataError, match=r"blocks\.1\.feedforward\.down: it holds nan at row 3, column 5.*--keep"):
        quantize.apply(model, quantize.Config(), _context("gpt2", None))
    down.get_parameter("weight").data[3, 5] = 0.0
    with pytest.raises(UsageError, match="bf16 has none"):
        quantize.apply(model, quantize.Config(format="bf16", values="hqq"), _context("gpt2", None))
    with pytest.raises(UsageError, match="keep fewer places"):
        quantize.apply(model, quantize.Config(keep=("layers",)), _context("gpt2", None))
    with pytest.raises(UsageError, match="feedforwards"):
        quantize.apply(model, quantize.Config(keep=("feedforwards",)), _context("gpt2", None))
    few = _calibration(model, "gpt2", tmp_path, tokens=256)
    wide = copy.deepcopy(few)
    object.__setattr__(wide, "tokens", 200)
    with pytest.raises(DataError, match="at least 256 tokens are needed"):
        quantize.apply(model, quantize.Config(format="q4_0", values="gptq"), _context("gpt2", wide))
    model.embedding.get_parameter("word.weight").data[0] = float("inf")
    with pytest.raises(DataError, match=r"blocks\.0\.attention\.query: its inputs are not finite"):
        quantize.apply(model, quantize.Config(format="q4_0", values="gptq"), _context("gpt2", calibration))
    assert not any(isinstance(site.brick, RoundedProjection) for site in projection_sites(model))


def test_a_rounded_model_is_not_rounded_again() -> None:
    model = _model("bert")
    quantize.apply(model, quantize.Config(), _context("bert", None))
    with pytest.raises(UsageError, match="rounded already"):
        quantize.apply(model, quantize.Config(), _context("bert", None))


def test_a_width_that_groups_do_not_divide_is_refused_with_the_remedy() -> None:
    tokenizer = byte_tokenizer()
    sizes = {"n_embd": 48, "n_layer": 1, "n_head": 4, "n_positions": 64, "vocab_size": tokenizer.vocabulary.size}
    model = build("gpt2", "tiny", ("clm",), sizes)
    with pytest.raises(DataError, match=r"its width 48 is no multiple of the 32.*int8 there, or keep it"):
        quantize.apply(model, quantize.Config(format="q4_0"), _context("gpt2", None))
    quantize.apply(model, quantize.Config(format="int8"), _context("gpt2", None))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "q4_O"}, "did you mean 'q4_0'"),
        ({"values": "gtpq"}, "did you mean 'gptq'"),
        ({"vocabulary": "q9"}, "no format 'q9'"),
        ({"formt": "q8_0"}, "format"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(quantize.Config, fields, "compress.quantize")


def test_options_are_those_of_the_values() -> None:
    with pytest.raises(UsageError, match="dampp"):
        quantize.needs(quantize.Config(values="gptq", options={"dampp": 1}))
    assert find_compression("quantize", {"values": "gptq"}).needs() == {"calibration"}
    assert find_compression("quantize", {"values": "hqq"}).needs() == set()


def test_a_users_own_values(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pretune import config\nfrom pretune.nn.formats.format import pack\nNEEDS_INPUTS = False\n"
        "class Config(config.Config):\n    factor: float = 1.0\n"
        "def choose(weight, format, inputs, config):\n    return pack(format, weight * config.factor)\n"
    )
    model = _model("gpt2")
    site = next(site for site in projection_sites(model) if site.role == "feedforward.up")
    before = site.brick.get_parameter("weight").detach().clone()
    config = quantize.Config(format="q8_0", values=str(tmp_path / "mine.py"), options={"factor": 0.5})
    quantize.apply(model, config, _context("gpt2", None))
    after = model.get_submodule(site.path).dense()[0]  # type: ignore[operator]
    assert torch.allclose(after, 0.5 * before, atol=0.01)
