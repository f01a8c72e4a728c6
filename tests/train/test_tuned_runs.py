"""Runs of every tuning method: killed and resumed bit for bit, small on disk, used without a flag, gone on from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import pretune
from pretune.cli import main
from pretune.config import validate
from pretune.errors import UsageError
from pretune.find import variants
from pretune.interop.deltas import is_delta, learned_shapes, read_record
from pretune.interop.fingerprint import fingerprint_of_files
from pretune.interop.tuned_model import load_delta
from pretune.models.model import construct, get_family
from pretune.runtime.signals import SignalError
from pretune.train.assemble import assemble
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain
from pretune.tune.method import find_method
from tests.train.trainkit import make_store, recipe, replaced, shas, stop_at, untimed

METHODS = variants("tune")
SETTINGS: dict[str, dict[str, Any]] = {"top": {"layers": 1}}
"""Settings of a method for a model of two layers, where its own defaults are for larger ones."""
OF_FILES = ["--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a base that was pretrained on it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tuned")
    make_store(root / "store", documents=30)
    pretrain(recipe(root / "base", root / "store", budget={"steps": 6}, optimizer={"lr": 3e-3}))
    pretune.compress_model(root / "base", "prune", output=root / "pruned", sparsity="magnitude", rate=0.5)
    return root


def tuned(folder: Path, run: Path, method: str, steps: int = 8, base: Path | None = None, **settings: Any) -> Path:
    """Pretraining that goes on from the base, or from another model."""
    settings = {**SETTINGS.get(method, {}), **settings}
    start = base or folder / ("pruned" if method == "sparse" else "base")
    tables = {"model": {"init": str(start)}, "tune": {method: settings}}
    often = {"checkpoint": {"every": 4}, "evaluation": {"samples": 4, "every": 8}}
    plain = recipe(run, folder / "store", budget={"steps": steps}, optimizer={"lr": 1e-2}, **often)
    return pretrain(replaced(plain, **tables))


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / ("delta.safetensors" if is_delta(run) else "model.safetensors"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """3 + 5 steps are 8; a checkpoint holds only what learns, and the finished run is of the right form."""
    tuned(folder, tmp_path / "whole", method)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(SignalError):
            tuned(folder, tmp_path / "parts", method)
    tuned(folder, tmp_path / "parts", method)
    assert shas(tmp_path / "whole", 8) == shas(tmp_path / "parts", 8)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts"))
    run = tmp_path / "parts"
    kept = {name for name in load_file(run / "checkpoint-8" / "model.safetensors") if name.startswith("model.")}
    network = pretune.load(run, device="cpu", precision="fp32", step=8).network
    frozen = {f"model.{name}" for name, weight in network.named_parameters() if not weight.requires_grad}
    if is_delta(run):
        assert frozen
        assert kept.isdisjoint(frozen)
        assert not (run / "config.json").exists()
        assert {"delta.json", "delta.safetensors", "tokenizer.json", "run.json"} <= {p.name for p in run.iterdir()}
    model = pretune.load(run, device="cpu", precision="fp32")
    assert len(model.fill("w1 [MASK] w3")[0]) > 1
    finished, last = (dict(each.named_parameters()) for each in (model.network, network))
    assert same(finished, last), "the last step is the finished model"


SMALL = ["lora", "ia3", "prefix", "prompt"]
"""Methods whose file is at most 1 % of the base with their own settings."""


@pytest.mark.parametrize("method", [name for name in METHODS if name in (*SMALL, "adalora", "adapter")])
def test_files_are_small_beside_the_base(method: str) -> None:
    """A BERT of 110 million parameters, without memory: what its file, its checkpoint and its optimizer would hold."""
    config = get_family("bert").Config(**get_family("bert").SIZES["base"])
    model = construct("bert", config, ["classification"], ["a", "b"])
    whole = sum(weight.numel() for weight in model.parameters())
    with torch.device("meta"):
        chosen = find_method(method, {})
        model = chosen.apply(model)
    file = sum(shape.numel() for shape in learned_shapes(model, chosen.changes(model)).values())
    root = nn.Module()
    root.model, root.method = model, chosen  # type: ignore[assignment]
    assert file <= sum(tensor.numel() for tensor in _learned(root).values()) <= 2.1 * file, "with averages of AdaLoRA"
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert file <= 0.01 * whole or method not in SMALL
    assert trained <= 0.02 * whole, "two means of AdamW for each: as many of each as of parameters that learn"


def _learned(root: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, whose addresses are all 0 without memory."""
    model, method = root.model, root.method
    names = {name for name, weight in model.named_parameters() if weight.requires_grad} | method.changes(model)
    persistent = model.state_dict().keys()
    names |= {name for name, _ in model.named_buffers() if name in persistent}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


