"""`pretune runs`: what the files of run directories say of them, in a line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretune.cli import main
from pretune.errors import DivergenceError
from pretune.report.runs import list_runs
from pretune.seals import sealed_json
from pretune.train.directory import RunDirectory
from pretune.train.ownership import LOCK, Ownership, is_owned
from pretune.train.recipe import Recipe

RECIPE = '[model]\ninit = "bert"\n[task.classification]\n[budget]\nsteps = 40\n'
FINISHED = {"steps": 40, "tokens": 900, "epochs": 2.0, "seconds": 90.0, "weights_of_step": 20}


def write_run(path: Path, rows: list[dict[str, float]], recipe: str = RECIPE, **facts: Any) -> Path:
    """A run directory as `finetune` leaves it, without its model."""
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(recipe)
    (path / "run.json").write_bytes(sealed_json(facts))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"step": n, "epoch": n / 20, "time": n * 2.0, "eval/accuracy": 1 - n / 100} for n in (20, 40)]
    write_run(tmp_path / "a/done", rows, began="2026-01-02T10:00:00+00:00", metric="accuracy", finished=FINISHED)
    stopped = write_run(tmp_path / "a/stopped", [{"step": 24, "time": 6.0, "loss": 2.5}], began="2026-01-01T10:00:00")
    for name in ("checkpoint-12", "checkpoint-24", "initial"):
        write_run(stopped / name, [])  # what is inside a run is none
    bad = tmp_path / "bad"
    write_run(bad, [], began="2026-01-03T10:00:00", failed={"reason": "the loss is not finite [16]"})
    damaged = write_run(tmp_path / "damaged", [])
    (damaged / "run.json").write_text("{")
    (tmp_path / "plain").mkdir()
    return tmp_path


def test_a_run_is_a_line_with_the_metric_of_the_saved_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "run state trains model metric steps minutes began (UTC)"
    assert lines[1] == "bad failed: the loss is not finite [16] classification bert 0 0.0 2026-01-03 10:00"
    assert lines[2] == "a/done finished classification bert accuracy 0.8 40 1.5 2026-01-02 10:00"
    assert lines[3] == (
        "a/stopped interrupted at step 24 classification bert training loss 2.5 24 0.1 2026-01-01 10:00"
    )
    assert lines[4].startswith(f"damaged unreadable: {folder / 'damaged/run.json'}: not JSON any more")
    assert len(lines) == 5
    assert main(["runs", str(folder), "--lang", "zh"]) == 0
    output = capsys.readouterr().out
    assert "准确率 0.8 " in output
    assert "训练损失 2.5 " in output


def test_a_long_path_of_a_model_is_shown_by_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, model in enumerate(("/a/very/long/path/to/bert-base", "x" * 40, "models/zh/bert")):
        write_run(tmp_path / str(number), [], RECIPE.replace('"bert"', f'"{model}"'))
    assert main(["runs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    for end in ("…to/bert-base", f"…{'x' * 15}", "models/zh/bert"):
        assert f" {end} " in output


def test_json_has_every_field(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder / "a"), "--json"]) == 0
    done, stopped = json.loads(capsys.readouterr().out)
    assert (done["state"], done["metric"], done["value"], done["fraction"]) == ("finished", "accuracy", 0.8, 1.0)
    assert (stopped["state"], stopped["step"], stopped["fraction"]) == ("interrupted", 24, 0.6)


def test_a_folder_without_runs_and_one_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(tmp_path)]) == 0
    assert f"no runs in {tmp_path}" in capsys.readouterr().err
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["runs", str(tmp_path / "none")]) == 66
    assert f"{tmp_path / 'none'}: no such folder" in capsys.readouterr().err


def test_a_run_whose_owner_lives_is_running(folder: Path) -> None:
    path = folder / "a/stopped"
    owner = Ownership(path, print)
    assert list_runs(path)[0].status == "running, 60%"
    owner.release()
    assert list_runs(path)[0].status == "interrupted at step 24"
    (path / LOCK).write_text("pid 999999999 on nowhere\nmachine other, key 0\ncount 1\n")
    assert is_owned(path)  # of another machine, counted on a moment ago


def test_a_run_that_fails_records_why_until_it_goes_on(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"output": str(tmp_path / "run"), "objective": "mlm", "budget": {"steps": 4}})
    with RunDirectory(tmp_path / "run") as directory:
        directory.record_failure(DivergenceError("too early: nothing began"))
        assert directory.facts() == {}
        directory.begin(recipe, {})
        directory.record_failure(DivergenceError("the loss is NaN\nand more"))
    assert [run.status for run in list_runs(tmp_path)] == ["failed: the loss is NaN"]
    with RunDirectory(tmp_path / "run") as directory:
        directory.begin(recipe, {})
    assert [run.status for run in list_runs(tmp_path)] == ["interrupted at step 0"]
