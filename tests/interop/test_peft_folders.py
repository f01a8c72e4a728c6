"""Folders of PEFT in the verbs: loaded, merged, exported; and those that are refused, with file, field and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import peftkit
import pytest
import tinymodels
import torch
import transformers
from safetensors.torch import load_file, save_file

import pretune
from pretune.cli import main
from pretune.errors import CannotCreateError, DataError, MissingInputError, UsageError
from pretune.interop.huggingface import load_model
from pretune.interop.peft.folder import read as read_peft
from pretune.interop.peft.folder import write as write_peft
from pretune.tune.method import find_method

LABELS = ["bad", "good"]
ROWS = [
    (f"the {word} fox", LABELS[n % 2]) for n, word in enumerate(["lazy", "quick", "brown", "cat", "dog", "hat"] * 2)
]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A base with two classes, and an adapter of peft beside it, whose folder has no tokenizer."""
    kind = transformers.BertForSequenceClassification
    tinymodels.save_bert(tmp_path / "base", tinymodels.word_tokenizer(), kind, LABELS)
    model = peft.get_peft_model(
        kind.from_pretrained(tmp_path / "base"), peft.LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query"])
    )
    peftkit.randomise(model, lambda name: "lora" in name or "classifier.modules_to_save" in name)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path


def change(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder: Path, **changes: Any) -> None:
    """Replaces tensors whose names end so, by what a function makes of them; None removes them."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for end, make in changes.items():
        for name in [name for name in tensors if name.endswith(end.replace("__", "."))]:
            old = tensors.pop(name)
            tensors |= {} if make is None else {name: make(old).contiguous()}
    save_file(tensors, path)


@torch.no_grad()
def test_an_adapter_is_loaded_used_and_merged(bert: Path) -> None:
    """With the tokenizer, the classes and the place of its base; merged, a model that transformers opens."""
    texts = ["the quick fox", "a cat"]
    model = pretune.load(bert / "adapter", device="cpu", precision="fp32")
    answers = model.predict(texts)
    oracle = peft.AutoPeftModelForSequenceClassification.from_pretrained(bert / "adapter").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert / "base")
    for text, answer in zip(texts, answers, strict=True):
        scores = oracle(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert answer.label == LABELS[int(scores.argmax())]
        assert answer.probability == pytest.approx(float(scores.max()), abs=1e-5)
    assert pretune.load(bert / "base", device="cpu", precision="fp32").predict(texts) != answers
    pretune.merge(bert / "adapter", bert / "merged")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(bert / "merged").eval()
    inputs = tokenizer(texts[0], return_tensors="pt")
    torch.testing.assert_close(plain(**inputs).logits, oracle(**inputs).logits, atol=1e-5, rtol=1e-5)
    model.export(bert / "exported")
    assert (
        load_file(bert / "exported" / "model.safetensors").keys()
        == load_file(bert / "merged" / "model.safetensors").keys()
    )


def test_the_base_is_found_or_named(bert: Path) -> None:
    (bert / "base").rename(bert / "moved")
    with pytest.raises(MissingInputError, match=r"its base '.*base' is no folder here, and pretune fetches none; give"):
        pretune.load(bert / "adapter")
    assert pretune.load(bert / "adapter", base=bert / "moved", device="cpu").predict(["a cat"])
    change(bert / "adapter", base_model_name_or_path="../moved")
    assert pretune.load(bert / "adapter", device="cpu").predict(["a cat"])
    with pytest.raises(MissingInputError, match=r"pretune merge .*adapter --output"):
        pretune.finetune(model=str(bert / "adapter"), task="classification", train=ROWS, output=str(bert / "run"))


@pytest.mark.parametrize("places", [["attention.query", "attention.value", "feedforward"], ["vocabulary"]])
def test_a_run_is_exported(bert: Path, places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What the verb says next opens it in peft, with the head, the pooler and the number of classes."""
    tune = {"lora": {"places": places, "rank": 2}}
    fields: dict[str, Any] = {"steps": 4, "lr": 3e-3, "batch": 4, "length": 32, "report": False, "device": "cpu"}
    run = str(bert / "run")
    model = pretune.finetune(
        model=str(bert / "base"), task="classification", train=ROWS, validation=ROWS, tune=tune, output=run, **fields
    )
    assert main(["export", run, str(bert / "peft"), "--format", "peft"]) == 0
    said = capsys.readouterr().err
    assert "read back on the base and compared, all equal" in said
    assert "BertForSequenceClassification.from_pretrained(" in said
    assert "num_labels=2" in said
    assert "it answers LABEL_0, LABEL_1 ... in the model's order" in said
    saved = json.loads((bert / "peft" / "adapter_config.json").read_text())
    assert saved["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    base = transformers.BertForSequenceClassification.from_pretrained(saved["base_model_name_or_path"])
    oracle = peft.PeftModel.from_pretrained(base, bert / "peft").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert / "peft")
    scores = oracle(**tokenizer("the lazy dog", return_tensors="pt")).logits[0].detach().softmax(-1)
    (answer,) = pretune.load(run, device="cpu", precision="fp32").predict(["the lazy dog"])
    assert answer.probability == pytest.approx(float(scores.max()), abs=1e-5)
    with pytest.raises(CannotCreateError, match="holds something already"):
        model.export_adapter(bert / "peft")
    with pytest.raises(UsageError, match="is a whole model"):
        pretune.load(bert / "base", device="cpu").export_adapter(bert / "new")


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"peft_type": "LOHA"}, r"field 'peft_type' = 'LOHA': pretune reads LORA, ADALORA, IA3, PREFIX_TUNING, PROMPT_TUN"),
    (
        {"use_qalora": True},
        r"field 'use_qalora' = true: pretune does not do what it asks for; load",
    ),
    ({"of_a_later_release": {"a": 1}}, "field 'of_a_later_release' = .*: pretune does not do"),
    ({"init_lora_weights": "pissa"}, "field 'init_lora_weights' = \"pissa\": it changes the base when"),
    ({"trainable_token_indices": [3]}, r"field 'trainable_token_indices' = \[3\]"),
    ({"r": 10**9}, r"factors of shapes \[3, 32\] and \[32, 3\], adapter_config.json says rank 1000000000"),
    ({"r": "three"}, "field 'r' = \"three\": expected a whole number"),
    ({"lora_alpha": -1}, "field 'lora_alpha' = -1: expected a number from 0"),
    ({"rank_pattern": {"(a+)+b": 2}}, "field 'rank_pattern': .* is a pattern that could take for ever"),
    ({"rank_pattern": {"(": 2}}, "field 'rank_pattern': .* is no regular expression"),
    ({"target_modules": ["query", "key"]}, "target_modules names '.*key', which has no tensors in the file"),
    ({"task_type": "CAUSAL_LM"}, "bert has no such class; known: BertForPreTraining"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_refused_fields(bert: Path, fields: dict[str, object], message: str) -> None:
    change(bert / "adapter", **fields)
    with pytest.raises(DataError, match=message):
        read_peft(bert / "adapter")


def test_damaged_and_hostile_tensors(bert: Path) -> None:
    folder = bert / "adapter"
    whole = (folder / "adapter_model.safetensors").read_bytes()
    for changes, message in (
        ({"query__lora_A__weight": lambda t: t.fill_(torch.nan)}, "lora_A.weight' holds something else than finite"),
        (
            {"query__lora_A__weight": lambda t: t[:, :5]},
            "lora_B @ lora_A is 32 x 5, the base 32 x 32",
        ),
        ({"query__lora_B__weight": None}, "has lora_A and no more"),
        (
            {"classifier__weight": lambda t: t[:, :7]},
            r"'classifier.weight' has shape \[2, 7\], the base asks for",
        ),
    ):
        change_tensors(folder, **changes)
        with pytest.raises(DataError, match=message):
            read_peft(folder)
        (folder / "adapter_model.safetensors").write_bytes(whole)
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(DataError, match="truncated"):
        read_peft(folder)
    save_file({**tensors, "base_model.model.bert.nobody.weight": torch.ones(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(DataError, match=r"tensor 'nobody.weight' is no weight of this base"):
        read_peft(folder)
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    assert read_peft(folder).heads
    torch.save({**tensors, "code": Path}, folder / "adapter_model.bin")
    with pytest.raises(DataError, match=r"which could run code when read.*for adapter_model\.safetensors"):
        read_peft(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(MissingInputError, match="no tensors of the adapter"):
        read_peft(folder)


def test_classes_are_counted_where_the_base_has_none(bert: Path) -> None:
    """A head of five classes on a base of two: the names are numbers."""
    change_tensors(
        bert / "adapter", classifier__weight=lambda t: torch.randn(5, 32), classifier__bias=lambda t: torch.randn(5)
    )
    model = read_peft(bert / "adapter")
    assert list(model.heads["classification"].labels) == [f"LABEL_{n}" for n in range(5)]
    assert model.loaded is not None
    assert model.loaded.initialised == []


def test_an_adapter_that_never_acts_is_refused(tmp_path: Path) -> None:
    """peft puts LoRA on `shared`, which encoder and decoder of T5 do not call: it changes nothing there."""
    folder = peftkit.base("t5", tmp_path / "base")
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["shared"])
    oracle = peftkit.adapted("t5", folder, config, tmp_path / "adapter")
    for with_it, without in zip(
        peftkit.theirs("t5", oracle), peftkit.theirs("t5", peftkit.open_base("t5", folder)), strict=True
    ):
        assert torch.equal(with_it, without)
    with pytest.raises(DataError, match="adapter of 'shared', which transformers never calls"):
        read_peft(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("name", "method", "settings", "message"),
    [
        ("bert", "bitfit", {}, "has no adapter that PEFT has a type for"),
        ("bert", "adapter", {}, "has no adapter that PEFT has a type for"),
        ("t5", "prefix", {"length": 2}, "none for an encoder or for attention to"),
        (
            "t5",
            "prefix",
            {"length": 2, "places": ["decoder.attention"]},
            "an encoder-decoder with 2 layers PEFT gives",
        ),
        ("bert", "prompt", {"length": 2}, "tune.prompt.first_row = 'prompt'"),
        (
            "gpt2",
            "ia3",
            {"places": ["attention.query"], "inputs": ["attention.query"]},
            "whose inputs have other factors",
        ),
        ("gpt2", "lora", {"places": ["vocabulary"], "weight_decomposed": True}, "is a weight-decomposed vocabulary"),
        ("gpt2", "adalora", {"places": ["vocabulary"], "init_rank": 3, "target_rank": 2}, "no AdaLoRA of a voc"),
    ],
)
def test_what_the_files_have_no_place_for(
    name: str, method: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = find_method(method, settings).apply(load_model(peftkit.base(name, tmp_path / "base")))
    with pytest.raises(DataError, match=message):
        write_peft(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