CLASSES = {"task": {"classification": {}}, "objective": {}}


def labelling(folder: Path, run: Path, method: str, base: Path, labels: tuple[str, str] = ("a", "b")) -> Recipe:
    """Fine-tuning on a label that the first word decides."""
    rows = "".join(f"w{n} w{n + 1} w{n * 7 % 50},{labels[n % 2]}\n" for n in range(40))
    (folder / "rows.csv").write_text(f"text,label\n{rows}")
    data = {"train": [str(folder / "rows.csv")], "length": 16, "batch": 8, "holdout": 0.25}
    tree = recipe(run, folder / "store", budget={"steps": 6}, optimizer={"lr": 1e-2}).model_dump(mode="json")
    tables = {"model": {"init": str(base)}, "tune": {method: {}}, "data": data, **CLASSES, "evaluation": {}}
    return validate(Recipe, {**tree, **tables}, "recipe")


def classified(folder: Path, run: Path, method: str, base: Path, labels: tuple[str, str] = ("a", "b")) -> Path:
    return finetune(labelling(folder, run, method, base, labels))


def test_a_run_goes_on_from_what_the_same_method_learned(folder: Path, tmp_path: Path) -> None:
    first = tuned(folder, tmp_path / "first", "lora", steps=4)
    second = tuned(folder, tmp_path / "second", "lora", steps=4, base=first)
    record = read_record(second)
    assert record.base == str((folder / "base").resolve()), "both stand on the same base"
    assert record.fingerprint == read_record(first).fingerprint
    initial = load_file(second / "initial" / "delta.safetensors")
    assert same(initial, load_file(first / "delta.safetensors")), "it begins where the first ended"
    assert not same(tensors_of(second), tensors_of(first))


