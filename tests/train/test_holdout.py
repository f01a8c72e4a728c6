"""Rows are held out for validation by key: the same ones in any order, groups together, and every label is trained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pretune
from pretune.cli import main
from pretune.config import validate
from pretune.errors import DataError, UsageError
from pretune.tasks.classification import ClassificationExample
from pretune.tasks.multilabel import MultilabelExample
from pretune.tasks.shared.vector_task import PairExample
from pretune.train.holdout import Holdout, HoldoutConfig, default_fraction, hold_out, text_key
from pretune.train.recipe import Recipe
from tests.test_in_memory import fields, rows
from tests.train.trainkit import make_tokenizer


def examples(count: int, labels: int = 4) -> list[ClassificationExample]:
    return [ClassificationExample(f"text {n}", str(n % labels)) for n in range(count)]


def part(items: Any, groups: Any = None, needs_labels: bool = True, **config: Any) -> Holdout:
    out = hold_out(items, groups, HoldoutConfig(**config), needs_labels=needs_labels)
    assert out is not None
    return out


@pytest.mark.parametrize(
    ("count", "fraction"), [(0, 0), (99, 0), (100, 0.2), (150, 0.2), (300, 0.1), (1000, 0.1), (100_000, 0.02)]
)
def test_what_is_held_out_by_default(count: int, fraction: float) -> None:
    assert default_fraction(count) == pytest.approx(fraction)


def test_what_is_held_out_depends_on_the_texts_alone() -> None:
    items = examples(1000)
    first = part(items)
    assert 70 < len(first.validation) < 130
    assert [*first.train, *first.validation] != items
    assert {id(e) for e in first.train} | {id(e) for e in first.validation} == {id(e) for e in items}
    order = np.random.default_rng(0).permutation(1000).tolist()
    assert set(map(text_key, part([items[n] for n in order]).validation)) == set(map(text_key, first.validation))
    more = part(items + [ClassificationExample(f"new {n}", "1") for n in range(500)])
    kept = {text_key(example) for example in more.validation if example.text.startswith("text")}  # type: ignore[attr-defined]
    assert kept == set(map(text_key, first.validation)), "rows that are added move no other"
    assert first.to_json() == {
        "rows": len(first.validation), "of": 1000, "group": None, "fraction": 0.1, "fold": None
    }  # fmt: skip


def test_too_few_groups_are_named() -> None:
    for groups in (["one"] * 200, ["\ud800"] * 200):  # the second can come from memory alone
        with pytest.raises(UsageError, match=r"data\.holdout = 0\.15: nothing .*200 rows \(1 different by 'user'\)"):
            part(examples(200), groups, group="user")


def test_copies_and_groups_stay_together() -> None:
    twice = examples(200) + examples(200)
    out = part(twice, holdout=0.3)
    assert not set(map(text_key, out.train)) & set(map(text_key, out.validation))
    items = examples(200)
    groups = [str(n // 5) for n in range(200)]
    of = {text_key(example): group for example, group in zip(items, groups, strict=True)}
    out = part(items, groups, group="user")
    held = {of[text_key(example)] for example in out.validation}
    assert held
    assert not held & {of[text_key(example)] for example in out.train}
    assert "by column 'user'" in out.describe()


def test_every_label_is_trained() -> None:
    items = [ClassificationExample(f"text {n}", str(n % 90)) for n in range(100)]  # 80 labels of one row
    out = part(items, holdout=0.5)
    assert {e.label for e in out.train} == {e.label for e in items}  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"data\.holdout = 0\.5: nothing is left to train on or to score with of 4"):
        part([ClassificationExample(f"{n}", str(n)) for n in range(4)], holdout=0.5)
    unique = [ClassificationExample(f"{n}", str(n)) for n in range(200)]
    assert hold_out(unique, None, HoldoutConfig(), needs_labels=True) is None


def test_folds_part_the_rows() -> None:
    items = examples(103)
    outs = [part(items, folds=5, fold=k) for k in range(1, 6)]
    held = Counter(text_key(example) for out in outs for example in out.validation)
    assert held == Counter(map(text_key, items)), "each row is held out once"
    assert {len(out.validation) for out in outs} == {20, 21}
    for out in outs:
        counts = Counter(example.label for example in out.validation)  # type: ignore[attr-defined]
        assert max(counts.values()) - min(counts.values()) <= 2, "as many of each label"
    with pytest.raises(UsageError, match=r"data\.folds = 9: nothing is left .* in fold 9 of 4 rows \(2 different"):
        part([*examples(2, 2), *examples(2, 2)], folds=9, fold=9)


def test_tasks_without_labels_hold_out_what_can_be_scored() -> None:
    pairs = [PairExample(f"a {n}", f"b {n}", None, None) for n in range(200)]
    assert hold_out(pairs, None, HoldoutConfig(), needs_labels=False) is None
    with pytest.raises(
        DataError, match=r"scored by labels that are numbers and differ.*name their column with --label"
    ):
        part(pairs, needs_labels=False, holdout=0.1)
    scored = [PairExample(f"a {n}", f"b {n}", None, str(n % 6)) for n in range(200)]
    assert part(scored, needs_labels=False).validation
    named = [PairExample(f"a {n}", f"b {n}", None, "yes") for n in range(200)]
    assert hold_out(named, None, HoldoutConfig(), needs_labels=False) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"holdout": 1.5}, "data.holdout"),
        ({"folds": 1}, "data.folds"),
        ({"fold": 2}, "fold 2 is one of how many"),
        ({"folds": 3, "fold": 4}, "fold 4 is one of how many"),
        ({"folds": 3, "holdout": 0.1}, "field 'data': give holdout .* not both"),
        ({"validation": "a.csv", "holdout": 0.1}, "validation names the rows of validation"),
        ({"validation": "a.csv", "folds": 3}, "validation names the rows of validation"),
        ({"validation": "a.csv", "group": "x"}, "validation names the rows of validation"),
        ({"holdout": 0, "group": "x"}, "holdout 0 holds nothing out, by group or otherwise"),
    ],
)
def test_contradictions_are_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        validate(Recipe, {"data": {"train": "t.csv", **data}, "task": "classification"}, "recipe")
    assert "{" not in str(caught.value), "of a table, only the fields that do not fit are said"
    if "validation" not in data and data != {"holdout": 1.5}:
        with pytest.raises(UsageError):
            validate(Recipe, {"data": {"stores": "s", **data}, "objective": "mlm"}, "recipe")


def test_a_run_without_validation_is_scored_on_what_it_held_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    recipe = fields(tmp_path, "run", group="id") | {"budget": {"steps": 2}}
    data = [{**row, "id": f"user {n // 4}"} for n, row in enumerate(rows(120))]
    recipe["track"] = {"progress": "plain", "report": False}
    pretune.finetune(recipe, data)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    held = facts["held_out"]
    assert (held["of"], held["group"], held["fraction"]) == (120, "id", 0.2)
    assert 0 < held["rows"] < 60
    blind = fields(tmp_path, "blind") | {"budget": {"steps": 1}, "evaluation": {"samples": 0}}
    blind["track"] = {"progress": "quiet", "report": False}
    pretune.finetune(blind, data)
    assert "held_out" not in json.loads((tmp_path / "blind" / "run.json").read_text()), "nothing would look at it"
    words = f"held out for validation, as no file was named: {held['rows']} of 120 training rows, by column 'id'"
    assert words in capfd.readouterr().err
    assert set(facts["data"]) == {"data.train", "data.validation"}
    stats = json.loads((tmp_path / "run" / "data_stats.json").read_text())
    assert (stats["train"]["examples"], stats["validation"]["examples"]) == (120 - held["rows"], held["rows"])
    with pytest.raises(DataError, match=r"list\[3\]: field 'id' is empty; fill in the group of each row"):
        pretune.finetune(fields(tmp_path, "bad", group="id"), [*data[:3], {**data[3], "id": None}, *data[4:]])
    with pytest.raises(UsageError, match=r"'data\.holdout' = 0\.1: there are data in memory too"):
        pretune.finetune(fields(tmp_path, "both", holdout=0.1), data, data[:9])


def test_a_run_is_evaluated_on_what_it_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tokenizer(tmp_path / "tokenizer")
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(120)))
    recipe = fields(tmp_path, "run", train=[str(file)]) | {"budget": {"steps": 1}}
    recipe["track"] = {"progress": "quiet", "report": False}
    pretune.finetune(recipe)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (kept,) = (line for line in lines if "eval/accuracy" in line)
    common = ["--device", "cpu", "--precision", "fp32"]
    capsys.readouterr()
    assert main(["evaluate", f"{tmp_path}/run", *common]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["accuracy"] == pytest.approx(kept["eval/accuracy"])
    held = json.loads((tmp_path / "run" / "run.json").read_text())["held_out"]["rows"]
    assert sum(value for name, value in json.loads(out).items() if name.startswith("count/")) == held
    assert main(["evaluate", f"{tmp_path}/run", f"{file}", *common]) == 0
    words = f"train.jsonl trained this model, but for {held} rows that were held out, so that its scores are too good"
    assert words in capsys.readouterr().err
    recorded = tmp_path / "run" / "recipe.toml"
    recorded.write_text(recorded.read_text().replace("\ntext = ", "\nof_another_build = 1\ntext_column = "))
    assert main(["evaluate", f"{tmp_path}/run", f"{file}", *common]) == 0, "a warning is no reason to fail"
    assert words in capsys.readouterr().err
    recorded.write_text(recorded.read_text().replace("\nof_another_build = 1", ""))
    assert main(["evaluate", f"{tmp_path}/run", *common]) == 0
    capsys.readouterr()
    for flags, said in (
        (["--label", "x"], "makes no use of label"),
        (["--length", "9"], "makes no use of length"),
        (["--split", "train"], "makes no use of split"),
    ):
        assert main(["evaluate", f"{tmp_path}/run", *flags, *common]) == 64
        assert said in capsys.readouterr().err
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(121)))
    assert main(["evaluate", f"{tmp_path}/run", *common]) == 65
    assert "changed since the run; name a labelled file" in capsys.readouterr().err


def test_every_label_of_several_trains() -> None:
    """A label of few texts would be unseen in training, and stop the run."""
    items = [MultilabelExample(f"text {n}", ("common", f"rare {n % 60}")) for n in range(120)]
    items += [MultilabelExample(f"text {n}", ("common",)) for n in range(20)]  # copies, with other labels
    held_out = hold_out(items, None, HoldoutConfig(holdout=0.4), needs_labels=True)
    assert held_out is not None
    assert {label for item in held_out.train for label in item.labels or ()} == {
        "common",
        *(f"rare {n}" for n in range(60)),
    }
    assert not {item.text for item in held_out.train} & {item.text for item in held_out.validation}
    assert len(held_out.validation) > 20
