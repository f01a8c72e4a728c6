"""`pretune init`: recipes by flags or by questions, which are read as they are written."""

from __future__ import annotations

import io
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pretune.cli import main
from pretune.config import load
from pretune.train.recipe import Recipe


class Terminal(io.StringIO):
    """Standard input of a person who answers."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, labelled files, a token store: all that a recipe names, but for what is in them."""
    monkeypatch.chdir(tmp_path)
    for name, architecture in (("bert", "BertForPreTraining"), ("gpt", "GPT2LMHeadModel")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (tmp_path / "my store").mkdir()
    (tmp_path / "my store/manifest.json").write_text("{}")
    (tmp_path / "train.csv").write_text("id,Review,category\n1,good,a\n")
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))


def values(path: str = "recipe.toml") -> dict[str, Any]:
    return tomllib.loads(Path(path).read_text())


def test_a_file_without_a_header_row_has_its_columns_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bare.tsv").write_text("a fine film\t1\na bad film\t0\n")
    words = ["init", "classification", "--model", "bert", "--train", "bare.tsv"]
    assert main([*words, "--text", "text", "--label", "label"]) == 64
    assert "if the file has no header row, name its columns in order, as in --columns text,label" in (
        capsys.readouterr().err
    )
    assert main([*words, "--columns", "text,label"]) == 0
    columns = load(Recipe, Path("recipe.toml")).data.columns
    assert (columns.text, columns.label, columns.columns) == ("text", "label", ("text", "label"))


def test_flags_alone_write_a_recipe_with_comments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "classification", "--model", "bert", "--train", "train.csv"]) == 0
    recipe = load(Recipe, Path("recipe.toml"))
    assert (recipe.model.init, recipe.data.train) == ("bert", ("train.csv",))
    assert (recipe.data.columns.text, recipe.data.columns.label) == ("Review", "category")  # by their usual names
    bare = Recipe.model_validate({"task": "classification", "model": {"init": "bert"}})
    assert (recipe.budget, recipe.optimizer, recipe.data.length) == (bare.budget, bare.optimizer, bare.data.length)
    lines = Path("recipe.toml").read_text().splitlines()
    assert lines[0].startswith("# classification: ")
    assert any(line.startswith("# class_weights = ") for line in lines)
    for line in lines:
        if line.startswith("# ") and " = " in line:
            assert line.count("#") == 2  # a proposed field says what it is for
    assert "written: recipe.toml\nnext:\n  pretune show recipe.toml" in capsys.readouterr().err
    assert main(["init", "classification", "--model", "bert", "--train", "train.csv"]) == 73


def test_pretraining_takes_the_family_of_its_objective() -> None:
    words = ["init", "pretraining", "--stores", "my store", "--output"]
    assert main([*words, "a.toml"]) == 0
    assert values("a.toml")["model"] == {"family": "bert", "size": "mini"}
    assert main([*words, "b.toml", "--objective", "clm", "--size", "nano", "--run", "out"]) == 0
    assert (values("b.toml")["model"], values("b.toml")["output"]) == ({"family": "gpt2", "size": "nano"}, "out")
    assert values("b.toml")["data"]["stores"] == ["my store"]
    assert load(Recipe, Path("b.toml")).objective.keys() == {"clm"}


@pytest.mark.parametrize(("model", "objective"), [("bert", "mlm"), ("gpt", "clm")])
def test_a_model_goes_on_with_what_it_was_trained_for(model: str, objective: str) -> None:
    assert main(["init", "continued-pretraining", "--model", model, "--stores", "my store"]) == 0
    recipe = load(Recipe, Path("recipe.toml"))
    assert (recipe.model.init, list(recipe.objective)) == (model, [objective])


def test_what_no_flag_says_is_asked_until_it_is_good(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(
        monkeypatch, "clasification", "", "bret", "bert", "none.csv", "train.csv", "", "nothing", "id", "", "", "cls"
    )
    assert main(["init"]) == 0
    said = capsys.readouterr().err
    assert "a model learns the labels of your texts" in said
    assert "did you mean 'classification'?" in said
    assert "did you mean 'bert'?" in said
    assert "none.csv: no such file" in said
    assert "Column of the texts? (id, Review, category) (Review) " in said
    assert "'nothing' is none of the columns; known: id, Review, category; if the file has no header" in said
    assert values()["data"]["columns"] == {"text": "Review", "label": "id"}
    assert values()["output"] == "cls"


def test_what_is_bad_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tuning = ["init", "classification", "--model", "bert"]
    for words, code, message in (
        (["init"], 64, "init: say what the recipe is for: classification, pretraining, continued-pretraining"),
        (["init", "classification", "--model", ""], 64, "init: --model is missing"),
        (["init", "pretraining"], 66, "store: no token store here; make one with `pretune prepare`"),
        (tuning, 64, "init: --train is missing; give it, or run init on a terminal"),
        ([*tuning, "--train", "none.csv"], 66, "none.csv: no such file"),
        (
            [*tuning, "--train", "train.csv", "--label", "lable"],
            64,
            "init: label 'lable' is none of the columns; known: id, Review",
        ),
        (
            [*tuning, "--train", "train.csv", "--size", "mini"],
            64,
            "--size mini: a recipe for classification has no use",
        ),
        (["init", "classification", "--model", "bert-base-uncased"], 66, "hf download bert-base-uncased"),
        (["init", "pretraining", "--stores", "my store", "--objective", "mml"], 64, "did you mean 'mlm'?"),
    ):
        assert main(words) == code, words
        assert message in capsys.readouterr().err
        assert not Path("recipe.toml").exists()
    answer(monkeypatch, "classification")
    assert main(["init"]) == 64
    assert "the answers ended before all was answered" in capsys.readouterr().err
