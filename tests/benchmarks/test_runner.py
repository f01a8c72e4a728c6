"""Runs in rounds, ratios of pairs, and the runs that do not count."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from benchkit import BENCHMARK, SCRIPT, make_side, script

from benchmarks import memory, runner
from benchmarks.benchmark import OURS, Benchmark, Context, Side
from benchmarks.environments import AbsentError
from benchmarks.process import Process
from benchmarks.runner import compete, measure, once
from pretune import find
from pretune.errors import BenchError

FREE = {"threads": 1, "timeout": 20.0}


def sides(folder: Path, *names: str, **options: Any) -> list[Side]:
    log = str(folder / "log")
    return [make_side(folder, name, SCRIPT, {"name": name, "log": log, **options}) for name in names]


def measuring(values: list[float], log: Path | None = None) -> Callable[[], dict[str, float]]:
    def limits() -> dict[str, float]:
        if log is not None:
            with log.open("a") as file:
                file.write("limit\n")
        return {"GEMM": values.pop(0)}

    return limits


def test_cpu_time_instead_of_the_wall(tmp_path: Path) -> None:
    (side,) = sides(tmp_path, "one", seconds=9.0, cpu=2.0)
    assert [
        compete([side], rounds=1, warmup=0, clock=c, **FREE).runs["one, own allocator"][0]["seconds"]
        for c in ("wall", "cpu")
    ] == [9.0, 2.0]
    (side,) = sides(tmp_path, "two")
    with Process(side, 1, 20.0) as process:
        assert 0 <= process.run()["cpu"] < 1


class Sides(Benchmark):
    """Ours and two peers whose times are known."""

    about, amount, unit = "known times", "tokens", "tokens/s"
    variants: ClassVar[dict[str, None]] = {"one": None}
    peaks = (1e9, 1.1e9) * 10
    max_rounds = (2, 0)

    def __init__(self, folder: Path, environment: str | None = None) -> None:
        self.file, self.environment, self.left = script(folder), environment, list(self.peaks)

    def sides(self, context: Context) -> list[Side]:
        ours = replace(self.ours(seconds=1.0), script=self.file)
        first = Side("first", self.file, {"seconds": 3.0}, setting="default")
        second = Side("second", self.file, {"seconds": 2.0}, environment=self.environment, setting="best")
        return [ours, first, second]

    def limits(self, context: Context) -> dict[str, float]:
        return {"GEMM": self.left.pop(0)}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context("one", tmp_path, "fp32", 1)


class TestTurns:
    def test_are_interleaved_with_the_limit_after_each_round(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        block = compete(
            sides(tmp_path, "a", "b", "c"), rounds=3, warmup=2, limits=measuring([1, 1.1, 1.2], log), **FREE
        )
        assert log.read_text().split() == [*"abc" * 2, *[*"abc", "limit"] * 3]
        assert {label: len(runs) for label, runs in block.runs.items()} == {
            f"{name}, own allocator": 3 for name in "abc"
        }
        assert block.limits == {"GEMM": [1, 1.1, 1.2]}

    def test_one_process_for_all_runs_of_a_side(self, tmp_path: Path) -> None:
        block = compete(sides(tmp_path, "a", "b"), rounds=3, warmup=1, **FREE)
        processes = [{run["process"] for run in runs} for runs in block.runs.values()]
        assert [len(one) for one in processes] == [1, 1]
        assert len(set.union(*processes, {os.getpid()})) == 3

    def test_a_fresh_process_for_each(self, tmp_path: Path) -> None:
        block = compete(sides(tmp_path, "a", "b"), rounds=2, warmup=1, fresh=True, **FREE)
        assert len({run["process"] for runs in block.runs.values() for run in runs}) == 4
        assert block.versions.keys() == block.runs.keys()

    def test_all_end_when_one_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[int] = []

        class Watched(Process):
            def __init__(self, *words: Any) -> None:
                super().__init__(*words)
                started.append(self.pid)

        monkeypatch.setattr(runner, "Process", Watched)
        bad = make_side(tmp_path, "bad", "def setup():\n    return lambda: 1 / 0")
        with pytest.raises(BenchError, match="bad, own allocator: failed"):
            compete([*sides(tmp_path, "a"), bad], rounds=1, warmup=0, **FREE)
        assert len(started) == 2
        for pid in started:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    def test_once(self, tmp_path: Path) -> None:
        assert once(make_side(tmp_path, "one", SCRIPT, {"answer": 42}), threads=1)["answer"] == 42


class TestDrift:
    @pytest.mark.parametrize(("peaks", "refused"), [([100.0, 80.1, 90.0], False), ([100.0, 79.9, 90.0], True)])
    def test_of_more_than_a_quarter_is_refused(self, tmp_path: Path, peaks: list[float], refused: bool) -> None:
        context = {"rounds": 3, "warmup": 0, "limits": measuring(peaks), **FREE}
        if refused:
            with pytest.raises(BenchError, match=r"refused: the GEMM peak drifted by 25% .*79.9 .. 100 FLOP/s"):
                compete(sides(tmp_path, "a"), **context)
        else:
            assert compete(sides(tmp_path, "a"), **context).limits["GEMM"][0] == 100.0

    def test_of_another_limit_is_not(self, tmp_path: Path) -> None:
        values = [1.0, 2.0]
        compete(sides(tmp_path, "a"), rounds=2, warmup=0, limits=lambda: {"read": values.pop()}, **FREE)


class TestMeasure:
    def test_each_peer_at_both_allocators_and_the_smaller_counts(
        self, tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        met: list[list[tuple[str, str]]] = []

        def watched(sides: list[Side], **more: Any) -> runner.Block:
            met.append([(side.name, side.allocator) for side in sides])
            block = compete(sides, **more)
            block.runs["second, our allocator"] = block.runs.get("first, own allocator", []) or [
                run | {"seconds": 1.5} for run in block.runs["second, our allocator"]
            ]
            return block

        monkeypatch.setattr(runner, "compete", watched)
        result = measure(Sides(tmp_path), context, 5, 2)
        assert met == [[(OURS, "ours"), (peer, "own"), (peer, "ours")] for peer in ("first", "second")]
        rows = {(row.peer, row.allocator): row for row in result.rows}
        assert {key: row.ratio for key, row in rows.items()} == {
            ("first", "own"): 3.0, ("first", "ours"): 3.0, ("second", "own"): 2.0, ("second", "ours"): 1.5,
        }  # fmt: skip
        assert [row.counts for row in result.rows if row.peer == "second"] == [False, True]
        assert sum(row.counts for row in result.rows if row.peer == "first") == 1
        assert [row.setting for row in result.rows] == ["default", "default", "best", "best"]

    def test_a_benchmark_may_ask_for_fewer_rounds(self, tmp_path: Path, context: Context) -> None:
        result = measure(Sides(tmp_path), context, 5, 2)
        assert (result.rounds, result.warmup, len(result.limits["GEMM"])) == (2, 0, 4)
        assert measure(Sides(tmp_path), context, 1, 0).rounds == 1

    def test_drift_is_that_within_a_block(
        self, tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Sides, "peaks", (1e9, 1.1e9, 2e9, 2e9))
        assert measure(Sides(tmp_path), context, 2, 0).drift == pytest.approx(0.1)

    def test_an_absent_peer_is_said_and_left_out(
        self, tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def python(name: str | None) -> Path:
            if name is None:
                return real(name)
            raise AbsentError(f"{name}: its environment cannot be made")

        real = runner.Process.__init__.__globals__["environments"].python
        monkeypatch.setattr("benchmarks.environments.python", python)
        caplog.set_level(logging.INFO, "benchmarks")  # a verb before may have left it at errors alone
        result = measure(Sides(tmp_path, environment="transformers"), context, 1, 0)
        assert {row.peer for row in result.rows} == {"first"}
        assert result.absent == {"second": "transformers: its environment cannot be made"}
        assert "absent: second: transformers: its environment cannot be made" in caplog.text

    def test_nothing_to_record_without_any_peer(
        self, tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def absent(*words: Any, **more: Any) -> runner.Block:
            raise AbsentError("no network")

        monkeypatch.setattr(runner, "compete", absent)
        with pytest.raises(BenchError, match="no peer could be installed: first; second"):
            measure(Sides(tmp_path), context, 1, 0)

    def test_ours_alone_where_there_are_no_peers(self, tmp_path: Path, context: Context) -> None:
        benchmark = Sides(tmp_path)
        ours = benchmark.sides(context)[:1]
        benchmark.sides = lambda context: ours  # type: ignore[method-assign]
        result = measure(benchmark, context, 2, 0)
        assert result.rows == []
        assert result.ours.speed == 10.0

    def test_different_results_do_not_count(self, tmp_path: Path) -> None:
        benchmark = find.find_class(
            "suite", str(script(tmp_path, BENCHMARK, "fake_benchmark.py")), Benchmark, "benchmarks"
        )()
        result = measure(benchmark, Context("equal", tmp_path, "fp32", 1), 1, 0)
        assert [(row.ratio, row.checked) for row in result.rows] == [(2.0, {"gap": 0.0})] * 2
        with pytest.raises(BenchError, match="first losses differ"):
            measure(benchmark, Context("different", tmp_path, "fp32", 1), 1, 0)


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux")
def test_memory_of_a_process_and_its_children(tmp_path: Path) -> None:
    text = (
        "import subprocess, sys\ncode = 'x = bytearray(%d << 20); import time; time.sleep(0.8)'\n"
        "def setup():\n    def run():\n"
        "        for child in [subprocess.Popen([sys.executable, '-c', code % 60]) for _ in range(2)]:\n"
        "            child.wait()\n        return {}\n    return run"
    )
    with Process(make_side(tmp_path, "one", text), threads=1) as running:
        peak = memory.Peak(running.pid)
        running.run()
        assert 120 < peak.stop() < 250
