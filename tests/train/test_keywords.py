"""A call of `finetune` or `pretrain` as people write it: fields by the names of flags, rows where files may stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pretune
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.model import Model
from pretune.train.keywords import read_call
from tests.test_in_memory import fields, rows
from tests.train.trainkit import make_tokenizer


def recipe(*args: Any, **names: Any) -> dict[str, Any]:
    base: tuple[Any, ...] = (*args, *[None] * (3 - len(args)))
    return read_call(*base, names).recipe.model_dump(mode="json", exclude_none=True)


def test_fields_are_named_as_flags() -> None:
    tree = recipe(
        model=Path("bert"), task="classification", train="a.csv", validation=["b.csv"], text="title", label="kind",
        epochs=10, lr=np.float32(0.5), batch=8, length=64, seed=3, output=Path("out"), dropout=0.1, holdout=0,
        **{"evaluation.keep": "last"},
    )  # fmt: skip
    assert tree["model"]["init"] == "bert"
    assert tree["model"]["dropout"] == 0.1
    assert tree["data"]["train"] == ["a.csv"]
    assert tree["data"]["validation"] == ["b.csv"]
    assert (tree["data"]["columns"]["text"], tree["data"]["columns"]["label"]) == ("title", "kind")
    assert (tree["budget"]["epochs"], tree["optimizer"]["lr"], tree["data"]["batch"]) == (10, 0.5, 8)
    assert (tree["seed"], tree["output"], tree["evaluation"]["keep"]) == (3, "out", "last")


def test_tables_settings_of_variants_and_files(tmp_path: Path) -> None:
    tree = recipe(
        task={"classification": {"class_weights": "balanced"}}, label_smoothing=0.1, optimizer={"lr": 0.25},
        columns={"text": "t"}, model={"family": "bert", "size": "tiny"},
    )  # fmt: skip
    assert tree["task"]["classification"] == {"class_weights": "balanced", "label_smoothing": 0.1}
    assert (tree["optimizer"]["lr"], tree["data"]["columns"]["text"], tree["model"]["size"]) == (0.25, "t", "tiny")
    assert recipe(columns=("text", "label"), task="classification")["data"]["columns"]["columns"] == ["text", "label"]
    (tmp_path / "a.toml").write_text('task = "classification"\n[budget]\nepochs = 2\n[data]\ntrain = "a.csv"\n')
    over = recipe(str(tmp_path / "a.toml"), "b.csv", epochs=7, lr=1)
    assert (over["budget"]["epochs"], over["optimizer"]["lr"], over["data"]["train"]) == (7, 1, ["b.csv"])
    with pytest.raises(UsageError, match=r"lr and optimizer\.lr are both optimizer\.lr; leave one out"):
        recipe(lr=1, **{"optimizer.lr": 2})
    own = tmp_path / "mine.py"
    assert recipe(**{f"objective.{own}.rate": 0.5})["objective"] == {str(own): {"rate": 0.5}}, "a name with dots"
    typed = read_call(tmp_path / "a.toml", None, None, {}).recipe
    assert read_call(typed, None, None, {}).recipe is typed
    assert recipe(typed, seed=5)["seed"] == 5
    plain = {"task": "classification", "data": {"length": 32}}
    recipe(plain, train=["a.csv"], lr=1)
    assert plain == {"task": "classification", "data": {"length": 32}}, "what the caller holds stays as it is"


def test_fields_replace_what_a_typed_recipe_has_by_default() -> None:
    tuned = read_call({"task": "classification", "data": {"train": "a.csv"}}, None, None, {}).recipe
    assert recipe(tuned, steps=10)["budget"] == {"steps": 10, "min_steps": 0}
    assert "batch" not in recipe(tuned, batch_tokens=1000)["data"]
    assert recipe(tuned, tune="frozen")["optimizer"]["lr"] == 1e-2
    assert read_call(tuned, None, None, {"seed": tuned.seed}).recipe == tuned
    tree = {"objective": "mlm", "data": {"stores": "s", "batch_tokens": 512}, "evaluation": {"samples": None}}
    typed = read_call({**tree, "budget": {"tokens": 7}, "optimizer": {"name": "muon"}}, None, None, {}).recipe
    assert read_call(typed, None, None, {"seed": typed.seed}).recipe == typed
    with pytest.raises(UsageError, match="give exactly one of steps, tokens"):
        recipe(typed, steps=10)


def test_rows_stand_where_files_may() -> None:
    frame = pd.DataFrame(rows(3))
    for call in (
        read_call({"task": "classification"}, frame, rows(2), {}),
        read_call({"task": "classification", "data": {"train": frame, "validation": rows(2)}}, None, None, {}),
        read_call(None, None, None, {"task": "classification", "data": {"train": frame, "validation": rows(2)}}),
        read_call({"task": "classification"}, frame, (row for row in rows(2)), {}),
    ):
        assert call.train is frame
        assert call.validation == rows(2)
        assert call.recipe.data.train == ()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"learning_rate": 1}, r"learning_rate = '1': there is no such field; did you mean lr"),
        ({"epoch": 1}, r"epoch = '1': there is no such field; did you mean epochs"),
        ({"xyzzy": 1}, r"xyzzy = '1': there is no such field; pretune finetune --help-all lists all of them"),
        ({"every": 3}, r"several fields end in this name"),
        ({"lr": "fast"}, r"optimizer\.lr"),
        ({"epochs": 1, "steps": 2}, r"budget"),
        ({"model": ["a", "b"]}, r"model\.init"),
    ],
)
def test_what_no_field_is_called_is_named(names: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_call({"task": "classification"}, None, None, names)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "expected a TOML file or plain values, got int; give rows as train="),
        ([("a", "b")], "expected a TOML file or plain values, got list; give rows as train="),
        (pd.DataFrame({"text": ["a"]}), "got DataFrame; give rows as train="),
        (".", r"\.: a folder and no recipe; name a model as model='\.'"),
    ],
)
def test_what_is_no_recipe_is_answered(given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_call(given, None, None, {})


def test_a_field_of_none_is_as_if_left_out() -> None:
    assert recipe({"task": "classification"}, lr=None, model=None) == recipe({"task": "classification"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    folder = tmp_path_factory.mktemp("keywords")
    make_tokenizer(folder / "tokenizer")
    base = fields(folder, "base") | {"budget": {"steps": 1}, "track": {"progress": "quiet", "report": False}}
    return folder, pretune.finetune(base, rows())


def test_a_model_from_tuples_in_one_call(trained: tuple[Path, Model]) -> None:
    folder, _ = trained
    pairs = [(row["sentence"], row["kind"]) for row in rows()]
    common: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "progress": "quiet", "report": False}
    common |= {"model": folder / "base", "task": "classification", "steps": 2, "batch": 8, "length": 12}
    one = pretune.finetune(train=pairs, output=folder / "one", **common)
    two = pretune.finetune(train=rows(), text="sentence", label="kind", output=folder / "two", **common)
    assert all(
        torch.equal(value, other)
        for value, other in zip(one.network.parameters(), two.network.parameters(), strict=True)
    )
    with pytest.raises(MissingInputError, match="no such"):
        pretune.finetune(train=pairs, **{**common, "model": "no-such-model"})
    with pytest.raises(DataError, match=r"list\[1\]: a row of 1"):
        pretune.finetune(train=[pairs[0], ("x",)], output=folder / "bad", **common)


def test_whatever_holds_texts_is_predicted_and_embedded(trained: tuple[Path, Model]) -> None:
    """A DataFrame given to `embed` made vectors of its columns' names; an array given to `predict` was refused."""
    _, model = trained
    import datasets
    import pyarrow as pa

    frame = pd.DataFrame(rows(5, 1))
    texts = frame["sentence"].tolist()
    forms: list[Any] = [
        frame, rows(5, 1), pa.Table.from_pandas(frame), datasets.Dataset.from_pandas(frame), frame["sentence"],
        np.array(texts), pa.array(texts), tuple(texts),
    ]  # fmt: skip
    labels, vectors = [p.label for p in model.predict(texts)], model.embed(texts)
    for form in forms:
        assert [p.label for p in model.predict(form)] == labels
        assert np.array_equal(model.embed(form), vectors)
    assert [p.label for p in model.predict(text for text in texts)] == labels
    assert [p.label for p in model.predict([(text,) for text in texts])] == labels
    with pytest.raises(DataError, match=r"embed: DataFrame\.iloc\[0\] has no field 'sentence'; give the column of the"):
        model.embed(frame.rename(columns={"sentence": "title"}))
    with pytest.raises(DataError, match="two columns are called 'sentence'"):
        model.embed(pd.DataFrame([["a", "b"]], columns=["sentence", "sentence"]))
    with pytest.raises(DataError, match=r"a row of 2, where \(sentence\) is read"):
        model.predict([("a", "b")])
    with pytest.raises(UsageError, match="records hold their second texts themselves"):
        model.predict(frame, texts)
