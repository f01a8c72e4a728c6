"""The works of the data path, at sizes of a moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.benchmark import OURS, Given, Turn
from benchmarks.peers import collator
from benchmarks.suite import batches, seek
from benchmarks.suite.batches import Batches
from benchmarks.suite.seek import Seek
from pretune.errors import BenchError

FEW = 640


@pytest.fixture
def turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, list[Turn]]]:
    """A turn of every side of a variant; the windows of `datasets` are left to the harness, which has that library."""
    monkeypatch.setattr(batches, "WINDOWS", FEW)

    def run(variant: str) -> dict[str, list[Turn]]:
        ours, _, best = Batches().contestants(Given(variant, tmp_path, "fp32", 1))
        json.dumps([dict(ours.options), dict(best.options)])  # as they travel
        assert best.options["storage"] == "arrays"
        return {OURS: [batches.setup(**ours.options)()], best.label: [collator.setup(**best.options)()]}

    return run


@pytest.mark.parametrize("variant", Batches.variants)
def test_batches_hold_the_same_windows(turns: Any, tmp_path: Path, variant: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(batches, "SHARES", {name: (share, 0.05) for name, (share, _) in batches.SHARES.items()})
    found = Batches().check(Given(variant, tmp_path, "fp32", 1), turns(variant))
    assert found["windows"] == FEW
    assert set(found["gaps"]) == {"chosen", "masked", "kept"}


def test_other_windows_or_masks_do_not_count(turns: Any, tmp_path: Path) -> None:
    past = turns("ragged")
    given = Given("ragged", tmp_path, "fp32", 1)
    ours = past[OURS][0]
    with pytest.raises(BenchError, match=r"different windows .tokens"):
        Batches().check(given, past | {OURS: [ours | {"tokens": ours["tokens"] - 1}]})
    with pytest.raises(BenchError, match="share of chosen tokens"):
        Batches().check(given, past | {OURS: [ours | {"chosen": ours["chosen"] // 2}]})


@pytest.mark.parametrize("variant", Seek.variants)
def test_seek_reads_batches(tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seek, "TOKENS", 200_000)
    work = Seek()
    (ours,) = work.contestants(Given(variant, tmp_path, "fp32", 1))
    turn = seek.setup(**ours.options)()
    assert turn["seeks"] == 20
    assert turn["slowest"] > 0
    facts = work.facts(Given(variant, tmp_path, "fp32", 1), [turn | {"seconds": 0.04}], {})
    assert facts["seek_seconds"] == pytest.approx(0.002)
    assert work.notes(facts)[0].startswith("2.00 ms a seek")
