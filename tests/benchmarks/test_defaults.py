"""What the sweep of defaults recorded, and how it is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.defaults import sweep
from benchmarks.defaults.sweep import RESULTS, candidates, draw
from benchmarks.defaults.table import gains, leave_one_out, rows
from pretune.errors import BenchError


def result(name: str, number: int, candidate: str, **values: float) -> dict[str, object]:
    return {"set": name, "size": 8, "draw": number, "candidate": candidate, **values}


MEASURED = [
    *(result(name, 1, "baselines", tfidf=0.5, vectors=0.6) for name in "abc"),
    *(result(name, 1, "one", score=0.7) for name in "abc"),
    *(result(name, 1, "two", score=score) for name, score in zip("abc", (0.9, 0.65, 0.65), strict=True)),
]


def test_gains_are_above_the_better_baseline() -> None:
    measured = gains(MEASURED)
    assert np.isclose(measured["a", 8]["two"][0], 0.3)
    table = list(rows(measured))
    assert len(table) == 5
    assert "+0.300 (1)" in table[2]
    assert list(leave_one_out(measured, 8, ["one", "two"])) == [
        "size 8, without a: one (+0.100) gives +0.100 there",
        "size 8, without b: two (+0.175) gives +0.050 there",
        "size 8, without c: two (+0.175) gives +0.050 there",
    ]


def test_draws_are_of_each_label_or_of_all() -> None:
    records = [{"text": str(n), "label": str(n % 2)} for n in range(200)]
    assert sorted(str(record["label"]) for record in draw(records, 8, 1)) == ["0"] * 8 + ["1"] * 8
    assert len(draw(records, 100, 1)) == 100
    assert draw(records, 100, 1) != draw(records, 100, 2)
    assert candidates(300)["default"] == {"task": "classification"}


def test_what_was_recorded_speaks_for_the_rule() -> None:
    """Contrast is not below the better baseline by more than chance gives on 400 texts, and well above on average."""
    recorded = gains(json.loads(RESULTS.read_text()))
    means = {key: float(np.mean(each["contrast"])) for key, each in recorded.items() if "contrast" in each}
    assert len(means) >= 7
    assert min(means.values()) > -0.05
    assert np.mean(list(means.values())) > 0.03


def test_setfit_answers_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [{"text": "a cat", "label": "cat"}, {"text": "a dog", "label": "dog"}]
    peer = tmp_path / "python"
    peer.write_text(
        f'#!/bin/sh\ncp $3 {tmp_path}/job.json\necho progress\necho \'{{"labels": ["dog"], "seconds": 2.5}}\'\n'
    )
    peer.chmod(0o755)
    monkeypatch.setattr(sweep, "python", lambda name: peer)
    assert sweep._by_setfit("folder", train, train[1:], 3) == (["dog"], 2.5)
    job = json.loads((tmp_path / "job.json").read_text())
    expected = {
        "model": "folder",
        "texts": ["a cat", "a dog"],
        "labels": ["cat", "dog"],
        "tested": ["a dog"],
        "seed": 3,
    }
    assert expected.items() <= job.items()
    peer.write_text("#!/bin/sh\necho no such model >&2\nexit 1\n")
    with pytest.raises(BenchError, match="no such model"):
        sweep._by_setfit("folder", train, train, 3)
    with pytest.raises(BenchError, match="one text"):
        sweep._by_setfit("folder", [{**record, "second": "b"} for record in train], train, 3)
