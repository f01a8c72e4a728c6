"""A run goes on as what it began as: objectives, task, method, optimizer, data and the user's own code are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trainkit import home_recipe, recipe, replaced, stop_at

from pretune import find
from pretune.errors import DataError, UsageError
from pretune.find import source_digests
from pretune.runtime.signals import SignalError
from pretune.train.recipe import Recipe, plain
from pretune.train.recipe_changes import compare
from pretune.train.run import pretrain

OBJECTIVE = """
from pretune.objectives.mlm import MaskedLanguageModelling


class Mine(MaskedLanguageModelling):
    name = "mlm"
"""


def interrupted(monkeypatch: pytest.MonkeyPatch, begun: Recipe) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SignalError):
            pretrain(begun)


def test_an_objective_without_settings_is_compared(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = home_recipe("denoise", tmp_path / "run", store)
    begun = replaced(begun, objective={"denoise": {}})
    interrupted(monkeypatch, begun)
    with pytest.raises(UsageError, match=r'objective: \["denoise"\] -> \["prefix"\]'):
        pretrain(replaced(begun, objective={"prefix": {}}))
    assert "denoise" in (tmp_path / "run/recipe.toml").read_text()


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ({"objective": {"mlm": {}, "nsp": {}}}, {"objective": {"mlm": {}}}, "objective"),
        ({"objective": {"mlm": {}, "nsp": {}}}, {"objective": {"nsp": {}, "mlm": {}}}, "objective"),
        ({"objective": {"simcse": {}}}, {"objective": {"cert": {}}}, "objective"),
        ({"objective": {"mlm": {}}}, {"objective": {"mlm": {}}, "task": {"classification": {}}}, "task"),
        ({"task": {"classification": {}}}, {"task": {"similarity": {}}}, "task"),
        ({"tune": {"full": {}}}, {"tune": {"frozen": {}}}, "tune"),
    ],
)
def test_variants_are_compared_by_name(
    before: dict[str, Any], after: dict[str, Any], field: str, tmp_path: Path
) -> None:
    base = recipe(tmp_path / "run", tmp_path / "store").model_dump(mode="json")
    base["objective"] = {} if "task" in before else base["objective"]
    base["data"]["train"], base["data"]["stores"] = (["a.csv"], []) if "task" in before else ([], ["store"])
    first, second = (Recipe.model_validate({**base, **over}) for over in (before, after))
    with pytest.raises(UsageError, match=rf"{field}: \["):
        compare(plain(first), plain(second))
    assert compare(plain(first), plain(first)) == []


def test_another_optimizer_begins_anew_and_says_so(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = recipe(tmp_path / "run", store, track={"progress": "plain", "report": False})
    for first, second in (("adamw", "muon"), ("muon", "adamw")):
        begun = replaced(begun, output=str(tmp_path / first), optimizer={"name": first})
        interrupted(monkeypatch, begun)
        capsys.readouterr()
        pretrain(replaced(begun, optimizer={"name": second}))
        text = capsys.readouterr().err
        assert f"{second} starts anew: the state is {first}'s" in text
        assert f'optimizer.name: "{first}" -> "{second}"' in text


def test_code_that_a_user_file_brings_is_compared(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(tmp_path / "mine.py")
    Path(name).write_text(OBJECTIVE)
    begun = recipe(tmp_path / "run", store, track={"progress": "plain", "report": False})
    begun = replaced(begun, objective={name: 1.0})
    interrupted(monkeypatch, begun)
    digest = json.loads((tmp_path / "run/run.json").read_text())["code"][name]
    assert source_digests([f"{name}:Mine", "mlm"]) == {name: digest}
    monkeypatch.setitem(find._sources, name, "0" * 64)
    capsys.readouterr()
    pretrain(begun)
    assert f"changed since the run began: {name}: {digest[:12]} -> 000000000000" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/run.json").read_text())["history"][-1]["changes"]


def test_a_missing_run_json_is_called_missing(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = recipe(tmp_path / "run", store)
    interrupted(monkeypatch, begun)
    (tmp_path / "run/run.json").unlink()
    with pytest.raises(DataError, match=r"run\.json: the file is missing"):
        pretrain(begun)
