"""The search for a peer's best setting, on tables of times instead of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from benchkit import script

from benchmarks import search
from benchmarks.benchmark import Benchmark, Context, Search, Side
from benchmarks.measurements import Row, Speed
from benchmarks.search import change, descend, setting
from pretune.errors import BenchError, UsageError

AXES = {"precision": ["fp32", "bf16"], "padding": ["fixed", "longest"], "allocator": ["own", "ours"]}
START = Side("peer", Path("x.py"), {"precision": "fp32", "padding": "fixed"}, setting="default")


def racing(seconds: Callable[[dict[str, Any]], float], met: list[Any]) -> Callable[[Side, Side], Row]:
    def race(best: Side, other: Side) -> Row:
        a, b = ({axis: setting(side, axis) for axis in AXES} for side in (best, other))
        met.append((tuple(a.values()), tuple(b.values())))
        ratio = seconds(b) / seconds(a)
        return Row("x", "", "own", ratio, ratio, ratio, Speed(1, 1, 1, 1), Speed(1, 1, 1, 1))

    return race


def test_finds_the_fastest_and_says_how() -> None:
    cost = {"fp32": 8.0, "bf16": 4.0, "fixed": 2.0, "longest": 1.0, "own": 1.0, "ours": 1.1}
    met: list[Any] = []
    best, trials = descend(Search(START, AXES), racing(lambda s: sum(cost[v] for v in s.values()), met))
    assert (best.options, best.allocator) == ({"precision": "bf16", "padding": "longest"}, "own")
    assert [(t["axis"], t["to"], t["taken"]) for t in trials[:3]] == [
        ("precision", "bf16", True), ("padding", "longest", True), ("allocator", "ours", False),
    ]  # fmt: skip
    assert trials[0]["gain"] == pytest.approx(11 / 7)
    assert len({frozenset(pair) for pair in met}) == len(met)


def test_comes_back_to_an_axis_that_another_one_changed() -> None:
    def seconds(s: dict[str, Any]) -> float:
        if s["precision"] == "bf16":
            return 1.0 if s["padding"] == "longest" else 3.0
        return 2.0

    best, _ = descend(Search(START, {"padding": AXES["padding"], "precision": AXES["precision"]}), racing(seconds, []))
    assert best.options == {"precision": "fp32", "padding": "fixed"}
    slower = {**START.options, "padding": "longest"}
    start = Side("peer", Path("x.py"), slower)
    best, _ = descend(Search(start, {"precision": AXES["precision"], "padding": AXES["padding"]}), racing(seconds, []))
    assert best.options == {"precision": "bf16", "padding": "longest"}


def test_noise_is_not_a_gain() -> None:
    best, trials = descend(Search(START, AXES), racing(lambda s: 1.0 if s["precision"] == "fp32" else 0.99, []))
    assert best == START
    assert not any(trial["taken"] for trial in trials)


def test_a_setting_that_fails_is_told_and_not_taken() -> None:
    def seconds(s: dict[str, Any]) -> float:
        if s["precision"] == "bf16":
            raise BenchError("peer: failed\nTraceback ...\nRuntimeError: no kernel")
        return 1.0

    best, trials = descend(Search(START, AXES), racing(seconds, []))
    assert best == START
    assert trials[0]["failed"] == "RuntimeError: no kernel"


def test_change() -> None:
    assert change(START, "allocator", "ours").allocator == "ours"
    assert change(START, "padding", "longest").options == {"precision": "fp32", "padding": "longest"}
    assert START.options["padding"] == "fixed"


SLOW = """
def setup(pace, name=""):
    return lambda: {"tokens": 1, "seconds": {"slow": 2.0, "fast": 1.0}[pace]}
"""


class Paced(Benchmark):
    about = "Two paces."
    variants: ClassVar[dict[str, None]] = {"one": None}

    def __init__(self, file: Path) -> None:
        self.side = Side("peer", file, {"pace": "slow"})

    def sides(self, context: Context) -> list[Side]:
        return [self.side]

    def limits(self, context: Context) -> dict[str, float]:
        return {}

    def search(self, context: Context) -> Search:
        return Search(self.side, {"pace": ["slow", "fast"]})


def test_in_processes(tmp_path: Path) -> None:
    context = Context("one", tmp_path, "fp32", 1)
    actual = search.search(Paced(script(tmp_path, SLOW)), context, 2, 1)
    assert (actual["start"], actual["best"]) == ({"pace": "slow"}, {"pace": "fast"})
    assert [trial["gain"] for trial in actual["trials"]] == [2.0]


def test_a_work_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Paced, "search", Benchmark.search)
    with pytest.raises(UsageError, match="no settings to search"):
        search.search(Paced(script(tmp_path, SLOW)), Context("one", tmp_path, "fp32", 1), 1, 0)
