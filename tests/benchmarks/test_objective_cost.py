"""What objectives cost: both sides train on the same texts, and every variant runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.benchmark import OURS, Context
from benchmarks.suite.objective_cost import ObjectiveCost, setup
from pretune.errors import BenchError

BENCHMARK = ObjectiveCost()


@pytest.mark.parametrize("variant", [name for name in BENCHMARK.variants if name.endswith("mini")])
def test_a_turn_of_each_side(variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.suite.objective_cost._WARM", 0)
    monkeypatch.setattr("benchmarks.suite.objective_cost._BATCHES", 2)
    monkeypatch.setattr("benchmarks.suite.objective_cost._VOCABULARY", 200)
    small = {"size": "tiny", "sequences": 3, "length": 20, "steps": 2}
    sides = BENCHMARK.sides(Context(variant, tmp_path, "fp32", 2))
    runs = [setup(**{**side.options, **small})() for side in sides]
    assert [run["tokens"] for run in runs] == [120.0, 120.0]
    assert BENCHMARK.check(None, {OURS: runs[:1], "other": runs[1:]}) == {}  # type: ignore[arg-type]


def test_what_does_not_count() -> None:
    run = {"tokens": 10.0, "loss": 1.0}
    with pytest.raises(BenchError, match="different numbers of tokens"):
        BENCHMARK.check(None, {OURS: [run], "other": [{**run, "tokens": 9.0}]})  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="not finite"):
        BENCHMARK.check(None, {OURS: [run], "other": [{**run, "loss": float("nan")}]})  # type: ignore[arg-type]


def test_sides(tmp_path: Path) -> None:
    ours, other = BENCHMARK.sides(Context("rtd-base", tmp_path, "bf16", 2))
    assert ours.options["family"] == other.options["family"] == "electra"
    assert (ours.options["objective"], other.options["objective"]) == ("mlm", "rtd")
    assert len(BENCHMARK.shapes(Context("plm-mini", tmp_path, "bf16", 2))) == 3
