"""Whole runs of the task `similarity` on triplets of made-up topics."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from trainkit import WORDS, lines, make_tokenizer

from pretune import api
from pretune.cli import main
from pretune.config import validate
from pretune.errors import DataError
from pretune.text.readers.labelled import LabelledConfig, read_labelled
from pretune.train import subset_embedding as narrowing
from pretune.train.recipe import Recipe


def topics(path: Path, count: int, seed: int, mixed: bool) -> str:
    """A text of some topic, another of that topic, one of another; topics are words that come together.

    Args:
        mixed: in every second row the second text is of another topic too, which the label says.
    """
    random = np.random.default_rng(seed)

    def text(topic: int) -> str:
        return " ".join(random.choice(WORDS[8 * topic : 8 * topic + 8], 4))

    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "like", "unlike", "label"))
        for n in range(count):
            own, other = n % 7, (n + 1 + int(random.integers(6))) % 7
            alike = not mixed or n % 2 == 1
            writer.writerow((text(own), text(own if alike else other), text(other), int(alike)))
    return str(path)


def similarity_recipe(folder: Path, **over: Any) -> Recipe:
    make_tokenizer(folder / "tokenizer")
    tree = {
        "task": "similarity",
        "model": {"size": "tiny", "dropout": 0.0},
        "data": {
            "train": topics(folder / "train.csv", 140, 5, mixed=False),
            "validation": topics(folder / "held.csv", 60, 1, mixed=True),
            "columns": {"second": "like", "third": "unlike"},
            "tokenizer": str(folder / "tokenizer"),
            "batch": 28,
            **over.pop("data", {}),
        },
        "optimizer": {"lr": 1e-3, "eps": 1e-3},
        "budget": {"epochs": 12},
        "precision": "fp32",
        "device": "cpu",
        "track": {"report": False, "progress": "quiet", "every": 1},
        "output": str(folder / "run"),
        **over,
    }
    return validate(Recipe, tree, "recipe")


def test_a_run_learns_topics_and_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = api.finetune(similarity_recipe(tmp_path))
    scores = [line["eval/spearman"] for line in lines(tmp_path / "run") if "eval/spearman" in line]
    assert scores[-1] > 0.8
    columns = LabelledConfig(second="like")
    actual = model.evaluate(tmp_path / "held.csv", columns=columns, task="similarity")
    examples = read_labelled(tmp_path / "held.csv", columns)
    first, second = (
        model.embed(texts, normalize=True) for texts in zip(*((e.text, e.second) for e in examples), strict=True)
    )
    cosines = (first * second).sum(axis=1)
    assert actual["spearman"] == pytest.approx(stats.spearmanr(cosines, [float(e.label) for e in examples]).statistic)
    words = ["evaluate", str(tmp_path / "run"), str(tmp_path / "held.csv"), "--second", "like", "--quiet"]
    assert main([*words, "--task", "similarity"]) == 0
    assert json.loads(capsys.readouterr().out)["spearman"] == pytest.approx(actual["spearman"])
    assert main(words) == 0  # the folder names its task
    assert model.network.vectors is not None
    assert (model.network.vectors.pooling, (tmp_path / "run" / "modules.json").is_file()) == ("mean", True)


@pytest.mark.parametrize("task", ["similarity", "cert"])
def test_micro_batches_do_not_change_a_run(task: str, tmp_path: Path) -> None:
    over: dict[str, Any] = {"task": task, "budget": {"steps": 4}}
    whole, parts = (
        similarity_recipe(tmp_path, output=str(tmp_path / f"run{n}"), data={"accumulate": n}, **over) for n in (1, 4)
    )
    for recipe in (whole, parts):
        api.finetune(recipe)
    ours, theirs = ([line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("run4", "run1"))
    assert len(ours) == 4
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_rows_of_words_that_are_not_there_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the weights become what they would have become with them."""
    over: dict[str, Any] = {"optimizer": {"lr": 1e-3, "eps": 1e-3, "weight_decay": 0.3}, "budget": {"steps": 4}}
    for name, fraction in (("some", 0.99), ("all", 0.0)):
        monkeypatch.setattr(narrowing, "_FRACTION", fraction)
        recipe = similarity_recipe(
            tmp_path, output=str(tmp_path / name), data={"train": few(tmp_path / "few.csv")}, **over
        )
        api.finetune(recipe)
    some, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("some", "all"))
    for name in whole:
        torch.testing.assert_close(some[name], whole[name], atol=2e-5, rtol=2e-5)
    sizes = [
        max((tmp_path / name).glob("checkpoint-*/optimizer.safetensors")).stat().st_size for name in ("some", "all")
    ]
    assert sizes[0] < sizes[1]


def few(path: Path) -> str:
    """Triplets of few words."""
    rows = [f"{WORDS[n]} {WORDS[n + 1]},{WORDS[n]},{WORDS[n + 4]},1" for n in range(4)] * 8
    path.write_text("\n".join(["text,like,unlike,label", *rows]) + "\n")
    return str(path)


def test_without_a_second_column_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="second"):
        api.finetune(similarity_recipe(tmp_path, data={"columns": {}}))


def pairs_recipe(folder: Path, rows: list[tuple[str, str, float]], **over: Any) -> Recipe:
    """Pairs with a label each, trained at a batch of 32."""
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "like", "label"))
        writer.writerows(rows)
    data = {"train": str(path), "columns": {"second": "like"}, "batch": 32}
    return similarity_recipe(folder, data=data, **over)


def texts_of_words(seed: int, count: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 5)) for _ in range(count)]


def test_eight_pairs_make_steps_of_eight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a batch of 32 each came four times, and was its own negative: the first loss was ln 32 = 3.47."""
    rows = [(text, text, 1.0) for text in texts_of_words(1, 8)]
    recipe = pairs_recipe(tmp_path, rows, budget={"epochs": 3}, track={"progress": "plain", "every": 1})
    api.finetune(recipe)
    losses = [line["loss/similarity"] for line in lines(tmp_path / "run") if "loss/similarity" in line]
    assert len(losses) == 3
    assert losses[0] < math.log(8) + 0.1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"]["samples"] == 3 * 8 * 2  # texts
    assert "a step takes all 8 samples" in capsys.readouterr().err


def test_labelled_pairs_are_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs whose label says that nothing is alike were pulled together."""
    first, other = texts_of_words(2, 40), texts_of_words(3, 40)
    rows = [(a, b, n % 2) for n, (a, b) in enumerate(zip(first, other, strict=True))]
    model = api.finetune(pairs_recipe(tmp_path, rows, budget={"epochs": 15}, track={"progress": "plain"}))
    cosines = (model.embed(first, normalize=True) * model.embed(other, normalize=True)).sum(axis=1)
    assert cosines[1::2].min() > cosines[::2].max()
    assert "labels are used as scores" in capsys.readouterr().err


def test_repeated_answers_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """256 questions over 4 answers, which were each other's negatives."""
    answers = texts_of_words(5, 4)
    rows = [(text, answers[n % 4], 1.0) for n, text in enumerate(texts_of_words(4, 256))]
    api.finetune(pairs_recipe(tmp_path, rows, budget={"epochs": 2}, track={"progress": "plain"}))
    assert "as the same text or of the same text" in capsys.readouterr().err
    stats = json.loads((tmp_path / "run" / "data_stats.json").read_text())["training"]
    assert 2 * 256 * 5 < stats["false_negatives"] < 2 * 256 * 9, "some 7 of the 31 others of a step"
