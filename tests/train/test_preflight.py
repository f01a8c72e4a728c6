"""What is said before the first step, and of a loss that plateaus: each finding, and silence where all is well."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainkit import lines, make_store, make_tokenizer, recipe, replaced

import pretune.train.preflight as module
from pretune.config import validate
from pretune.train.assemble import assemble
from pretune.train.logging.plateau import Plateau
from pretune.train.preflight import free_memory, preflight
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain

CPU = torch.device("cpu")
USUAL: dict[str, Any] = {
    "data": {"batch": 32},
    "budget": {"steps": 60},
    "schedule": {"warmup": 0.1},
    "optimizer": {"lr": 1e-3},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"), 400)


def said(run_recipe: Recipe) -> str:
    return "\n".join(preflight(run_recipe, assemble(run_recipe), CPU))


def test_a_usual_run_is_begun_without_a_word(store: Path, tmp_path: Path) -> None:
    assert said(recipe(tmp_path / "run", store, **USUAL, evaluation={"samples": 0})) == ""
    assert "66 documents of 2,290 tokens held out, so few" in said(recipe(tmp_path / "run", store, **USUAL))


def test_a_chosen_rate_is_no_unusual_one(store: Path, tmp_path: Path) -> None:
    run_recipe = recipe(tmp_path / "run", store, **{**USUAL, "optimizer": {"lr": 0.1}}, evaluation={"samples": 0})
    components = assemble(run_recipe)
    assert "is above what is usual" in "\n".join(preflight(run_recipe, components, CPU))
    components.facts["chosen"] = {"fields": {"optimizer.lr": 0.1}}
    assert preflight(run_recipe, components, CPU) == []


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        (
            {"optimizer": {"lr": 0.1}},
            "optimizer.lr 0.1 is above what is usual for pretraining (1e-05 to 0.002); lower it",
        ),
        ({"optimizer": {"lr": 1e-7}}, "is below"),
        ({"optimizer": {"lr": 0.5, "name": "muon"}}, "usual for pretraining with muon"),
        ({"budget": {"steps": 9}}, "the run has 9 steps"),
        ({"budget": {"steps": 40_000}}, "times over; add text"),
        ({"data": {"batch": 4}}, "a step has 116 tokens at most, which is few; raise data.batch"),
        ({"schedule": {"warmup": 0.0}}, "schedule.warmup is 0"),
        ({"tune": {"lora": {}}}, "tune.lora keeps weights as they are that were drawn at random; name a pretrained"),
        ({"objective": {"simcse": 1.0}, "model": {"dropout": 0.0}}, "set model.dropout = 0.1"),
    ],
)
def test_what_is_unusual_is_named_with_its_remedy(
    over: dict[str, Any], expected: str, store: Path, tmp_path: Path
) -> None:
    base = recipe(tmp_path / "run", store, **USUAL)
    if "objective" in over:
        base = replaced(base, objective=over.pop("objective"))
    tree = base.model_dump(mode="json")
    for name, fields in over.items():
        tree[name] = fields if name == "tune" else {**tree[name], **fields}
    assert expected in said(validate(Recipe, tree, "recipe"))


def test_memory_and_disk(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_recipe = recipe(tmp_path / "not" / "there" / "run", store, **USUAL)
    assert (free_memory(CPU) or 1 << 30) > 1 << 20
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    assert "use a smaller model" in said(run_recipe)
    monkeypatch.setattr(module, "free_memory", lambda device: None)
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: usage._replace(free=1000))
    assert "lower checkpoint.keep" in said(run_recipe)


def rows(path: Path, content: list[tuple[str, str]]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *content])
    return str(path)


def test_labels_duplicates_and_leaks(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    train = [(f"w{n} w{n % 7} w{n // 59}", "a") for n in range(58)] + [("w1 w2", "b"), ("w1 w2", "a"), ("w3", "b")]
    tree = {
        "task": "classification",
        "model": {"size": "tiny"},
        "data": {
            "train": rows(tmp_path / "train.csv", train + train[:5]),
            "validation": rows(tmp_path / "held.csv", [("w1 w2", "a"), ("w58 w57 w56", "a")]),
            "tokenizer": str(tmp_path / "tokenizer"),
        },
        "output": str(tmp_path / "run"),
    }
    run_recipe = validate(Recipe, tree, "recipe")
    actual = "\n".join(preflight(run_recipe, assemble(run_recipe), CPU))
    for part in (
        "fewer than 5 examples: 1 of 2 labels ('b')",
        "97% of the examples are 'a'",
        "the same text with different labels: 1 training example;",
        "duplicates: 6 of 66 training examples",
        "1 of 2 validation examples also in the training data",
        "the validation data are 2 examples, each 50.0% of the score",
    ):
        assert part in actual


def test_eight_rows_make_steps_of_eight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the usual batch of 32 a step took each row four times, and "the run has 0 steps" though one ran."""
    make_tokenizer(tmp_path / "tokenizer")
    tree = {
        "task": "classification",
        "model": {"size": "tiny"},
        "data": {
            "train": rows(tmp_path / "train.csv", [(f"w{n} w{n + 9}", "ab"[n % 2]) for n in range(8)]),
            "tokenizer": str(tmp_path / "tokenizer"),
            "batch": 32,
        },
        "budget": {"epochs": 1},
        "track": {"report": False},
        "device": "cpu",
        "output": str(tmp_path / "run"),
    }
    run_recipe = validate(Recipe, tree, "recipe")
    findings = said(run_recipe)
    assert "a step takes all 8 samples, as data.batch (32) is more than there are" in findings
    assert "the run has 1 step, too few to learn" in findings
    finetune(run_recipe)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    assert (facts["steps"], facts["samples"], facts["epochs"]) == (1, 8, 1.0)


