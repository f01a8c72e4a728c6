"""The short search for settings: what it tries, what it keeps, and that its recipe needs no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pretune
from pretune.config import load, validate
from pretune.errors import UsageError
from pretune.train import search
from pretune.train.automatic import Choice
from pretune.train.recipe import Recipe
from tests.tinymodels import save_bert, word_tokenizer

PAIRS = [("the quick brown fox", "fox"), ("the lazy dog", "dog"), ("a cat ate a hat", "cat")]
ROWS = [(f"{text} {n % 7}", label) for n in range(8) for text, label in PAIRS]
CHOICE = Choice(3, 4, 1e-3, 0.1, "last")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_bert(folder, word_tokenizer())
    return folder


def fields(base: Path, output: Path, **more: Any) -> dict[str, Any]:
    known = {"model": str(base), "task": "classification", "length": 16, "track.report": False}
    return {**known, "output": str(output), **more}


def test_candidates_differ_in_one_setting() -> None:
    first, *others = search.candidates(CHOICE)
    assert first == CHOICE
    assert len(set(others)) == len(others) > 2
    vectors = Choice(8, 4, 1e-3, 0.1, "last", "mean", contrast=True)
    assert any(each.head is None for each in search.candidates(vectors))


def test_the_best_of_short_runs_makes_the_run(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    useless = Choice(1, 4, 1e-9, 0.1, "last")
    monkeypatch.setattr(search, "candidates", lambda choice: [useless, Choice(60, 8, 3e-3, 0.1, "last")])
    monkeypatch.setattr(search, "_ROUNDS", (1.0,))
    caplog.set_level("INFO", "pretune")
    pretune.finetune(train=ROWS, **fields(base, tmp_path / "run", search=5))
    tried = [record.getMessage() for record in caplog.records if record.getMessage().startswith("search: ")]
    assert len(tried) == 2
    assert "60 steps of 8" in tried[1]
    recipe = load(Recipe, tmp_path / "run" / "recipe.toml")
    assert (recipe.budget.steps, recipe.data.batch, recipe.optimizer.lr) == (60, 8, 3e-3)
    assert recipe.search is None
    assert recipe.automatic == ()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["chosen"]["fields"]["budget"] == {"steps": 60}
    pretune.finetune(train=ROWS, **fields(base, tmp_path / "run", search=5))
    assert len([record for record in caplog.records if "search: " in record.getMessage()]) == 2, "a run keeps its own"


def test_time_ends_a_search(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "candidates", lambda choice: [CHOICE, CHOICE])
    pretune.finetune(train=ROWS, **fields(base, tmp_path / "run", search=1e-6))
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["chosen"]["search"]) == 1


def test_a_search_needs_something_to_choose() -> None:
    recipe = validate(Recipe, {"task": "classification", "search": 1.0, "model": {"init": "base"}}, "recipe")
    closed = recipe.model_copy(update={"automatic": ()})
    with pytest.raises(UsageError, match="nothing is left to choose"):
        search.search(closed, None, None, lambda *_: Path())


def test_a_search_ends_before_a_round_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ran = [0.0], list[int]()

    def score(recipe: Recipe, choice: Choice, *_: object) -> float:
        ran.append(choice.steps)
        clock[0] += choice.steps
        return -choice.rate

    monkeypatch.setattr(search, "_score", score)
    monkeypatch.setattr(search.time, "monotonic", lambda: clock[0])
    choices = [Choice(40, 4, rate, 0.1, "last") for rate in (3e-3, 1e-3, 2e-3, 4e-3)]
    recipe = validate(Recipe, {"task": "classification", "search": 1.0, "model": {"init": "base"}}, "recipe")
    trials = search._halve(recipe, choices, None, None, lambda *_: Path())
    assert ran == [10, 10, 10, 10, 20], "two more of 20 steps and one of 40 would be 120 seconds, and there are 60"
    assert [trial.choice.rate for trial in trials] == [1e-3, 2e-3, 3e-3, 4e-3]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [({"data": {"folds": 3}}, "rows that score each fold"), ({"task": {}, "objective": "mlm"}, "settings of a task")],
)
def test_a_search_that_would_mislead_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        validate(Recipe, {"task": "classification", "search": 1.0, "model": {"init": "base"}} | fields, "recipe")


def test_a_search_runs_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = validate(Recipe, {"task": "classification", "search": 1.0, "model": {"init": "base"}}, "recipe")
    with pytest.raises(UsageError, match="leave torchrun out"):
        search.search(recipe, None, None, lambda *_: Path())
