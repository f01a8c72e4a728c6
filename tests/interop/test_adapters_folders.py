"""Folders of the library `adapters` in the verbs: loaded, merged, exported; and those that are refused, by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peftkit
import pytest
import tinymodels
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_adapters_both_ways import unpack

import pretune
from pretune.cli import main
from pretune.errors import CannotCreateError, DataError, MissingInputError, UsageError
from pretune.interop.adapters.folder import read, write
from pretune.interop.huggingface import load_model
from pretune.tune.method import find_method

LABELS = ["bad", "good"]
ROWS = [
    (f"the {word} fox", LABELS[n % 2]) for n, word in enumerate(["lazy", "quick", "brown", "cat", "dog", "hat"] * 2)
]
FIELDS: dict[str, Any] = {"steps": 4, "lr": 3e-3, "batch": 4, "length": 32, "report": False, "device": "cpu"}


def change(folder: Path, file: str = "adapter_config", **fields: object) -> None:
    """Changes fields of the method, or of the file where their names begin with `outer_`."""
    path = folder / f"{file}.json"
    tree = json.loads(path.read_text())
    for name, value in fields.items():
        where = tree if name.startswith("outer_") else tree["config"]
        where[name.removeprefix("outer_")] = value
    path.write_text(json.dumps(tree))


def base_with_words(folder: Path) -> Path:
    kind = transformers.BertForSequenceClassification
    tinymodels.save_bert(folder, tinymodels.word_tokenizer(), kind, LABELS)
    return folder


@pytest.mark.parametrize(
    "tune",
    [
        {"adapter": {}},
        {"adapter": {"form": "houlsby", "activation": "gelu", "places": ["layers[-1:].attention"]}},
        {"adapter": {"form": "parallel"}},
        {"lora": {"rank": 2}},
        {"ia3": {"places": ["attention.key", "attention.value", "feedforward.up"]}},
    ],
)
def test_a_run_is_exported_and_loaded(tune: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its head, the names of the classes and the place of its base; an adapter with an activation has no merge."""
    base, run, folder = base_with_words(tmp_path / "base"), tmp_path / "run", tmp_path / "adapter"
    pretune.finetune(model=str(base), task="classification", train=ROWS, tune=tune, output=str(run), **FIELDS)
    model = pretune.load(run, device="cpu", precision="fp32")
    assert main(["export", str(run), str(folder), "--format", "adapters"]) == 0
    said = capsys.readouterr().err
    assert "read back on the base and compared, all equal" in said
    assert f"adapters.BertAdapterModel.from_pretrained('{base.resolve()}')" in said
    assert json.loads((folder / "head_config.json").read_text())["config"]["label2id"] == {"bad": 0, "good": 1}
    texts = ["the lazy dog", "a cat"]
    loaded = pretune.load(folder, device="cpu", precision="fp32")
    for expected, actual in zip(model.predict(texts), loaded.predict(texts), strict=True):
        assert actual.label == expected.label
        assert actual.probability == pytest.approx(expected.probability, abs=1e-5)
    if "adapter" in tune:
        with pytest.raises(UsageError, match="an adapter with an activation inside cannot be merged into a plain"):
            pretune.merge(folder, tmp_path / "merged")
    else:
        pretune.merge(folder, tmp_path / "merged")
        (answer,) = pretune.load(tmp_path / "merged", device="cpu", precision="fp32").predict(texts[:1])
        assert answer.probability == pytest.approx(model.predict(texts[:1])[0].probability, abs=1e-5)
    with pytest.raises(CannotCreateError, match="holds something already"):
        model.export_adapter(folder, "adapters")