def test_a_store_that_says_much_was_left_out(store: Path, tmp_path: Path) -> None:
    run_recipe = recipe(tmp_path / "run", store, **USUAL)
    components = assemble(run_recipe)
    components.data_stats["stores"] = {"here": {"documents": 100, "duplicate": 60}}
    components.data_stats["windows"] = {"pairs:here": {"tokens": 100, "cut": 30}}
    components.held_out = []
    actual = "\n".join(preflight(run_recipe, components, CPU))
    assert "here: 60 of 100 documents left out as duplicates" in actual
    assert "\nhere: 30% of the tokens are cut off" in actual
    assert "no text is held out" in actual
    assert "so few that the validation loss says little" in actual


def test_a_run_says_it_in_its_log(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(recipe(tmp_path / "run", store, optimizer={"lr": 0.1}, track={"progress": "plain"}))
    assert "warning: optimizer.lr 0.1 is above" in capsys.readouterr().err
    assert lines(tmp_path / "run")


def test_a_run_whose_loss_stands_still_says_so_once(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    track = {"progress": "plain", "every": 1}
    pretrain(recipe(tmp_path / "run", store, optimizer={"lr": 1e-9}, budget={"steps": 40}, track=track))
    messages = [line for line in capsys.readouterr().err.splitlines() if "plateaus" in line]
    assert len([line for line in messages if "warning: step " in line]) == 1


def watch(losses: list[float], *, entropy: float | None = None, lr: float = 1.0, name: str = "mlm") -> list[str]:
    plateau = Plateau(entropy, ["mlm"])
    actual = [
        plateau.check({"loss": loss, f"loss/{name}": loss}, n / len(losses), lr, 1.0) for n, loss in enumerate(losses)
    ]
    return [text for text in actual if text]


def test_a_loss_at_the_line_of_frequencies_is_told_once() -> None:
    stuck = [9.0 - 0.1 * n for n in range(25)] + [6.5 + 0.01 * math.sin(n) for n in range(75)]
    actual = watch(stuck, entropy=6.5)
    assert "entropy of the token frequencies (6.500)" in actual[0]
    assert len(actual) == 2  # it plateaus as well
    assert watch(stuck, entropy=6.5, name="nsp") == [actual[1]]
    assert watch([9.0 - 0.05 * n for n in range(100)], entropy=6.5) == []  # it only passes the line ... slowly


def test_a_standstill_is_told_with_what_explains_it() -> None:
    still = [9.0 - 0.1 * n for n in range(30)] + [6.0] * 70
    (actual,) = watch(still)
    assert "plateaus: 6.0000" in actual
    assert "lower optimizer.lr" in actual
    (fallen,) = watch(still, lr=0.1)
    assert "has fallen already" in fallen
    assert watch([9 * 0.98**n for n in range(100)]) == []
    assert watch([math.nan] * 100) == []
    assert watch(still[:15]) == []


def test_what_batches_draw_is_no_standstill() -> None:
    for seed in range(20):
        noise = 1 + 0.03 * np.random.default_rng(seed).standard_normal(450)
        assert watch([6.0 * 0.7 ** (n / 450) * noise[n] for n in range(450)]) == []
        assert len(watch([6.0 * noise[n] for n in range(450)])) == 1


def test_as_many_labels_as_rows(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    data = {
        "train": rows(tmp_path / "train.csv", [(f"w{n}", f"id{n}") for n in range(20)]),
        "tokenizer": str(tmp_path / "tokenizer"),
    }
    tree = {"task": "classification", "model": {"size": "tiny"}, "data": data, "output": str(tmp_path / "run")}
    run_recipe = validate(Recipe, tree, "recipe")
    notes = "\n".join(preflight(run_recipe, assemble(run_recipe), CPU))
    assert "each of the 20 training examples has a label of its own" in notes
    assert "fewer than 5 examples" not in notes
