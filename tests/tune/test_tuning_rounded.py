"""Tuning over rounded bases: these stay packed and as they are, runs go on, what was learned fits them alone."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import pretune
from pretune.batch import ragged
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.evaluate.read import makers_of
from pretune.interop.deltas import read_record
from pretune.interop.fingerprint import fingerprint_of_files
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.metadata import read_metadata
from pretune.nn.rounded import rounded_bricks, rounded_bytes
from pretune.runtime.signals import SignalError
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from pretune.tune.method import find_method
from pretune.tune.surgery import merge_bricks
from tests.nn.roundkit import round_all, small
from tests.train.trainkit import clm_recipe, make_store, recipe, stop_at

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"places": ["attention", "feedforward", "vocabulary"], "rank": 2, "dropout": 0.1},
    "adalora": {"places": ["attention"], "init_rank": 4, "target_rank": 2},
    "adapter": {},
    "prefix": {"length": 2},
    "prompt": {"length": 2},
    "ia3": {},
    "bitfit": {},
}
RUNS = [
    *(("lora", "bert-q4_0"), ("lora", "gpt2-int8"), ("adalora", "gpt2-q8_0"), ("adapter", "bert-q4_0")),
    *(("prefix", "gpt2-int8"), ("prompt", "bert-q8_0"), ("ia3", "gpt2-int8"), ("bitfit", "bert-q4_0")),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain models, and the same rounded to each format."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("rounded")
    make_store(root / "store")
    for family, make in (("bert", recipe), ("gpt2", clm_recipe)):
        pretrain(make(root / family, root / "store", budget={"steps": 2}))
        makers = makers_of(read_metadata(root / family), root / family)
        for name in ("int8", "q8_0", "q4_0"):
            model = round_all(load_model(root / family, makers=makers), name, "q8_0")
            save_model(model, root / f"{family}-{name}", Tokenizer.load(root / family))
    return root


def run(base: Path, output: Path, method: str, init: str = "bert-q4_0", **over: Any) -> Recipe:
    make = recipe if init.startswith("bert") else clm_recipe
    settings = over.pop("settings", METHODS.get(method, {}))
    tables = {"optimizer": {"lr": 1e-2}, "budget": {"steps": 3}, **over}
    tree = make(output, base / "store", **tables).model_dump(mode="json")
    tree["tune"] = {method: settings}
    tree["model"] = {"init": str(base / init), "dropout": 0.1}
    return Recipe.model_validate(tree)


@pytest.mark.parametrize(("method", "init"), RUNS)
def test_methods_learn_over_a_rounded_base(base: Path, tmp_path: Path, method: str, init: str) -> None:
    before = fingerprint_of_files(base / init)
    output = pretrain(run(base, tmp_path / "run", method, init))
    facts = json.loads((output / "run.json").read_text())
    assert facts["proof"]["idle"] == []
    assert facts["proof"]["frozen_before"] == facts["proof"]["frozen_after"]
    assert facts["proof"]["parameters"] > 20_000  # rounded matrices count
    assert not any("packed" in name or name.endswith(".blocks") for name in load_file(output / "delta.safetensors"))
    assert read_record(output).fingerprint == before == fingerprint_of_files(base / init)
    for checkpoint in (output / "checkpoints").glob("*/model.safetensors"):
        assert not any("packed" in name for name in load_file(checkpoint))
    model = pretune.load(output)
    assert list(rounded_bricks(model.network))
    if init.startswith("gpt2"):
        assert model.generate("w1 w2 w3", max_new_tokens=3)
    else:
        assert model.fill("w1 [MASK] w3")


def test_a_stopped_run_goes_on_bit_for_bit(base: Path, tmp_path: Path) -> None:
    budget = {"budget": {"steps": 4}, "checkpoint": {"every": 2}}
    pretrain(run(base, tmp_path / "whole", "lora", **budget))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SignalError):
            pretrain(run(base, tmp_path / "half", "lora", **budget))
    pretrain(run(base, tmp_path / "half", "lora", **budget))
    one, two = (load_file(tmp_path / name / "delta.safetensors") for name in ("whole", "half"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", ["full", "top"])
def test_methods_that_learn_matrices_are_refused_before_the_run(base: Path, tmp_path: Path, method: str) -> None:
    settings = {"layers": 1} if method == "top" else {}
    with pytest.raises(UsageError, match=r"rounded \(q4_0.*choose --tune lora"):
        pretrain(run(base, tmp_path / "run", method, settings=settings))
    assert not (tmp_path / "run").exists()


def test_what_was_learned_fits_its_base_alone(base: Path, tmp_path: Path) -> None:
    output = pretrain(run(base, tmp_path / "run", "lora"))
    for other in ("bert", "bert-q8_0"):
        with pytest.raises(DataError, match="not the weights that"):
            pretune.load(output, base=base / other)


def test_merging_gives_a_plain_model_and_says_so(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = pretrain(run(base, tmp_path / "run", "lora"))
    assert main(["merge", str(output), "--output", str(tmp_path / "merged")]) == 0
    assert "rounded matrices of the base became plain ones in fp32" in " ".join(capsys.readouterr().err.split())
    merged = load_model(tmp_path / "merged", heads=[])
    assert not list(rounded_bricks(merged))
    texts = ["w1 w2 w3", "w9 w8"]
    ours, theirs = (pretune.load(folder, precision="fp32").embed(texts) for folder in (output, tmp_path / "merged"))
    assert abs(ours - theirs).max() < 1e-4


def test_an_adapter_of_peft_says_that_others_cannot_open_its_base(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = pretune.load(pretrain(run(base, tmp_path / "run", "lora")), precision="fp32")
    model.export_adapter(tmp_path / "adapter")
    assert "rounded matrices, which peft and transformers do not open" in caplog.text
    again = pretune.load(tmp_path / "adapter", precision="fp32")
    assert abs(again.embed(["w1 w2"]) - model.embed(["w1 w2"])).max() < 1e-3


def test_bitfit_merges_into_a_rounded_model(base: Path, tmp_path: Path) -> None:
    output = pretrain(run(base, tmp_path / "run", "bitfit"))
    result = pretune.merge(output, tmp_path / "merged")
    assert result.widened == 0
    assert list(rounded_bricks(load_model(tmp_path / "merged", heads=[])))


def _dense_copies(model: torch.nn.Module, before: Collection[int] = ()) -> dict[int, tuple[int, ...]]:
    """Float tensors that are as large as a rounded matrix of the model, and alive; not those of before."""
    shapes = {(b.packed.rows, b.packed.width) for _, b in rounded_bricks(model)}
    shapes |= {(b, a) for a, b in shapes}
    gc.collect()
    alive = [o for o in gc.get_objects() if type(o) is Tensor]
    large = [t for t in alive if t.is_floating_point() and tuple(t.shape) in shapes]
    return {id(t): tuple(t.shape) for t in large if id(t) not in before}


@pytest.mark.parametrize(
    ("name", "decomposed"),
    [
        pytest.param(name, decomposed, marks=() if (name, decomposed) == ("q4_0", False) else pytest.mark.slow)
        for name in ("int8", "q8_0", "q4_0")
        for decomposed in (False, True)
    ],
)
def test_no_dequantised_copy_is_alive_in_a_training_step(name: str, decomposed: bool) -> None:
    model = round_all(small("gpt2", vocab_size=1030), name)
    model = find_method("lora", {"places": ["attention", "vocabulary"], "weight_decomposed": decomposed}).apply(
        model, 0
    )
    batch = ragged([torch.arange(9).numpy()])
    before = _dense_copies(model)  # of other tests
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss, _ = model.heads["clm"].loss(model(batch).last_hidden_state, torch.arange(9))
    assert _dense_copies(model, before) == {}
    assert sum({t.data_ptr(): t.numel() for t in kept if t.is_floating_point()}.values()) * 4 < 2e6
    loss.backward()
    assert _dense_copies(model, before) == {}
    assert rounded_bytes(model) < 0.3 * 4 * sum(b.packed.rows * b.packed.width for _, b in rounded_bricks(model))


def test_the_gradients_are_those_over_the_rounded_values() -> None:
    torch.manual_seed(0)
    rounded = round_all(small("gpt2"), "q8_0")
    plain = copy.deepcopy(rounded)
    merge_bricks(plain)
    batch, grads = ragged([torch.arange(9).numpy()]), []
    for model in (rounded, plain):
        tuned = find_method("lora", {"places": ["attention", "feedforward"]}).apply(model, 0)
        loss, _ = tuned.heads["clm"].loss(tuned(batch).last_hidden_state, torch.arange(9))
        loss.backward()
        grads.append({name: p.grad for name, p in tuned.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert grads[0]
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-4)


def test_several_adapters_share_one_rounded_base(base: Path, tmp_path: Path) -> None:
    folders = {n: pretrain(run(base, tmp_path / n, m)) for n, m in (("a", "lora"), ("b", "ia3"))}
    model = pretune.load(base / "bert-q4_0", adapters=folders, precision="fp32")
    shared = {id(t) for _, b in rounded_bricks(model.network) for t in b.tensors().values()}
    for number, folder in enumerate(folders.values()):
        form = model._shared.form(number) if hasattr(model, "_shared") else None
        if form is not None:
            assert {id(t) for _, b in rounded_bricks(form) for t in b.tensors().values()} <= shared
        alone = pretune.load(folder, precision="fp32").embed(["w1 w2 w3"])
        together = model.embed(["w1 w2 w3"], adapter=list(folders)[number])
        assert abs(alone - together).max() < 1e-4


def test_the_command_line_fine_tunes_a_rounded_model(base: Path, tmp_path: Path) -> None:
    rows = "".join(f"w{n} w{n + 1} {'w1 w1' if n % 2 else 'w2 w2'},{'a' if n % 2 else 'b'}\n" for n in range(40))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    flags = ["--epochs", "2", "--lr", "1e-2", "--length", "16", "--device", "cpu", "--no-allocator"]
    files = ["--model", str(base / "bert-q8_0"), "--train", str(tmp_path / "train.csv")]
    task = ["--task", "classification", "--tune", "lora", "--output", str(tmp_path / "run")]
    assert main(["finetune", *files, *task, *flags]) == 0
    model = pretune.load(tmp_path / "run")
    assert len(model.predict(["w3 w4 w1 w1", "w5 w6 w2 w2"])) == 2
    assert main(["finetune", *files, *task[:2], "--tune", "full", "--output", str(tmp_path / "full"), *flags]) == 64
    assert not (tmp_path / "full").exists()


def test_a_plain_folder_is_rounded_when_it_is_loaded(base: Path, tmp_path: Path) -> None:
    plain = pretune.load(base / "gpt2", precision="fp32")
    for name, precision in (("q8_0", "fp32"), ("q4_0", "bf16"), ("int8", "fp32")):
        model = pretune.load(base / "gpt2", precision=precision, format=name)
        assert name in repr(model)
        formats = {brick.packed.name for _, brick in rounded_bricks(model.network)}
        assert formats == ({"q4_0", "q8_0"} if name == "q4_0" else {name})
        assert model.generate("w1 w2 w3", max_new_tokens=3)
        difference = abs(model.log_prob("w1 w2 w3 w4") - plain.log_prob("w1 w2 w3 w4"))
        assert 0 < difference < (2.0 if name == "q4_0" else 0.1)
        if name == "q4_0":
            model.export(tmp_path / name)  # for everybody, with the rounded values in fp32
            again = pretune.load(tmp_path / name, precision="fp32")
            assert not list(rounded_bricks(again.network))
            assert again.network.embedding.word.dense().equal(model.network.embedding.word.dense())
    with pytest.raises(UsageError, match="rounded already"):
        pretune.load(base / "gpt2-int8", format="q8_0")
    with pytest.raises(UsageError, match="did you mean 'q8_0'"):
        pretune.load(base / "gpt2", format="q8")


@pytest.mark.parametrize("name", ["int8", "q8_0", "q4_0"])
def test_a_rounded_folder_predicts_evaluates_generates_and_embeds(base: Path, name: str) -> None:
    writer, reader = pretune.load(base / f"gpt2-{name}"), pretune.load(base / f"bert-{name}")
    assert writer.generate(["w1 w2", "w3"], max_new_tokens=4)
    assert writer.generate("w1 w2", beams=2, max_new_tokens=3)
    assert writer.evaluate(base / "store")
    assert reader.embed(["w1 w2", "w4"]).shape == (2, 32)
    assert reader.evaluate(base / "store")
