"""Nested spans: spans in spans, two labels of one, and windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import pretune
from pretune.errors import DataError, UsageError
from pretune.model import Model
from tests.train.trainkit import SHAPE, WORDS, make_tokenizer


def rows(count: int, seed: int, length: tuple[int, int] = (4, 10)) -> list[dict[str, Any]]:
    """Words below 15 are places; one below 5 and the word behind it make a name too, and one below 2 is a river."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        numbers = rng.integers(0, 40, int(rng.integers(*length))).tolist()
        words = [WORDS[number] for number in numbers]
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        spans = []
        for n, number in enumerate(numbers):
            start = int(ends[n]) - len(words[n])
            spans += [[start, int(ends[n]), "place"]] if number < 15 else []
            spans += [[start, int(ends[n]), "river"]] if number < 2 else []
            spans += [[start, int(ends[n + 1]), "name"]] if number < 5 and n + 1 < len(numbers) else []
        out.append({"text": " ".join(words), "spans": spans})
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("nested")
    make_tokenizer(folder / "tokenizer")
    tree = {
        "output": str(folder / "run"),
        "task": {"nested": {"size": 16}},
        "data": {"tokenizer": str(folder / "tokenizer"), "length": 16},
        "model": {"size": "tiny", "overrides": SHAPE},
        "budget": {"steps": 80},
        "optimizer": {"lr": 5e-3},
        "evaluation": {"every": 80},
        "device": "cpu",
        "precision": "fp32",
        "track": {"report": False},
    }
    pretune.finetune(tree, train=rows(200, 0), validation=rows(30, 1))
    return pretune.load(folder / "run", device="cpu", precision="fp32")


def test_spans_in_spans_and_two_labels_of_one_are_found(trained: Model) -> None:
    scores = trained.evaluate(rows(30, 1))
    assert scores["f1"] > 0.9
    assert {"f1/place", "f1/name", "count/river", "f1_partial"} < scores.keys()
    prediction = trained.predict("w30 w3 w31")
    assert [(s["start"], s["end"], s["label"]) for s in prediction["spans"]] == [(4, 6, "place"), (4, 10, "name")]
    assert prediction["spans"][1]["text"] == "w3 w31"
    assert prediction.keys() == {"spans"}
    assert trained.predict(["w30 w3 w31"]).table().rows == [["w30 w3 w31", "w3 (place), w3 w31 (name)"]]


def test_each_span_of_a_long_text_is_scored_once(trained: Model) -> None:
    long = rows(5, 2, (40, 60))
    for prediction in trained.predict(long):
        keys = [(span["start"], span["end"], span["label"]) for span in prediction["spans"]]
        assert len(keys) == len(set(keys))
    assert trained.evaluate(long)["f1"] > 0.85


def test_what_it_cannot_learn_is_named(trained: Model) -> None:
    with pytest.raises(
        DataError, match=r"list\[0\]: span label 'sea' was not seen in training; known: name, place, river"
    ):
        trained.evaluate([{"text": "w1", "spans": [[0, 2, "sea"]]}])
    with pytest.raises(DataError, match=r"list\[0\]: no field 'spans'"):
        trained.evaluate([{"text": "w1"}])
    with pytest.raises(UsageError, match=r"task\.nested: it looks for spans and no links"):
        trained.task({"nested": {"link_labels": ["x"]}})


def test_no_spans_at_all_are_an_error(trained: Model) -> None:
    task = trained.task()
    with pytest.raises(DataError, match=r"record: no spans in all records"):
        task.resolve_config([task.read({"text": "w1", "spans": []})])