def test_the_base_is_found_or_named(tmp_path: Path) -> None:
    folder = unpack("bert_seq_bn", tmp_path)
    (folder / "base").rename(tmp_path / "moved")
    with pytest.raises(MissingInputError, match="its base 'base' is no folder here, and pretune fetches none"):
        read(folder)
    assert read(folder, tmp_path / "moved").heads
    change(folder, outer_model_name="../moved")
    assert read(folder).heads
    with pytest.raises(MissingInputError, match=r"pretune merge .*saved --output"):
        pretune.finetune(model=str(folder), task="classification", train=ROWS, output=str(tmp_path / "run"))
    with pytest.raises(DataError, match="field 'model_type' = 'bert', the base has 'roberta'; give the base that was"):
        read(folder, unpack("roberta_seq_bn", tmp_path / "roberta") / "base")


BOTTLENECK: list[tuple[dict[str, object], str]] = [
    ({"architecture": "prefix_tuning"}, r"field 'architecture' = \"prefix_tuning\": pretune reads bottleneck adapters"),
    ({"architecture": ["lora"]}, r"field 'architecture' = \[\"lora\"\]: pretune reads"),
    ({"architecture": "union"}, "field 'architecture' = \"union\": pretune reads .*; use this adapter in the library"),
    ({"residual_before_ln": "post_add"}, "field 'residual_before_ln' = \"post_add\": the adapter is added to somethi"),
    ({"original_ln_after": False}, "field 'original_ln_after' = false: without the residual connection and the norm"),
    ({"inv_adapter": "nice"}, "field 'inv_adapter' = \"nice\": pretune has no invertible adapter behind the embedding"),
    ({"phm_layer": True}, "field 'phm_layer' = true: pretune has no hypercomplex layers"),
    ({"ln_before": True}, "field 'ln_before' = true: pretune's adapters have no norm; use this adapter in the library"),
    ({"use_gating": True}, "field 'use_gating' = true: pretune's adapters have no gate"),
    ({"scaling": "learned"}, "field 'scaling' = \"learned\": a learned factor stands in the file"),
    ({"stochastic_depth": 0.1}, "field 'stochastic_depth' = 0.1: pretune's adapters are not left out by chance"),
    (
        {"non_linearity": "prelu"},
        "field 'non_linearity' = 'prelu': pretune has no such activation; did you mean 'relu'",
    ),
    ({"of_a_later_release": 2}, "field 'of_a_later_release' = 2: pretune does not do what it asks for"),
    ({"reduction_factor": 1e-9}, "field 'reduction_factor' = 1e-09 in layer 0: expected a number from 0.25 on"),
    ({"reduction_factor": {"1": 4}}, "field 'reduction_factor' = None in layer 0"),
    (
        {"reduction_factor": 2},
        r"adapter_down.0.weight has shape \[2, 8\], the base and adapter_config.json ask for \[4",
    ),
    ({"leave_out": ["0"]}, "field 'leave_out' = .*: expected a list of layers"),
    ({"leave_out": [0]}, "an adapter of 'encoder.layer.0.output', where adapter_config.json says there is none"),
    ({"mh_adapter": True}, "'bert.encoder.layer.0.attention.output' has no adapter in the file, adapter_config.json"),
    ({"outer_name": "other"}, "adapter_down.0.bias' is none of the adapter 'other'"),
    ({"outer_hidden_size": 16}, "field 'hidden_size' = '16', the base has 8"),
    ({"outer_config": None}, "fields 'config' and 'name' are needed"),
    ({"dropout": "much"}, "field 'dropout' = \"much\": expected a whole number or a number"),
]
LORA: list[tuple[dict[str, object], str]] = [
    ({"use_dora": True}, "field 'use_dora' = true: adapters divides by lengths without the scale"),
    ({"vera_d": 0.1}, "field 'vera_d' = 0.1: pretune has no VeRA"),
    ({"use_gating": True}, "field 'use_gating' = true: pretune has no gate there"),
    ({"dtype": "bfloat16"}, "field 'dtype' = \"bfloat16\": its tensors are computed with in fp32; leave the field out"),
    ({"composition_mode": "multiply"}, "field 'composition_mode' = \"multiply\": pretune reads"),
    ({"composition_mode": "scale", "alpha": 1}, "field 'r' = 2: factors have one number a row"),
    ({"attn_matrices": ["q", "o"]}, "field 'attn_matrices' = .*: expected some of q, k, v"),
    ({"composition_mode": {}}, "field 'composition_mode' = {}: pretune reads"),
    ({"attn_matrices": [["q"]]}, "field 'attn_matrices' = .*: expected some of q, k, v"),
    ({"attn_matrices": ["q"]}, "tensors of 'encoder.layer.0.attention.self.key', where adapter_config.json says there"),
    (
        {"r": 3},
        r"factors of shapes \[2, 8\] and \[8, 2\], adapter_config.json and the base ask for \[3, 8\] and \[8, 3\]",
    ),
]
HEADS: list[tuple[dict[str, object], str]] = [
    ({"layers": 3}, "field 'layers' = 3: pretune has no such head for bert; use this head in the library adapters, or"),
    ({"activation_function": "relu"}, "field 'activation_function' = \"relu\": pretune has no such head"),
    ({"head_type": "dependency_parsing"}, "field 'head_type' = \"dependency_parsing\": pretune has no such head"),
    ({"label2id": {"bad": 0, "good": 2}}, "field 'label2id' = .*: expected names with the numbers from 0 on"),
    ({"outer_name": "other"}, "head_config.json says another head than its tensors: heads.pretune.1.bias"),
    ({"outer_config": None, "outer_model_class": "BertForChess"}, "field 'model_class' = 'BertForChess': bert has no"),
]


