import json
import os
import shutil
import stat

import pytest
from diskkit import mounted, unwritable
from trainkit import lines, recipe

from pretune.errors import CannotCreateError, DataError, StorageError, UsageError
from pretune.report.report import write_report
from pretune.seals import sealed_bytes, unsealed_bytes
from pretune.train import directory, run
from pretune.train.directory import RunDirectory, environment
from pretune.train.logging.trackers import MetricsFile


def test_one_trainer_at_a_time(tmp_path):
    with RunDirectory(tmp_path / "run"):
        with pytest.raises(CannotCreateError, match=f"pid {os.getpid()}") as caught:
            RunDirectory(tmp_path / "run")
        assert caught.value.code == 73
    RunDirectory(tmp_path / "run").close()


def test_a_directory_in_which_nothing_began_is_removed(tmp_path):
    RunDirectory(tmp_path / "run").close()
    assert not any(tmp_path.iterdir())


def test_an_empty_one_of_the_user_stays(tmp_path):
    (tmp_path / "run").mkdir()
    RunDirectory(tmp_path / "run").close()
    assert [entry.name for entry in tmp_path.rglob("*")] == ["run"]


def test_a_volume_of_its_own_is_an_empty_directory(tmp_path):
    """A new disk holds lost+found."""
    (tmp_path / "run" / "lost+found").mkdir(parents=True)
    with RunDirectory(tmp_path / "run") as owner:
        owner.begin(recipe(tmp_path / "run", tmp_path), {})


def test_what_cannot_be_saved_is_told_before_anything_is_read(tmp_path):
    (tmp_path / "run").mkdir()
    with mounted(tmp_path / "run", "nr_inodes=3"), pytest.raises(StorageError, match=r"run: cannot .*No space left"):
        RunDirectory(tmp_path / "run")
    with unwritable(tmp_path), RunDirectory(tmp_path / "run") as owner:
        owner.begin(recipe(tmp_path / "run", tmp_path), {})
    assert sorted(os.listdir(tmp_path / "run")) == ["recipe.toml", "run.json"]


