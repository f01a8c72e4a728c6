import re
import subprocess
import sys

import pytest
from trainkit import recipe

from pretune.config import load, to_toml, validate
from pretune.errors import UsageError
from pretune.find import variants
from pretune.train import recipe as recipes
from pretune.train.recipe import RENAMED_FIELDS, Recipe, plain, read_recorded
from pretune.train.recipe_changes import compare


def test_reading_a_recipe_does_not_import_torch():
    code = "import sys, pretune.train.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_resolved_recipe_reads_back_the_same(tmp_path):
    for tree in ({"objective": "mlm,nsp", "data": {"stores": "store"}}, {"task": "classification"}):
        first = validate(Recipe, tree, "recipe")
        (tmp_path / "recipe.toml").write_text(to_toml(first))
        assert load(Recipe, tmp_path / "recipe.toml") == first


def test_command_line_words_are_enough():
    actual = load(
        Recipe,
        None,
        ["--objective", "mlm,nsp", "--data.stores", "store", "--budget.minutes", "4", "--optimizer.lr=3e-4"],
    )
    assert list(actual.objective) == ["mlm", "nsp"]
    assert actual.data.stores == ("store",)
    assert actual.budget.minutes == 4
    assert actual.optimizer.lr == 3e-4
    assert actual.data.batch == 32


def test_fine_tuning_has_defaults_of_its_own():
    actual = load(Recipe, None, ["--task", "classification", "--data.train", "a.csv"])
    assert actual.budget.epochs == 3
    assert actual.evaluation.keep == "best"
    assert actual.evaluation.samples is None


def test_what_is_put_beside_a_frozen_body_learns_at_a_rate_at_which_it_moves():
    """That of full fine-tuning would leave it where it begins: an Adam step moves a number by the rate at most."""
    rates = {}
    for method in variants("tune"):
        actual = load(Recipe, None, ["--task", "classification", "--data.train", "a.csv", "--tune", method])
        rates[method] = actual.optimizer.lr
    assert {method for method, rate in rates.items() if rate <= rates["full"]} == {"full", "sparse", "top"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optimiser.lr", "1"], "did you mean --lr"),
        (["--optimizer.lrs", "1"], "did you mean 'lr'"),
        (["--optimizer.lr", "0"], "optimizer.lr"),
        (["--budget.steps", "5", "--budget.tokens", "5"], "exactly one of"),
        (["--data.batch", "5", "--data.batch_tokens", "5"], "not both"),
        (["--data.batch", "2", "--data.accumulate", "4"], "accumulate"),
        (["--objective", "mlm", "--task", "classification", "--budget.epochs", "3"], "two kinds of epochs"),
        (["--model.init", "x", "--model.size", "base"], "init brings"),
        (["--task", "classification", "--data.stores", "x"], "labelled files"),
        (["--objective", "mlm", "--data.train", "x"], "token stores"),
        (["--tune", "lora,ia3"], "tune names lora and ia3; a run has one tuning method: give one"),
        (["--task", "classification", "--data.length_warmup", "0.5"], "whole texts"),
        (["--evaluation.keep", "best", "--no-checkpoint.best"], "needs checkpoint"),
        (["--evaluation.keep", "average", "--no-checkpoint.best"], "average needs checkpoint.best"),
        (["--evaluation.samples", "0", "--evaluation.patience", "2"], "patience"),
    ],
)
def test_mistakes_are_named(words, said):
    with pytest.raises(UsageError, match=said):
        load(Recipe, None, words)


@pytest.mark.parametrize("name", RENAMED_FIELDS)
def test_an_old_field_is_refused_with_its_new_name(name):
    with pytest.raises(UsageError) as error:
        load(Recipe, None, ["--objective", "mlm", f"--{name}", "7"])
    assert f"field {name!r} = 7 has a new name: use {RENAMED_FIELDS[name]}" in str(error.value)


def test_an_old_table_is_refused_field_by_field(monkeypatch):
    monkeypatch.setitem(recipes.RENAMED_FIELDS, "optimiser", "optimizer")
    with pytest.raises(UsageError, match=r"'optimiser.lr' = 1 has a new name: use optimizer.lr"):
        validate(Recipe, {"optimiser": {"lr": 1}}, "recipe")


def test_what_may_change_on_the_way(tmp_path):
    began = plain(recipe(tmp_path, tmp_path))
    later = plain(recipe(tmp_path, tmp_path, budget={"steps": 20}, optimizer={"lr": 1e-3}, data={"accumulate": 2}))
    assert len(compare(began, later)) == 3
    for over in (
        {"model": {"overrides": {"hidden_size": 64}}},
        {"objective": {"mlm": 0.5}},
        {"seed": 1},
        {"data": {"batch": 16}},
        {"data": {"length": 16}},
    ):
        with pytest.raises(UsageError, match=r"cannot change .*(hidden_size|objective.mlm|seed|batch|length)"):
            compare(began, plain(recipe(tmp_path, tmp_path, **over)))


def test_a_run_that_was_begun_with_old_names_of_columns_goes_on(tmp_path):
    now = recipe(tmp_path, tmp_path, data={"columns": {"text": "title"}})
    text = re.sub("^(text|label|second|third) = ", r"\1_column = ", to_toml(now), flags=re.MULTILINE)
    (tmp_path / "old.toml").write_text(text)
    assert 'text_column = "title"' in text
    old = plain(read_recorded(tmp_path / "old.toml"))
    assert compare(old, plain(now)) == []
    with pytest.raises(UsageError, match=r"data\.columns\.text: "):
        compare(old, {**plain(now), "data.columns.text": "body"})
