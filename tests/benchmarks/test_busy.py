"""The busy machine's benchmark, at sizes of a moment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.benchmark import OURS, Context, Side
from benchmarks.process import Process
from benchmarks.runner import _groups
from benchmarks.suite import busy, train_step
from benchmarks.suite.busy import Busy, Variant
from benchmarks.suite.train_step import Shape
from pretune.evaluate import embed
from pretune.runtime import spinning
from pretune.runtime.worker_policy import WorkerPolicy

COUNTS_CHILDREN = """
import pathlib


def setup():
    return lambda: {"children": len(pathlib.Path("/proc/thread-self/children").read_text().split())}
"""


def test_busy_processes_run_beside_a_side_and_end_with_it(tmp_path: Path) -> None:
    script = tmp_path / "children.py"
    script.write_text(COUNTS_CHILDREN)
    children = Path("/proc/{}/task/{}/children")
    with Process(Side("side", script, load=3), 1) as process:
        assert [process.run()["children"] for _ in range(2)] == [3, 3]
        assert Path(str(children).format(process.pid, process.pid)).read_text() == ""


def test_a_side_has_its_own_threads_and_variables(tmp_path: Path) -> None:
    script = tmp_path / "variables.py"
    script.write_text("import os\n\n\ndef setup():\n    return lambda: dict(os.environ)\n")
    with Process(Side("side", script, threads=1, variables={"GOMP_SPINCOUNT": "0"}), 3) as process:
        run = process.run()
    assert (run["OMP_NUM_THREADS"], run["GOMP_SPINCOUNT"]) == ("1", "0")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(busy, "SHAPES", {"tiny": Shape("bert", 1, 64, 2, 16, 1.0, 1, 500)})
    monkeypatch.setattr(train_step, "BATCHES", 2)
    monkeypatch.setattr(spinning, "_watches", [])
    monkeypatch.setattr(embed, "_worker_policy", WorkerPolicy())
    return Context("tiny-0", tmp_path, "fp32", 1)


def test_sides_of_a_busy_machine(small: Context) -> None:
    alone, busy_sides = Busy().sides(small), Busy().sides(replace(small, variant="tiny-12"))
    names = [*busy.FIXED, "transformers Trainer", "transformers Trainer as it comes"]
    assert [side.name for side in alone] == [OURS, *(name for name in names if "one CPU" not in name)]
    assert [side.name for side in busy_sides] == [OURS, *(name for name in names if "spinning" not in name)]
    assert [[side.name for side in group] for group in _groups(Busy(), alone[1:])] == [
        ["pretune, sleeping threads", "pretune, one thread", "pretune, spinning threads"],
        ["transformers Trainer", "transformers Trainer as it comes"],
    ]
    assert [side.setting for side in alone[-2:]] == ["best", "default"]
    assert {side.load for side in busy_sides} == {12}
    assert [(dict(side.variables), side.threads) for side in alone[1:4]] == [
        ({"GOMP_SPINCOUNT": "0"}, None),
        ({}, 1),
        ({}, None),
    ]
    json.dumps([dict(side.options) for side in alone])


@pytest.mark.parametrize("setting", ["adapted", "fixed", "one CPU"])
def test_units_until_the_time_is_over(small: Context, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Busy, "variants", {"tiny-0": Variant("tiny", 0, 0.05)})
    ours = Busy().sides(small)[0]
    run = busy.setup(**{**ours.options, "setting": setting})()
    assert run["units"] >= 1
    assert run["seconds"] >= 0.05


@pytest.mark.parametrize("number", [-2, -1])
def test_the_trainer_of_the_peer_is_timed_alike(small: Context, number: int) -> None:
    pytest.importorskip("accelerate")
    from benchmarks.peers import transformers_trainer

    theirs = Busy().sides(small)[number]
    run = transformers_trainer.setup(**{**theirs.options, "seconds": 0.05})()
    assert run["units"] >= 1
    assert run["seconds"] >= 0.05
