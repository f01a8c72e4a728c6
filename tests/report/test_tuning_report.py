"""The page says what a tuning method changed: shares, places by layer, ranks over time, and what did not act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretune.report.report import render
from pretune.report.run_files import read_run
from tests.report.test_report import Checker, line, make_run

LAYERS = range(3)
PROOF: dict[str, Any] = {
    "method": "adalora",
    "parameters": 1000,
    "learned": 25,
    "share": 0.025,
    "changes": {
        **{f"stack.blocks.{n}.attention.query.p": {"norm": 0.25 + n, "relative": None} for n in LAYERS},
        "heads.classification.linear.weight": {"norm": 1.5, "relative": 0.75},
    },
    "unchanged": ["heads.classification.linear.bias"],
    "places": {f"stack.blocks.{n}.attention.query": 0.01 * (n + 1) for n in LAYERS},
    "frozen": 40,
    "frozen_before": "abc123",
    "frozen_after": "abc123",
    "moved": [],
    "ranks": {f"stack.blocks.{n}.attention.query": n for n in LAYERS},
    "acted": [],
    "idle": [],
}


def page(folder: Path, **changed: Any) -> str:
    rows = [line(step, **{f"rank/layer.{n}": 6.0 - n * step / 20 for n in LAYERS}) for step in range(1, 30)]
    html = render(read_run(make_run(folder, rows, run={"began": "now", "proof": {**PROOF, **changed}})))
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    return html


def test_what_changed(tmp_path: Path) -> None:
    html = page(tmp_path / "run")
    for words in ("2.5%", "4 / 5", "all as before", "0 .. 2", "abc123", "Rank by layer", "mean change of a matrix"):
        assert words in html, words
    assert "2.00%" in html, "the mean of the places"
    assert ">attention.query</text>" in html or "attention.query" in html[html.index("relative to the base") :]
    assert "did not act" not in html
    assert html.count("frozen_before") == 0, "the proof is no table of raw facts"


def test_what_did_not_act(tmp_path: Path) -> None:
    html = page(tmp_path / "run", idle=["<b>place: up is still 0"], moved=["stack.x"], frozen_after="def", places={})
    assert "These parts of the method did not act" in html
    assert "&lt;b&gt;place: up is still 0" in html
    assert "changed although they were frozen" in html
    assert "abc123 before, def after" in html
    assert "Norm of the difference of each tensor" in html
    assert "from before these parts acted" in page(tmp_path / "early", early=["top: nothing has changed"])


def test_nothing_to_say(tmp_path: Path) -> None:
    assert "tuning method changed" not in page(tmp_path / "full", method="full")
    assert "tuning method changed" in page(tmp_path / "odd", changes=3, places=None, ranks=[], unchanged=None)
