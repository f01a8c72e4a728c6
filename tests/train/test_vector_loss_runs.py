"""Whole runs of the losses on vectors: rankings as validation, teachers of other tokenizers, lists of negatives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainkit import WORDS, lines, make_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer
from pretune.train.teacher_labels import LoadedTeacher

QUIET = {"report": False, "progress": "quiet", "every": 1}


def pairs(count: int, seed: int, negatives: int = 0) -> list[dict[str, Any]]:
    """Texts of eight words, their partners of the same topic, and negatives of others."""
    random = np.random.default_rng(seed)

    def text(topic: int) -> str:
        return " ".join(random.choice(WORDS[8 * topic : 8 * topic + 8], 4))

    rows: list[dict[str, Any]] = []
    for n in range(count):
        topic = n % 7
        row: dict[str, Any] = {"text": text(topic), "second": text(topic)}
        if negatives:
            row["negatives"] = [text((topic + k) % 7) for k in range(1, 2 + n % negatives)]
        rows.append(row)
    return rows


def train(folder: Path, rows: list[dict[str, Any]], validation: Any = None, **over: Any) -> Any:
    if not (folder / "tokenizer").exists():
        make_tokenizer(folder / "tokenizer")
    fields: dict[str, Any] = {
        "model": {"size": "tiny", "dropout": 0.0},
        "data": {
            "tokenizer": str(folder / "tokenizer"),
            "columns": {"second": "second"} | ({"third": "negatives"} if "negatives" in rows[0] else {}),
            "batch": 28,
        },
        "optimizer": {"lr": 1e-3, "eps": 1e-3},
        "budget": {"epochs": 6},
        "precision": "fp32",
        "device": "cpu",
        "track": QUIET,
        "output": str(folder / "run"),
        "task": "similarity",
    }
    return pretune.finetune(train=rows, validation=validation, **(fields | over))


def test_pairs_without_labels_are_validated_as_rankings(tmp_path: Path) -> None:
    model = train(tmp_path, pairs(140, 1), pairs(42, 2))
    scores = [line["eval/nDCG@10"] for line in lines(tmp_path / "run") if "eval/nDCG@10" in line]
    assert scores[-1] > scores[0]
    again = model.evaluate(pairs(42, 2))
    assert again["nDCG@10"] == pytest.approx(max(scores), abs=1e-6)
    assert set(again) >= {"R@1", "RR@10"}


def test_lists_of_negatives_from_a_file_and_lengths_of_vectors(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs(56, 3, negatives=3))))
    make_tokenizer(tmp_path / "tokenizer")
    flags = ["--second", "second", "--third", "negatives", "--tokenizer", str(tmp_path / "tokenizer"), "--steps", "4"]
    flags += ["--task.similarity.loss.triplet.margin", "0.3", "--task.similarity.dims", "128,32", "--size", "tiny"]
    run = tmp_path / "run"
    words = ["finetune", "--task", "similarity", "--train", str(path), "--output", str(run), *flags, "--quiet"]
    assert main([*words, "--track.report", "false", "--device", "cpu"]) == 0
    recorded = pretune.load(run).metadata.task_of(None)
    assert recorded is not None
    assert {name: recorded.config[name] for name in ("negatives", "dims", "loss")} == {
        "negatives": 3, "dims": [128, 32], "loss": {"triplet": {"margin": 0.3}}
    }  # fmt: skip


def test_a_student_with_another_tokenizer_learns_a_teachers_vectors(tmp_path: Path) -> None:
    """The student's words are the teacher's with another letter before each: another language."""
    (tmp_path / "teacher").mkdir()
    teacher = train(tmp_path / "teacher", pairs(140, 1), budget={"steps": 20})
    rows = [{"text": row["text"], "second": translate(row["text"])} for row in pairs(140, 5)]
    texts = [text for row in rows for text in row.values()]
    train_tokenizer(texts, TokenizerConfig(vocab_size=200)).save(tmp_path / "tokenizer")
    loss = {"vector_distillation": {"teacher": str(tmp_path / "teacher" / "run")}}
    over: dict[str, Any] = {"optimizer": {"lr": 1e-3}, "budget": {"epochs": 16}}
    student = train(tmp_path, rows, task={"similarity": {"loss": loss}}, **over)
    texts = [row["text"] for row in pairs(21, 9)]
    wanted = teacher.embed(texts, normalize=True)
    got = student.embed([translate(text) for text in texts], normalize=True)
    assert (got * wanted).sum(axis=1).mean() > 0.8


def test_a_run_goes_on_where_a_teacher_computes_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another processor gives other last digits, which are no other data; another teacher is one."""
    place = tmp_path / "teacher"
    place.mkdir()
    train(place, pairs(28, 1), budget={"steps": 1})
    loss = {"vector_distillation": {"teacher": str(place / "run")}}
    over: dict[str, Any] = {"task": {"similarity": {"loss": loss}}}
    train(tmp_path, pairs(28, 5), budget={"steps": 2}, **over)
    vectors = LoadedTeacher.vectors
    monkeypatch.setattr(LoadedTeacher, "vectors", lambda teacher, texts: vectors(teacher, texts) * (1 + 1e-5))
    train(tmp_path, pairs(28, 5), budget={"steps": 4}, **over)
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 2, 3, 4]
    shutil.rmtree(place / "run")
    train(place, pairs(28, 1), budget={"steps": 1}, seed=1)
    with pytest.raises(DataError, match=r"teacher .*run.* changed"):
        train(tmp_path, pairs(28, 5), budget={"steps": 6}, **over)


def translate(text: str) -> str:
    return " ".join(f"q{word}" for word in text.split())


def test_margins_are_learned_from_a_model_that_scores_pairs(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    train(tmp_path / "teacher", pairs(140, 1), budget={"steps": 10})
    loss = {"margin_distillation": {"teacher": str(tmp_path / "teacher" / "run")}}
    train(tmp_path, pairs(56, 5, negatives=2), task={"similarity": {"loss": loss}}, budget={"epochs": 10})
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0] / 2


def test_a_teacher_that_cannot_teach(tmp_path: Path) -> None:
    (tmp_path / "narrow").mkdir()
    train(tmp_path / "narrow", pairs(28, 1), model={"size": "mini", "dropout": 0.0}, budget={"steps": 1})
    loss = {"vector_distillation": {"teacher": str(tmp_path / "narrow" / "run")}}
    with pytest.raises(UsageError, match=r"the teacher's vectors have 256 numbers and the model's 128"):
        train(tmp_path, pairs(28, 1), task={"similarity": {"loss": loss}}, budget={"steps": 1})
    labelled = [{**pairs(1, 1)[0], "label": 1.0}, *pairs(1, 2)]
    with pytest.raises(DataError, match=r"list\[1\]: no label, where other pairs have one"):
        train(tmp_path, pairs(28, 1), labelled, output=str(tmp_path / "other"), budget={"steps": 1})
