"""What objectives cost: both sides train on the same texts, and every variant runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.benchmark import OURS, Given
from benchmarks.suite.objective_cost import ObjectiveCost, setup
from pretune.errors import BenchError

WORK = ObjectiveCost()


@pytest.mark.parametrize("variant", [name for name in WORK.variants if name.endswith("mini")])
def test_a_turn_of_each_side(variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.suite.objective_cost._WARM", 0)
    monkeypatch.setattr("benchmarks.suite.objective_cost._BATCHES", 2)
    monkeypatch.setattr("benchmarks.suite.objective_cost._VOCABULARY", 200)
    small = {"size": "tiny", "sequences": 3, "length": 20, "steps": 2}
    sides = WORK.contestants(Given(variant, tmp_path, "fp32", 2))
    turns = [setup(**{**side.options, **small})() for side in sides]
    assert [turn["tokens"] for turn in turns] == [120.0, 120.0]
    assert WORK.check(None, {OURS: turns[:1], "other": turns[1:]}) == {}  # type: ignore[arg-type]


def test_what_does_not_count() -> None:
    turn = {"tokens": 10.0, "loss": 1.0}
    with pytest.raises(BenchError, match="different numbers of tokens"):
        WORK.check(None, {OURS: [turn], "other": [{**turn, "tokens": 9.0}]})  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="not finite"):
        WORK.check(None, {OURS: [turn], "other": [{**turn, "loss": float("nan")}]})  # type: ignore[arg-type]


def test_sides(tmp_path: Path) -> None:
    ours, other = WORK.contestants(Given("rtd-base", tmp_path, "bf16", 2))
    assert ours.options["family"] == other.options["family"] == "electra"
    assert (ours.options["objective"], other.options["objective"]) == ("mlm", "rtd")
    assert len(WORK.shapes(Given("plm-mini", tmp_path, "bf16", 2))) == 3
