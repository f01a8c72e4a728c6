"""Training, evaluation and prediction on records in memory, the same as on a file; and from the recorded task alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import pretune
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.model import Model
from tests.train.trainkit import SHAPE, WORDS, make_tokenizer

FORMS = {
    "list": list,
    "pandas": pd.DataFrame,
    "arrow": pa.Table.from_pylist,
    "datasets": datasets.Dataset.from_list,
}


def rows(count: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """Texts whose first word tells the class."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        words = [WORDS[int(n)] for n in rng.integers(0, 59, int(rng.integers(4, 12)))]
        out.append({"sentence": " ".join(words), "kind": "odd" if int(words[0][1:]) % 2 else "even", "id": 7})
    return out


def fields(folder: Path, run: str, **data: Any) -> dict[str, Any]:
    columns = {"text": "sentence", "label": "kind"}
    return {
        "output": str(folder / run),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "model": {"family": "bert", "size": "tiny", "overrides": SHAPE},
        "data": {"tokenizer": str(folder / "tokenizer"), "columns": columns, "length": 12, "batch": 8, **data},
        "task": {"classification": {"truncate": "tail"}},
        "budget": {"steps": 6},
        "track": {"progress": "quiet"},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A run on files."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("memory")
    make_tokenizer(folder / "tokenizer")
    for name, part in (("train", rows()), ("held", rows(12, 1))):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)) + "\n")
    recipe = fields(folder, "files", train=[f"{folder}/train.jsonl"], validation=[f"{folder}/held.jsonl"])
    return folder, pretune.finetune(recipe)


@pytest.mark.parametrize("form", FORMS)
def test_records_train_as_their_file(trained: tuple[Path, Model], form: str) -> None:
    folder, model = trained
    make = FORMS[form]
    other = pretune.finetune(fields(folder, form), make(rows()), make(rows(12, 1)))
    weights = dict(model.network.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in other.network.named_parameters())
    facts = [json.loads((folder / run / "run.json").read_text())["data"] for run in ("files", form)]
    assert facts[0] == facts[1]
    assert set(facts[0]) == {"data.train", "data.validation"}
    scores = model.evaluate(folder / "held.jsonl")
    assert other.evaluate(make(rows(12, 1))) == scores
    wanted = model.predict([row["sentence"] for row in rows(12, 1)])
    assert model.predict(make(rows(12, 1))) == wanted
    bare = [{"sentence": row["sentence"]} for row in rows(12, 1)]
    assert model.predict(make(bare)) == wanted
    assert json.loads((folder / form / "samples.json").read_text())


def test_another_data_set_does_not_resume_a_run(trained: tuple[Path, Model]) -> None:
    folder, _ = trained
    pretune.finetune(fields(folder, "again"), rows())
    changed = rows()
    changed[3]["kind"] = "odd" if changed[3]["kind"] == "even" else "even"
    with pytest.raises(DataError, match=r"data\.train: the data changed"):
        pretune.finetune(fields(folder, "again"), changed)


def test_bad_records_leave_nothing(trained: tuple[Path, Model], tmp_path: Path) -> None:
    folder, model = trained
    frame = pd.DataFrame(rows())
    frame.loc[4, "sentence"] = None
    recipe = fields(folder, "bad") | {"output": str(tmp_path / "bad")}
    with pytest.raises(DataError, match=r"DataFrame\.iloc\[4\]: field 'sentence' has no value"):
        pretune.finetune(recipe, frame)
    assert not list(tmp_path.glob("bad/*model*"))
    with pytest.raises(UsageError, match=r"data\.train.*there are data in memory too; leave one out"):
        pretune.finetune(fields(folder, "both", train=[f"{folder}/train.jsonl"]), rows())
    with pytest.raises(DataError, match=r"list\[0\]: no field 'sentence'; name the field .*--text \(columns\.text\)"):
        model.predict([{"text": "w1"}])
    with pytest.raises(DataError, match=r"list\[0\]: label 'both' was not seen in training; known labels: even, odd"):
        model.evaluate([{"sentence": "w1", "kind": "both"}])


def test_no_flag_is_needed_to_use_a_task(trained: tuple[Path, Model], capsys: pytest.CaptureFixture[str]) -> None:
    """Columns, labels, truncation and length come from the model's files."""
    folder, model = trained
    task = model.task()
    assert (task.config.truncate, task.config.columns.text, task.labels) == ("tail", "sentence", ["even", "odd"])
    assert model.length == 12
    long = " ".join(WORDS[n] for n in range(40))
    assert model.predict(long) == model.predict(" ".join(long.split()[-10:]))
    assert model.predict(long, truncate="head") == model.predict(" ".join(long.split()[:10]))
    capsys.readouterr()
    assert main(["evaluate", f"{folder}/files", f"{folder}/held.jsonl", "--quiet", "--device", "cpu"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores.pop("confusion").keys() == {"even", "odd"}
    assert scores == pytest.approx(dict(model.evaluate(folder / "held.jsonl")), abs=0.2)
    words = ["predict", f"{folder}/files", "--input", f"{folder}/held.jsonl", "--quiet", "--device", "cpu"]
    assert main(words) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line)[-3:] for line in lines] == [["label", "probability", "probabilities"]] * 12
    assert [line["sentence"] for line in lines] == [row["sentence"] for row in rows(12, 1)]
