import json
import os
import stat

import pytest
from trainkit import recipe

from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.train import directory
from pretune.train.directory import RunDirectory, environment


def test_one_trainer_at_a_time(tmp_path):
    with RunDirectory(tmp_path / "run"):
        with pytest.raises(CannotCreateError, match=f"pid {os.getpid()}") as caught:
            RunDirectory(tmp_path / "run")
        assert caught.value.code == 73
    RunDirectory(tmp_path / "run").close()


def test_a_directory_in_which_nothing_began_is_removed(tmp_path):
    RunDirectory(tmp_path / "run").close()
    assert not any(tmp_path.iterdir())


def test_foreign_directories_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CannotCreateError, match=r"thesis\.tex"):
        RunDirectory(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError):
        RunDirectory(tmp_path / "file" / "run")


def test_facts_recipe_and_changes(tmp_path):
    path = tmp_path / "run"
    data = {"data": {"data.stores[0]": "a" * 64}}
    with RunDirectory(path) as run:
        assert run.begin(recipe(path, tmp_path), data) == []
    facts = json.loads((path / "run.json").read_text())
    assert facts["machine"]["cores"] == os.cpu_count()
    assert facts["versions"]["torch"]
    with RunDirectory(path) as run:
        changes = run.begin(recipe(path, tmp_path, budget={"steps": 20}), data)
    assert changes == ["budget.steps: 10 -> 20"]
    assert json.loads((path / "run.json").read_text())["history"][1]["changes"] == changes
    with RunDirectory(path) as run, pytest.raises(UsageError, match=r"objective\.nsp: 1\.0 -> 0\.5"):
        run.begin(recipe(path, tmp_path, objective={"nsp": 0.5}), data)
    with RunDirectory(path) as run, pytest.raises(DataError, match=r"data.stores\[0\]: the data changed"):
        run.begin(recipe(path, tmp_path), {"data": {"data.stores[0]": "b" * 64}})
    with pytest.raises(CannotCreateError, match="holds a run already"):
        RunDirectory(path, resume=False)


@pytest.mark.parametrize("written", [0, 1])
def test_killed_while_it_begins(tmp_path, monkeypatch, written):
    path, data = tmp_path / "run", {"data": {"data.stores[0]": "a" * 64}}
    left = [directory.replace_file] * written

    def replace_file(*arguments):
        if not left:
            raise KeyboardInterrupt
        left.pop()(*arguments)

    with monkeypatch.context() as patch, RunDirectory(path) as run:
        patch.setattr(directory, "replace_file", replace_file)
        with pytest.raises(KeyboardInterrupt):
            run.begin(recipe(path, tmp_path), data)
    with RunDirectory(path) as run:
        assert run.begin(recipe(path, tmp_path), data) == []
    with RunDirectory(path) as run, pytest.raises(DataError, match="the data changed"):
        run.begin(recipe(path, tmp_path), {"data": {"data.stores[0]": "b" * 64}})


def test_facts_that_are_gone_do_not_unlock_the_data(tmp_path):
    path = tmp_path / "run"
    with RunDirectory(path) as run:
        run.begin(recipe(path, tmp_path), {"data": {"data.stores[0]": "a" * 64}})
    (path / "run.json").unlink()
    (path / "checkpoint-2").mkdir()
    with RunDirectory(path) as run, pytest.raises(DataError, match="the data changed"):
        run.begin(recipe(path, tmp_path), {"data": {"data.stores[0]": "b" * 64}})


def test_the_commit_is_recorded_packed_or_not(tmp_path, monkeypatch):
    (tmp_path / ".git/refs/heads").mkdir(parents=True)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git/packed-refs").write_text(f"# pack-refs\n{'a' * 40} refs/heads/main\n")
    assert environment()["git"] == "a" * 40
    (tmp_path / ".git/refs/heads/main").write_text("b" * 40 + "\n")
    assert environment()["git"] == "b" * 40
    (tmp_path / ".git/HEAD").write_text("c" * 40 + "\n")
    assert environment()["git"] == "c" * 40


def test_what_was_measured_once_stays(tmp_path):
    path = tmp_path / "run"
    with RunDirectory(path) as run:
        run.begin(recipe(path, tmp_path, precision="bf16", threads=3), {})
    with RunDirectory(path) as run:
        found = run.resolve_recipe(recipe(path, tmp_path, precision="auto", threads=None))
    assert (found.precision, found.threads) == ("bf16", 3)


def test_files_are_readable_by_others(tmp_path):
    with RunDirectory(tmp_path / "run") as run:
        run.begin(recipe(tmp_path / "run", tmp_path), {})
    assert stat.S_IMODE((tmp_path / "run/recipe.toml").stat().st_mode) & 0o444
