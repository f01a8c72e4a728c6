"""The benchmark across languages: what is held out, how translations are found, what is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.crosslingual import __main__ as command
from benchmarks.crosslingual.one import retrieval
from benchmarks.crosslingual.sets import reviews, tatoeba


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "translation/tatoeba-en-zh").mkdir(parents=True)
    lines = [f"text {n}\t文本 {n}\tCC" for n in range(200)] + ["text 3\t另 3\tCC"]
    (tmp_path / "translation/tatoeba-en-zh/cmn.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "classification/waimai_10k").mkdir(parents=True)
    text = "label,review\n1,好吃, 快\n0,慢\n1,\n"
    (tmp_path / "classification/waimai_10k/waimai_10k.csv").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PRETUNE_DATA", str(tmp_path))
    return tmp_path


def test_a_twentieth_is_held_out_by_the_hash_of_its_source(data: Path) -> None:
    pairs = tatoeba()
    held = {f"text {n}" for n in range(200) if int(hashlib.sha256(f"text {n}".encode()).hexdigest(), 16) % 20 == 0}
    assert {pair["text"] for pair in pairs.test} == held
    assert len(pairs.test) == len(held) > 0
    assert not held & {pair["text"] for pair in pairs.train}
    assert reviews("waimai") == [{"text": "好吃, 快", "label": "positive"}, {"text": "慢", "label": "negative"}]


def test_equal_translations_are_one() -> None:
    first, second = np.eye(4), np.eye(4)[[0, 1, 3, 2]]
    scores = retrieval(first, second, ["a", "b", "c", "d"], ["w", "x", "y", "z"])
    assert scores == {"en->zh": 0.5, "zh->en": 0.5}
    assert retrieval(first, second, ["a", "b", "c", "c"], ["w", "x", "y", "z"]) == {"en->zh": 1.0, "zh->en": 0.5}


def test_finished_runs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def pretend(order: Any, minutes: float, module: str) -> dict[str, Any]:
        made.append(order.seed)
        return {"scores": {"en->zh": 0.5 + order.seed / 10}} if order.seed != 1 else {"error": "stopped"}

    monkeypatch.setattr("benchmarks.understanding.measure.run_apart", pretend)
    for _ in range(2):
        command.measure(seeds=3, output=tmp_path, folder=tmp_path)
    assert made == [0, 1, 2, 1]
    assert "| en->zh | 0.600 ± 0.141 | 2 |" in capsys.readouterr().out
    (path,) = tmp_path.glob("crosslingual-*.json")
    assert len(json.loads(path.read_text())["runs"]) == 3
