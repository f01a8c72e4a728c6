"""Runs on public sets: which records a run has, what is kept, what is made again, and the table."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from tinymodels import save_bert, word_tokenizer

from benchmarks import page
from benchmarks.understanding import measure, one
from benchmarks.understanding.measure import Measurement
from benchmarks.understanding.one import Order
from benchmarks.understanding.sets import LabelledSet, Split, draw_records, draw_with_each_label, find_set
from benchmarks.understanding.table import table
from pretune.errors import BenchError, PretuneError

RECORDS = [{"text": f"{word} cat {n}", "label": word} for n in range(20) for word in ("quick", "lazy")]
TINY = LabelledSet(
    "tiny", "classification", "accuracy", "en", lambda: [Split(RECORDS, RECORDS[:6])] * 2, 0.5, "guessing", 0.9
)


def order(**fields: Any) -> Order:
    plain = {"fold": 0, "seed": 0, "model": "m", "fraction": 1.0, "limit": 0, "develop": False, "recipe": {}}
    return Order("tiny", **{**plain, **fields})


def test_a_run_has_its_part_of_the_records() -> None:
    assert order().split(TINY) == Split(RECORDS, RECORDS[:6])
    half = order(fraction=0.5).split(TINY)
    assert len(half.train) == 20
    assert half.train == order(fraction=0.5).split(TINY).train != order(fraction=0.5, seed=1).split(TINY).train
    developed = order(develop=True, limit=10).split(TINY)
    assert len(developed.train) == 10
    assert len(developed.test) == 8
    assert not [record for record in developed.train if record in developed.test]


def test_a_draw_leaves_no_label_out() -> None:
    rare = [{"text": f"rare {n}", "label": f"rare {n}"} for n in range(5)]
    records = RECORDS * 5 + rare
    for draw in range(20):
        plain, drawn = draw_records(records, 12, draw), draw_with_each_label(records, 12, draw)
        assert len(drawn) == 12
        assert {record["label"] for record in drawn} == {record["label"] for record in records}
        kept = sum(one is other for one, other in zip(plain, drawn, strict=True))
        assert 7 <= kept < 12
        assert draw_with_each_label(RECORDS, 12, draw) == draw_records(RECORDS, 12, draw)
    spans = [{"text": "a", "spans": [n]} for n in range(9)]
    assert draw_with_each_label(spans, 4, 0) == draw_records(spans, 4, 0)


def test_what_is_done_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Order] = []

    def pretend(order: Order, minutes: float) -> dict[str, Any]:
        done.append(order)
        if order.fold == 1:
            return {"error": "no memory"}
        return {"score": 0.8 + order.seed / 10, "scores": {}, "train_seconds": 90.0, "test_seconds": 1.0}

    monkeypatch.setattr(measure, "run_apart", pretend)
    monkeypatch.setattr("benchmarks.understanding.table.all_sets", lambda: {"tiny": TINY})
    path = tmp_path / "understanding.json"
    tree = Measurement(path, {"en": "minilm"}, seeds=2).run([TINY])
    assert len(done) == 4
    Measurement(path, {"en": "minilm"}, seeds=2).run([TINY])
    assert [each.fold for each in done[4:]] == [1, 1]  # what failed is tried again
    assert Measurement(path, {"zh": "other"}).orders(TINY) == []
    text = table(tree)
    assert "| tiny (minilm) | accuracy | 0.850 ± 0.071 | 0.500 (guessing) | 0.900 | 2 | 1.5 |" in text
    assert "no memory" in text
    assert text in page.section(tree)
    Measurement(path, {"en": "minilm"}, seeds=2, recipe={"lr": 1e-3}).run([TINY])
    assert len(done) == 10  # other settings are other runs


def test_a_run_scores_the_test_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bert(tmp_path / "bert", word_tokenizer())
    monkeypatch.setattr(one, "find_set", lambda name: TINY)
    fields = {"steps": 2, "device": "cpu", "precision": "fp32", "threads": 1, "holdout": 0.2, "length": 16}
    result = one.run(order(model=str(tmp_path / "bert"), recipe=fields))
    assert result["score"] == result["scores"]["accuracy"]
    assert (result["train"], result["test"]) == (40, 6)


def test_a_run_first_reads_the_training_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose labels, and whose test records, the continued pretraining does not see."""
    save_bert(tmp_path / "bert", word_tokenizer())
    monkeypatch.setattr(one, "find_set", lambda name: TINY)
    monkeypatch.setattr(one, "_CONTINUED", {"length": 16, "batch": 4, "threads": 1, "device": "cpu"})
    pair = {"text": "a dog", "second": "and a cat", "label": "quick"}
    split = Split([*RECORDS, pair], [{"text": "unseen", "label": "lazy"}])
    base = one.continue_pretraining(order(model=str(tmp_path / "bert"), continued=0.01), split, tmp_path)
    assert (tmp_path / "texts.txt").read_text() == "\n\n".join([r["text"] for r in RECORDS] + ["a dog", "and a cat"])
    assert (Path(base) / "model.safetensors").read_bytes() != (tmp_path / "bert" / "model.safetensors").read_bytes()
    recipe = {"steps": 2, "device": "cpu", "precision": "fp32", "threads": 1, "holdout": 0.2, "length": 16}
    monkeypatch.setattr(one, "continue_pretraining", lambda order, split, folder: str(tmp_path / "missing"))
    with pytest.raises(PretuneError, match="missing"):
        one.run(order(model=str(tmp_path / "bert"), continued=0.01, recipe=recipe))


def test_a_run_apart_ends_with_its_error_or_at_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(stand_in))
    for seconds, minutes, error in ((0, 1.0, "broken"), (9, 0.005, "not finished after 0.005 minutes")):
        stand_in.write_text(f"#!/bin/sh\necho broken >&2\nsleep {seconds}\nexit 3\n")
        stand_in.chmod(0o755)
        assert measure.run_apart(order(), minutes) == {"error": error}


@pytest.mark.parametrize("name", ["up-roles-en", "up-roles-zh"])
def test_every_role_of_the_data_is_listed(name: str) -> None:
    labelled = find_set(name)
    try:
        split = labelled.split()
    except BenchError as error:
        pytest.skip(str(error))
    links = [link for record in (*split.train, *split.test) for link in cast(list[dict[str, str]], record["links"])]
    task = cast(dict[str, dict[str, Any]], labelled.recipe["task"])
    assert {link["label"] for link in links} == set(task["roles"]["link_labels"])


def test_runs_without_continued_pretraining_keep_their_names() -> None:
    plain, continued = (measure.key_of(TINY, order(continued=minutes)) for minutes in (0.0, 20.0))
    fields = {**vars(order()), "recipe": {}, "task": "classification"}
    del fields["continued"]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
    assert f"/ {digest} /" in plain
    assert continued.startswith("tiny after 20 minutes on its texts / m / ")


def test_an_order_is_plain() -> None:
    assert Order(**json.loads(json.dumps(vars(order())))) == order()
