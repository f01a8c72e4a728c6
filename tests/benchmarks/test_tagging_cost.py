"""What a CRF costs: both sides train on the same texts, and both decoders learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.benchmark import OURS, Context
from benchmarks.suite import tagging_cost
from benchmarks.suite.tagging_cost import TaggingCost, setup
from pretune.errors import BenchError

SMALL = {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}


def test_a_turn_of_each_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = {"_WARM": 0, "_BATCHES": 2, "_STEPS": 2, "_SEQUENCES": 3, "_LENGTH": 9, "_VOCABULARY": 200, "_SHAPE": SMALL}
    for name, value in few.items():
        monkeypatch.setattr(tagging_cost, name, value)
    sides = TaggingCost().sides(Context("crf-9", tmp_path, "fp32", 1))
    assert [side.options["decoder"] for side in sides] == ["softmax", "crf"]
    ours, crf = (setup(**side.options)() for side in sides)
    assert TaggingCost().check(Context("crf-9", tmp_path, "fp32", 1), {OURS: [ours], "crf": [crf]}) == {}
    assert ours["loss"] != crf["loss"]
    for wrong, words in (({"tokens": 1.0}, "different numbers of tokens"), ({"loss": float("nan")}, "not finite")):
        with pytest.raises(BenchError, match=words):
            TaggingCost().check(Context("crf-9", tmp_path, "fp32", 1), {OURS: [ours], "crf": [crf | wrong]})