@pytest.mark.parametrize(
    ("case", "file", "fields", "message"),
    [
        *(("bert_par_bn" if "stoch" in str(f) else "bert_seq_bn", "adapter_config", f, m) for f, m in BOTTLENECK),
        ("bert_par_bn", "adapter_config", {"mh_adapter": True}, "attention.output' has no adapter in the file"),
        *(("bert_lora", "adapter_config", fields, message) for fields, message in LORA),
        *(("bert_classes", "head_config", fields, message) for fields, message in HEADS),
        ("bert_ia3", "adapter_config", {"alpha": 2}, "field 'alpha' = 2: it multiplies rows that have no factors too"),
    ],
)
def test_refused_fields(case: str, file: str, fields: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = unpack(case, tmp_path)
    change(folder, file, **fields)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_adapters_beside_attention_are_refused(tmp_path: Path) -> None:
    folder = unpack("bert_attention", tmp_path)
    change(folder, is_parallel=True)
    with pytest.raises(DataError, match="field 'mh_adapter' = true with 'is_parallel': pretune has adapters beside"):
        read(folder)


def test_fusions_and_unknown_families_are_refused(tmp_path: Path) -> None:
    folder = unpack("bert_seq_bn", tmp_path)
    (folder / "adapter_fusion_config.json").write_text("{}")
    with pytest.raises(DataError, match="several adapters are fused by attention, which pretune does not do"):
        read(folder)
    model = find_method("adapter", {}).apply(load_model(tinymodels_bart(tmp_path / "bart")))
    with pytest.raises(DataError, match="'model_type' = 'bart': pretune knows the modules of adapters in bert, "):
        write(model, tmp_path / "out")


def tinymodels_bart(folder: Path) -> Path:
    sizes = {"d_model": 16, "vocab_size": 40, "max_position_embeddings": 32, "decoder_start_token_id": 0}
    sides = {
        f"{side}_{field}": value
        for side in ("encoder", "decoder")
        for field, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes, **sides)).save_pretrained(folder)
    return folder


