"""The CRF beside pytorch-crf: both sides compute the same, and what differs does not count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.benchmark import OURS, Context
from benchmarks.peers import pytorch_crf
from benchmarks.suite import crf
from benchmarks.suite.crf import Crf
from pretune.errors import BenchError

SETUPS = {OURS: crf.setup, "pytorch-crf": pytorch_crf.setup}


@pytest.fixture(params=["loss-9", "labels-9"])
def context(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    few = {name: replace(each, count=6, max_length=9) for name, each in Crf.variants.items()}
    monkeypatch.setattr(Crf, "variants", few)
    return Context(request.param, tmp_path, "fp32", 1)


def run(context: Context) -> dict[str, list[dict[str, Any]]]:
    return {side.name: [SETUPS[side.name](**side.options)()] for side in Crf().sides(context)}


def test_both_sides_compute_the_same(context: Context) -> None:
    runs = run(context)
    assert runs[OURS][0]["tokens"] == runs["pytorch-crf"][0]["tokens"] > 0
    assert Crf().check(context, runs)["gap"] < 1e-4


def test_other_results_do_not_count(context: Context) -> None:
    runs = run(context)
    results = runs["pytorch-crf"][0]["results"]
    results[-1] = results[-1] * 1.01 + 1
    with pytest.raises(BenchError, match="the results differ"):
        Crf().check(context, runs)


def test_it_says_how_long_a_pass_takes(context: Context) -> None:
    facts = Crf().facts(context, [{"seconds": 1.0}, {"seconds": 3.0}, {"seconds": 1.5}], {})
    assert facts["milliseconds"] == (75.0 if context.variant == "loss-9" else 300.0)
    assert Crf().notes(facts) == [f"ours: {facts['milliseconds']} ms for all sequences"]
