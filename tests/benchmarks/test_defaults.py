"""What the sweep of defaults recorded, and how it is read."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.defaults.sweep import RESULTS, candidates, draw
from benchmarks.defaults.table import gains, leave_one_out, rows


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
