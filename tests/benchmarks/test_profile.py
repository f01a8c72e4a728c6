"""Where the time goes: every operation counted, what is outside of them told as well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchkit import BENCHMARK, script

from benchmarks import profile
from benchmarks.__main__ import main
from benchmarks.profile import Cost

PRODUCTS = """
import time

import torch


def setup(loss, seconds):
    weight = torch.ones(8, 4, requires_grad=True)

    def run():
        time.sleep(seconds / 10)
        (torch.ones(16, 8) @ weight).relu().sum().backward()
        (torch.ones(2, 8) @ weight.detach()).relu()
        return {"tokens": 10, "loss": loss}

    return run
"""


def test_all_operations_of_a_turn_and_nothing_of_others(tmp_path: Path) -> None:
    file = script(tmp_path, PRODUCTS, "products.py")
    run = profile.watch(script=str(file), function="setup", options={"loss": 1, "seconds": 0.1})
    run()
    actual = run()
    calls, seconds, shapes = actual["operations"]["aten::mm"]
    assert calls == 3  # two forwards, one backward: the input needs no gradient
    assert list(shapes) == ["16x8 8x4", "8x16 16x4", "2x8 8x4"]
    assert sum(shapes.values()) == pytest.approx(seconds)
    assert actual["operations"]["aten::relu"][0] == 2
    assert 0.01 < actual["plain"] < 1
    assert sum(cost[1] for cost in actual["operations"].values()) < actual["watched"] - 0.01  # the sleep is outside


def test_the_mean_of_turns_the_costly_first() -> None:
    runs = [{"a": (1, 1.0, {"x": 1.0}), "b": (4, 8.0, {"x": 1.0, "y": 2.0, "z": 5.0})}, {"b": (2, 2.0, {"y": 2.0})}]
    assert profile._merged(runs) == [
        {"name": "b", "calls": 3.0, "seconds": 5.0, "shapes": ["z", "y"]},
        {"name": "a", "calls": 0.5, "seconds": 0.5, "shapes": ["x"]},
    ]
    assert Cost().shapes["new"] == 0.0


class TestVerb:
    @pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_file_and_page(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], fresh: bool) -> None:
        text = BENCHMARK[: BENCHMARK.index("def setup")] + PRODUCTS.strip()
        text = text.replace('    about = "Nothing', f'    fresh = {fresh}\n    about = "Nothing')
        benchmark, out = script(tmp_path, text, "watched_benchmark.py"), tmp_path / "out"
        quick = ("--rounds", "2", "--warmup", "1", "--precision", "fp32", "--threads", "1", "--quiet")
        for variant in ("equal", "different"):  # the file keeps the one before
            words = (f"{benchmark}/{variant}", "--profile", "--output", out, *quick)
            assert main([str(word) for word in words]) == 0
        (path,) = out.glob("*.json")
        assert capsys.readouterr().out.split() == [str(path)] * 2
        tree = json.loads(path.read_text())
        assert (tree["benchmark"], list(tree["profile"])) == ("watched_benchmark", ["equal", "different"])
        actual = tree["profile"]["equal"]
        assert {each["name"]: each["calls"] for each in actual["operations"]}["aten::mm"] == 3
        assert actual["seconds"] > 0.01
        page = (out / "README.md").read_text()
        assert "## watched_benchmark: where our time goes" in page
        assert "| outside of operations |" in page

    def test_not_together_with_the_search(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train_step", "--search", "--profile"]) == 64
        assert "one of --search and --profile" in capsys.readouterr().err