@pytest.mark.parametrize(("method", "settings"), [("full", {}), ("lora", {"rank": 3}), ("prefix", {})])
def test_another_method_tunes_the_merged_model(
    folder: Path, tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    first = tuned(folder, tmp_path / "first", "lora", steps=4)
    second = tuned(folder, tmp_path / "second", method, steps=4, base=first, **settings)
    merged = load_delta(first)
    pretune.merge(first, tmp_path / "plain")
    if method == "full":
        assert (second / "config.json").exists()
        initial = load_file(second / "initial" / "model.safetensors")
        assert same(initial, load_file(tmp_path / "plain" / "model.safetensors"))
        return
    record = read_record(second)
    assert record.base == str(first.resolve())
    assert record.fingerprint == fingerprint_of_files(tmp_path / "plain")
    model = pretune.load(second, device="cpu", precision="fp32")
    beside = pretune.load(second, device="cpu", precision="fp32", base=tmp_path / "plain")
    assert same(dict(model.network.state_dict()), dict(beside.network.state_dict()))
    assert merged.metadata.objectives == model.metadata.objectives
    if method == "lora":
        pretune.merge(second, tmp_path / "both")


def test_what_cannot_be_merged_is_gone_on_from_by_the_same_method_alone(folder: Path, tmp_path: Path) -> None:
    first = tuned(folder, tmp_path / "first", "prefix", steps=4)
    with pytest.raises(UsageError, match="cannot be merged, so that lora cannot tune it"):
        tuned(folder, tmp_path / "no", "lora", base=first)
    assert not list((tmp_path / "no").glob("checkpoint-*"))
    with pytest.raises(UsageError, match="cannot be merged into a plain model"):
        pretune.merge(first, tmp_path / "plain")
    with pytest.raises(UsageError, match="cannot be merged into a plain model"):
        pretune.load(first, device="cpu", precision="fp32").export(tmp_path / "out")
    second = tuned(folder, tmp_path / "second", "prefix", steps=4, base=first)
    assert same(load_file(second / "initial" / "delta.safetensors"), load_file(first / "delta.safetensors"))


def test_a_task_goes_on_from_pretraining_and_from_a_task(folder: Path, tmp_path: Path) -> None:
    """Heads that fit go on, whatever the order of the labels; others begin anew, and the run says so."""
    adapted = tuned(folder, tmp_path / "adapted", "lora", steps=4)
    first = classified(tmp_path, tmp_path / "first", "lora", adapted)
    notes = assemble(labelling(tmp_path, tmp_path / "first", "lora", adapted)).notes
    assert any(note.startswith("goes on from what lora had learned") for note in notes)
    assert any(note.startswith("heads that begin anew") and note.endswith(": classification") for note in notes)
    body = [name for name in tensors_of(adapted) if name.startswith("stack.")]
    initial = load_file(first / "initial" / "delta.safetensors")
    assert all(torch.equal(initial[name], tensors_of(adapted)[name]) for name in body)
    old = tensors_of(first)
    again = assemble(labelling(tmp_path, tmp_path / "again", "lora", first, labels=("b", "a"))).model
    begun = dict(again.named_parameters())
    assert all(torch.equal(begun[name], old[name]) for name in old), "the order of the files stays"
    other = assemble(labelling(tmp_path, tmp_path / "other", "lora", first, labels=("x", "y"))).model
    assert other.labels == ["x", "y"]
    name = "heads.classification.linear.weight"
    assert not torch.equal(old[name], dict(other.named_parameters())[name])


def test_a_run_and_its_base_are_moved_together(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    shutil.copytree(folder / "base", tmp_path / "there" / "base")
    moved = {"base": tmp_path / "there" / "base"}
    run = tuned(folder, tmp_path / "there" / "run", "lora", steps=2, **moved)
    before = pretune.load(run, device="cpu", precision="fp32").fill("w1 [MASK] w3")
    (tmp_path / "there").rename(tmp_path / "here")
    run = tmp_path / "here" / "run"
    assert pretune.load(run, device="cpu", precision="fp32").fill("w1 [MASK] w3") == before
    (tmp_path / "here" / "base").rename(tmp_path / "elsewhere")
    assert main(["fill", str(run), "w1 [MASK] w3", *OF_FILES]) == 66
    assert main(["fill", str(run), "w1 [MASK] w3", "--base", str(tmp_path / "elsewhere"), *OF_FILES]) == 0
    assert main(["fill", str(folder / "base"), "w1 [MASK] w3", "--base", str(folder / "base"), *OF_FILES]) == 64


def test_every_verb_reads_what_a_method_learned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = classified(tmp_path, tmp_path / "run", "lora", folder / "base")
    rows = str(tmp_path / "rows.csv")
    for words in (
        ["predict", str(run), "w1 w2", *OF_FILES],
        ["evaluate", str(run), rows, *OF_FILES],
        ["embed", str(run), "w1 w2", "--output", str(tmp_path / "v.npy"), *OF_FILES],
        ["runs", str(tmp_path)],
        ["report", str(run)],
        ["verify", str(run)],
        ["merge", str(run), "--output", str(tmp_path / "plain"), "--quiet"],
    ):
        assert main(words) == 0, words
    texts = ["w1 w2 w3", "w8 w9"]
    want = pretune.load(run, device="cpu", precision="fp32").predict(texts)
    model = pretune.load(tmp_path / "plain", device="cpu", precision="fp32")
    assert model.metadata.base is None
    for one, other in zip(model.predict(texts), want, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert "damaged" not in capsys.readouterr().out
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert theirs.config.id2label == {0: "a", 1: "b"}


def test_random_weights_have_no_base(folder: Path, tmp_path: Path) -> None:
    """What can be merged is; what cannot is refused before the first step."""
    plain = recipe(tmp_path / "run", folder / "store", budget={"steps": 2})
    run = pretrain(replaced(plain, tune={"lora": {}}))
    assert (run / "config.json").exists()
    assert not (run / "delta.json").exists()
    plain = recipe(tmp_path / "no", folder / "store", budget={"steps": 2})
    with pytest.raises(UsageError, match="built from random weights; save that first"):
        pretrain(replaced(plain, tune={"prefix": {}}))
    assert not list((tmp_path / "no").glob("checkpoint-*"))