def test_what_killed_processes_left_goes(tmp_path):
    """Of this version and of older ones, which left a whole copy of the model beside the run."""
    left = [".run.json.partial", ".recipe.toml.123", ".report.html.7", ".checkpoint-old.12ab34cd/x", ".partial/a"]
    for name in (*(f"run/{name}" for name in left), ".run.0123456789ab.partial/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".other.0123456789ab.partial").mkdir()
    (tmp_path / "run" / ".notes").touch()
    with RunDirectory(tmp_path / "run"):
        pass
    there = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert there == [".other.0123456789ab.partial", "run", "run/.notes"]


def test_a_directory_that_is_removed_while_training_is_made_again(tmp_path):
    path = tmp_path / "run"
    with RunDirectory(path) as owner:
        owner.begin(recipe(path, tmp_path), {})
        metrics = MetricsFile(path)
        metrics.log(1, {"loss": 2.0})
        before = {name: (path / name).read_bytes() for name in ("recipe.toml", "run.json")}
        assert owner.keep() is None
        shutil.rmtree(path)
        assert "was removed while training" in owner.keep()
        assert owner.keep() is None
        metrics.log(2, {"loss": 1.0})
        assert metrics.flush() == (path / "metrics.jsonl").stat().st_size
        metrics.close()
        assert {name: (path / name).read_bytes() for name in before} == before
        assert [line["step"] for line in lines(path)] == [1, 2]
        with pytest.raises(CannotCreateError, match="trains there"):
            RunDirectory(path)


def test_a_lock_that_is_removed_while_training_is_made_again(tmp_path):
    path = tmp_path / "run"
    with RunDirectory(path) as owner:
        owner.begin(recipe(path, tmp_path), {})
        (path / ".lock").unlink()
        note = owner.keep()
        assert ".lock was removed while training" in note
        assert "lost" not in note
        assert owner.keep() is None
        with pytest.raises(CannotCreateError, match="trains there"):
            RunDirectory(path)


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
    with RunDirectory(path) as owner:
        assert owner.begin(recipe(path, tmp_path), data) == []
    facts = json.loads((path / "run.json").read_text())
    assert facts["machine"]["cores"] == os.cpu_count()
    assert facts["versions"]["torch"]
    with RunDirectory(path) as owner:
        changes = owner.begin(recipe(path, tmp_path, budget={"steps": 20}), data)
    assert changes == ["budget.steps: 10 -> 20"]
    assert json.loads((path / "run.json").read_text())["history"][1]["changes"] == changes
    recorded = unsealed_bytes((path / "recipe.toml").read_bytes())
    older = recorded.replace(b"\ntext = ", b"\ntext_column = ").replace(b"\nlabel = ", b"\nlabel_column = ")
    assert older != recorded
    (path / "recipe.toml").write_bytes(sealed_bytes(older))
    with RunDirectory(path) as owner:
        assert owner.begin(recipe(path, tmp_path, budget={"steps": 20}), data) == [], "as an older build named it"
    with RunDirectory(path) as owner, pytest.raises(UsageError, match=r"objective\.nsp\.weight: 1\.0 -> 0\.5"):
        owner.begin(recipe(path, tmp_path, objective={"nsp": 0.5}), data)
    with RunDirectory(path) as owner, pytest.raises(DataError, match=r"data.stores\[0\]: the data changed"):
        owner.begin(recipe(path, tmp_path), {"data": {"data.stores[0]": "b" * 64}})
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

    with monkeypatch.context() as patch, RunDirectory(path) as owner:
        patch.setattr(directory, "replace_file", replace_file)
        with pytest.raises(KeyboardInterrupt):
            owner.begin(recipe(path, tmp_path), data)
    with RunDirectory(path) as owner:
        assert owner.begin(recipe(path, tmp_path), data) == []
    with RunDirectory(path) as owner, pytest.raises(DataError, match="the data changed"):
        owner.begin(recipe(path, tmp_path), {"data": {"data.stores[0]": "b" * 64}})


def test_facts_that_are_gone_do_not_unlock_the_data(tmp_path):
    path = tmp_path / "run"
    with RunDirectory(path) as owner:
        owner.begin(recipe(path, tmp_path), {"data": {"data.stores[0]": "a" * 64}})
    (path / "run.json").unlink()
    (path / "checkpoint-2").mkdir()
    with RunDirectory(path) as owner, pytest.raises(DataError, match="the file is missing"):
        owner.begin(recipe(path, tmp_path), {"data": {"data.stores[0]": "b" * 64}})


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
    with RunDirectory(path) as owner:
        owner.begin(recipe(path, tmp_path, precision="bf16", threads=3), {})
    with RunDirectory(path) as owner:
        actual = owner.resolve_recipe(recipe(path, tmp_path, precision="auto", threads=None))
    assert (actual.precision, actual.threads) == ("bf16", 3)


def test_files_are_readable_by_others(tmp_path):
    with RunDirectory(tmp_path / "run") as owner:
        owner.begin(recipe(tmp_path / "run", tmp_path), {})
    assert stat.S_IMODE((tmp_path / "run/recipe.toml").stat().st_mode) & 0o444


CONSTANT = {"kind": "constant", "warmup": 0.0, "decay": 0.0}


def test_a_finished_run_does_not_state_what_was_not_done(tmp_path, store, capsys):
    """It trained nothing, said "finished", and recipe.toml and report then stated the new learning rate."""
    path = tmp_path / "run"
    run.pretrain(recipe(path, store, budget={"steps": 4}, schedule=CONSTANT))
    before = (path / "recipe.toml").read_bytes()
    with pytest.raises(UsageError, match=r"has finished \(4 steps\).*optimizer.lr: 0.0005 -> 0.01.*Raise the budget"):
        run.pretrain(recipe(path, store, budget={"steps": 4}, optimizer={"lr": 0.01}, schedule=CONSTANT))
    for over in ({"budget": {"steps": 3}}, {"budget": {"steps": 4}, "evaluation": {"samples": 8}}):
        with pytest.raises(UsageError, match="nothing would be trained with what changed"):
            run.pretrain(recipe(path, store, schedule=CONSTANT, **over))
    assert (path / "recipe.toml").read_bytes() == before
    capsys.readouterr()
    run.pretrain(recipe(path, store, budget={"steps": 4}, schedule=CONSTANT, track={"progress": "plain"}))
    assert "finished already at step 4; nothing to train" in capsys.readouterr().err
    run.pretrain(recipe(path, store, budget={"steps": 8}, optimizer={"lr": 0.01}, schedule=CONSTANT))
    assert [line["lr"] for line in lines(path) if "lr" in line] == [5e-4, 5e-4, 0.01, 0.01]
    text = (path / "recipe.toml").read_text()
    assert "# from step 4 on, optimizer.lr: 0.0005 -> 0.01\n" in text
    facts = json.loads((path / "run.json").read_text())
    assert facts["history"][-1]["step"] == 4
    assert (facts["finished_before"]["steps"], facts["finished"]["steps"]) == (4, 8)


def test_a_finished_run_without_checkpoints_is_left_as_it_is(tmp_path, store):
    path = tmp_path / "run"
    run.pretrain(recipe(path, store, budget={"steps": 2}))
    for checkpoint in path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    weights = (path / "model.safetensors").read_bytes()
    for steps in (2, 4):
        with pytest.raises(CannotCreateError, match="its checkpoints are gone"):
            run.pretrain(recipe(path, store, budget={"steps": steps}))
    assert (path / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("loss", ["damaged", "removed"])
def test_a_finished_run_without_its_last_checkpoint_says_that_it_trains_again(loss, tmp_path, store, capsys):
    """Steps 3 and 4 were trained once more, and the end said that nothing was trained."""
    path, over = tmp_path / "run", {"budget": {"steps": 4}, "checkpoint": {"every": 2}, "evaluation": {"samples": 0}}
    run.pretrain(recipe(path, store, **over))
    weights = (path / "model.safetensors").read_bytes()
    if loss == "damaged":
        with (path / "checkpoint-4/model.safetensors").open("r+b") as file:
            file.seek(-3, 2)
            file.write(b"x")
    else:
        shutil.rmtree(path / "checkpoint-4")
    run.pretrain(recipe(path, store, **over, track={"progress": "plain"}))
    said = capsys.readouterr().err
    assert "resumed from checkpoint-2" in said
    assert "\nfinished: 4 steps" in said
    assert "nothing to train" not in said
    facts = json.loads((path / "run.json").read_text())
    assert (facts["finished_before"]["steps"], facts["finished"]["steps"]) == (4, 4)
    assert (path / "model.safetensors").read_bytes() == weights
    run.pretrain(recipe(path, store, **over, track={"progress": "plain"}))
    assert "finished already at step 4; nothing to train" in capsys.readouterr().err


def test_screen_report_and_file_speak_of_the_same_weights(tmp_path, store, capsys):
    """Tiles were of the last step and the saved model of the best."""
    path, over = tmp_path / "run", {"every": 1, "samples": 16, "keep": "best"}
    rest = {"optimizer": {"lr": 0.3}, "budget": {"steps": 5}}
    run.pretrain(recipe(path, store, evaluation=over, track={"progress": "plain"}, **rest))
    finished = json.loads((path / "run.json").read_text())["finished"]
    step, best = finished["weights_of_step"], finished["best"]
    losses = {line["step"]: line["eval/loss"] for line in lines(path) if "eval/loss" in line}
    assert step < 5
    assert (best, best) == (losses[step], min(losses.values()))
    assert f"the weights of step {step}, the best by loss ({best:.4f})" in capsys.readouterr().err
    page = write_report(path).read_text()
    tile = f"<b>{best:.3f}</b><span>validation loss</span><small>validation, step {step} (saved)</small>"
    assert tile in page
    run.pretrain(recipe(path, store, evaluation={**over, "keep": "last"}, **rest))
    assert f"<b>{losses[5]:.3f}</b><span>validation loss</span>" in write_report(path).read_text()