def test_damaged_and_hostile_tensors(tmp_path: Path) -> None:
    folder = unpack("bert_seq_bn", tmp_path)
    path = folder / "adapter.safetensors"
    whole, tensors = path.read_bytes(), load_file(path)
    name = next(iter(tensors))
    for changed, message in (
        ({name: torch.full_like(tensors[name], torch.nan)}, "holds something else than finite numbers; damaged"),
        ({"bert.pooler.dense.weight": torch.ones(8, 8)}, "'bert.pooler.dense.weight' is none of the adapter 'pretune'"),
        ({name.replace(".0.bias", ".9.bias"): torch.ones(2)}, r"adapter_down.9.bias has shape \[2\]"),
    ):
        save_file({**tensors, **changed}, path)
        with pytest.raises(DataError, match=message):
            read(folder)
    path.write_bytes(whole[:-8])
    with pytest.raises(DataError, match="truncated"):
        read(folder)
    path.unlink()
    torch.save({**tensors, "code": Path}, folder / "pytorch_adapter.bin")
    with pytest.raises(DataError, match="which could run code when read"):
        read(folder)
    (folder / "pytorch_adapter.bin").unlink()
    with pytest.raises(MissingInputError, match=r"no tensors of the adapter \(adapter.safetensors or pytorch_adapter"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "method", "settings", "message"),
    [
        ("bert", "bitfit", {}, "has no adapter that the library has, and a folder holds one of bottleneck, lora"),
        ("bert", "lora", {"places": ["attention.output"]}, "the library has no adapter of this matrix in bert"),
        ("t5", "lora", {"places": ["attention.query"]}, "cross.query has none, and others like it have one"),
        ("gpt2", "lora", {"places": ["vocabulary"]}, "the library has no LoRA of a vocabulary"),
        ("bert", "lora", {"weight_decomposed": True}, "the library has no DoRA or AdaLoRA that means the same"),
        ("bert", "adalora", {"init_rank": 3, "target_rank": 2}, "the library has no DoRA or AdaLoRA that means the"),
        ("bert", "ia3", {}, "has factors of its input, and the library has factors of outputs"),
        ("bert", "adapter", {"activation": "sqrtsoftplus"}, "the library has no activation like this model's"),
        (
            "bert",
            "adapter",
            {"form": "houlsby", "places": ["attention", "layers[-1:].feedforward"]},
            "feedforward.down has no adapter, and other branches of its layer have one",
        ),
    ],
)
def test_what_the_files_have_no_place_for(
    name: str, method: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = find_method(method, settings).apply(load_model(peftkit.base(name, tmp_path / "base")))
    with pytest.raises(DataError, match=message):
        write(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_old_lora_is_read_as_it_was_trained_and_said(tmp_path: Path) -> None:
    model = read(unpack("bert_old_lora", tmp_path))
    assert model.loaded is not None
    assert any("field 'alpha' = 8: read as 2, the rank" in note for note in model.loaded.notes)


@pytest.mark.parametrize(
    ("case", "problem_type", "labels"),
    [
        ("bert_classes", "single_label_classification", ["bad", "good"]),
        ("bert_classes_several", "multi_label_classification", ["bad", "good"]),
        ("bert_number", "regression", ["LABEL_0"]),
        ("roberta_classes", "single_label_classification", ["LABEL_0", "LABEL_1", "LABEL_2"]),
    ],
)
def test_heads_are_of_the_kind_that_was_configured(
    case: str, problem_type: str, labels: list[str], tmp_path: Path
) -> None:
    head = read(unpack(case, tmp_path)).heads["classification"]
    assert (head.problem_type, list(head.labels)) == (problem_type, labels)


def test_another_format_is_refused(tmp_path: Path) -> None:
    base = base_with_words(tmp_path / "base")
    write(find_method("adapter", {}).apply(load_model(base)), tmp_path / "adapter", str(base))
    model = pretune.load(tmp_path / "adapter", device="cpu")
    with pytest.raises(UsageError, match=r"format 'lit': no format of adapters; known: peft, adapters"):
        model.export_adapter(tmp_path / "out", "lit")  # type: ignore[arg-type]
