"""The benchmarks of the data path, at sizes of a moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.benchmark import OURS, Context, Run
from benchmarks.peers import collator
from benchmarks.suite import batches, seek
from benchmarks.suite.batches import Batches
from benchmarks.suite.seek import Seek
from pretune.errors import BenchError

FEW = 640


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, list[Run]]]:
    """A run of every side of a variant; the windows of `datasets` are left to the harness, which has that library."""
    monkeypatch.setattr(batches, "WINDOWS", FEW)

    def both_sides(variant: str) -> dict[str, list[Run]]:
        ours, _, best = Batches().sides(Context(variant, tmp_path, "fp32", 1))
        json.dumps([dict(ours.options), dict(best.options)])  # as they travel
        assert best.options["storage"] == "arrays"
        return {OURS: [batches.setup(**ours.options)()], best.label: [collator.setup(**best.options)()]}

    return both_sides


@pytest.mark.parametrize("variant", Batches.variants)
def test_batches_hold_the_same_windows(runs: Any, tmp_path: Path, variant: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(batches, "RATES", {name: (rate, 0.05) for name, (rate, _) in batches.RATES.items()})
    actual = Batches().check(Context(variant, tmp_path, "fp32", 1), runs(variant))
    assert actual["windows"] == FEW
    assert set(actual["gaps"]) == {"chosen", "masked", "kept"}


def test_other_windows_or_masks_do_not_count(runs: Any, tmp_path: Path) -> None:
    past = runs("ragged")
    context = Context("ragged", tmp_path, "fp32", 1)
    ours = past[OURS][0]
    with pytest.raises(BenchError, match=r"different windows .tokens"):
        Batches().check(context, past | {OURS: [ours | {"tokens": ours["tokens"] - 1}]})
    with pytest.raises(BenchError, match="rate of chosen tokens"):
        Batches().check(context, past | {OURS: [ours | {"chosen": ours["chosen"] // 2}]})


@pytest.mark.parametrize("variant", Seek.variants)
def test_seek_reads_batches(tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seek, "TOKENS", 200_000)
    benchmark = Seek()
    (ours,) = benchmark.sides(Context(variant, tmp_path, "fp32", 1))
    run = seek.setup(**ours.options)()
    assert run["seeks"] == 20
    assert run["slowest"] > 0
    facts = benchmark.facts(Context(variant, tmp_path, "fp32", 1), [run | {"seconds": 0.04}], {})
    assert facts["seek_seconds"] == pytest.approx(0.002)
    assert benchmark.notes(facts)[0].startswith("2.00 ms a seek")
