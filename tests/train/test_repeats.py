"""Several seeds or folds of one recipe: a run each, and the mean and spread of their scores."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import pretune
from pretune.cli import main
from pretune.config import to_toml, validate
from pretune.errors import CannotCreateError, UsageError
from pretune.language import translate, use_language
from pretune.report.spread import RunScores, Spread
from pretune.train.recipe import Recipe
from pretune.train.repeats import expand
from tests.test_in_memory import fields, rows
from tests.train.trainkit import make_tokenizer


def recipe(**values: Any) -> Recipe:
    return validate(Recipe, {"task": "classification", "output": "out", **values}, "recipe")


def test_a_recipe_of_each_run() -> None:
    runs = expand(recipe(seed=3, seeds=2, data={"folds": 2, "train": "a.csv"}))
    assert [(run.seed, run.data.fold, run.output, run.seeds) for run in runs] == [
        (3, 1, "out/seed-3-fold-1", None),
        (3, 2, "out/seed-3-fold-2", None),
        (4, 1, "out/seed-4-fold-1", None),
        (4, 2, "out/seed-4-fold-2", None),
    ]
    assert [run.output for run in expand(recipe(seeds=2))] == ["out/seed-0", "out/seed-1"]
    assert [run.output for run in expand(recipe(data={"folds": 3}))] == ["out/fold-1", "out/fold-2", "out/fold-3"]


def test_several_ranks_make_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="leave torchrun out"):
        expand(recipe(seeds=2))


@pytest.mark.parametrize(
    ("words", "field"),
    [(["--seeds", "0"], "seeds"), (["--seeds", "1"], "seeds"), (["--data.folds", "1"], "data.folds")],
)
def test_fewer_than_two_runs_are_refused(words: list[str], field: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["finetune", "--task", "classification", "--model.init", "m", "--data.train", "t.csv", *words]
    assert main(command) == 64
    said = capsys.readouterr().err
    assert field in said
    assert "2" in said


def test_mean_and_deviation() -> None:
    spread = Spread.of([RunScores(f"out/fold-{n}", {"a": value, "f1/x": 1.0}) for n, value in enumerate((0.5, 0.7))])
    assert (spread.mean["a"], spread.deviation["a"]) == (0.6, pytest.approx(statistics.stdev([0.5, 0.7])))
    assert str(spread) == "2 runs: a 0.6 ± 0.1414"
    lines = spread.table().text().splitlines()
    assert [line.split() for line in lines[1:3]] == [["fold-0", "0.5"], ["fold-1", "0.7"]]
    assert [line.split() for line in lines[3:]] == [["mean", "0.6"], ["±", "std", "0.1414"]]
    assert "<td" in spread._repr_html_()
    with use_language("zh"):
        lines = translate(spread.table().text()).splitlines()  # the command line translates what it says
    assert {cell_len(line) for line in lines} == {cell_len(lines[0])}, "columns that do not stand below each other"
    assert [line.split("  ")[0] for line in lines] == ["运行", "fold-0", "fold-1", "平均值", "± 标准差"]


def test_folds_are_runs_that_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From memory and from a file the same; started again, nothing is trained."""
    make_tokenizer(tmp_path / "tokenizer")
    data = rows(24)
    plain = fields(tmp_path, "memory", folds=2) | {"budget": {"steps": 2}}
    plain["track"] = {"progress": "plain", "report": False}
    spread = pretune.cross_validate(plain, data)
    assert [Path(run.run).name for run in spread.runs] == ["fold-1", "fold-2"]
    assert {"accuracy", "loss"} <= set(spread.mean)
    assert json.loads((tmp_path / "memory" / "spread.json").read_text())["mean"] == spread.mean
    held = [json.loads((tmp_path / f"memory/fold-{n}/run.json").read_text())["held_out"] for n in (1, 2)]
    assert [(each["rows"], each["of"], each["fold"]) for each in held] == [(12, 24, [1, 2]), (12, 24, [2, 2])]
    with pytest.raises(UsageError, match="one run has no spread; give seeds or folds"):
        pretune.cross_validate(fields(tmp_path, "one"), data)
    with pytest.raises(UsageError, match=r"'data\.folds' asks for several runs; start them with .*cross_validate"):
        pretune.finetune(plain, data)
    with pytest.raises(CannotCreateError, match="holds a run of its own"):
        pretune.cross_validate(plain | {"output": str(tmp_path / "memory/fold-1")}, data)
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, data)) + "\n")
    (tmp_path / "recipe.toml").write_text(
        (tmp_path / "memory/fold-1/recipe.toml").read_text().replace("fold = 1\n", "")
    )
    capsys.readouterr()
    command = ["finetune", f"{tmp_path}/recipe.toml", "--data.train", f"{tmp_path}/train.jsonl"]
    assert main([*command, "--output", f"{tmp_path}/memory"]) == 0
    said = capsys.readouterr().err
    assert "run 2 of 2" in said
    assert "mean" in said
    assert "± std" in said
    assert json.loads((tmp_path / "memory" / "spread.json").read_text())["mean"] == spread.mean
    steps = [line for line in (tmp_path / "memory/fold-1/metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(steps) <= 4, "nothing was trained again"


def test_runs_without_scores_and_the_command_that_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows(24))) + "\n")
    tree = fields(tmp_path, "several", train=[f"{tmp_path}/train.jsonl"]) | {"budget": {"steps": 1}}
    (tmp_path / "recipe.toml").write_text(to_toml(validate(Recipe, tree, "recipe")))
    command = ["finetune", f"{tmp_path}/recipe.toml", "--track.report", "false"]
    assert main([*command, "--seeds", "2"]) == 0
    said = capsys.readouterr().err
    assert "warning: there are no scores to compare, as nothing was held out for validation" in said
    assert "± std" not in said
    assert "with another --output and neither --seeds nor --folds" in said
    assert main([*command, "--output", f"{tmp_path}/one"]) == 0, "as it is said"
