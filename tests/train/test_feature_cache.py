"""What does not learn is computed once a sample: nothing else of a run changes, whatever happens to the files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import both
from safetensors.torch import load_file
from test_pinned import task_recipe
from trainkit import SHAPE, SHAPES, clm_recipe, recipe, replaced, shas, stop_at, untimed

from pretune.errors import UsageError
from pretune.runtime.signals import SignalError
from pretune.train.feature_cache import FeatureCache
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain

FROZEN: dict[str, Any] = {"frozen": {}}
TOP: dict[str, Any] = {"top": {"layers": 1}}
SAID: dict[str, Any] = {"track": {"every": 2, "report": False}}


def tuned(folder: Path, output: str, tune: dict[str, Any], cache: str = "always", **over: Any) -> Recipe:
    """Twenty steps on 48 texts, three passes and a bit, with dropout everywhere."""
    family = over.pop("family", "bert")
    base = task_recipe(folder, over.pop("task", "classification"), family)
    tree: dict[str, Any] = base.model_dump(mode="json", exclude_none=True)
    tree["model"] = {"family": family, "size": "tiny", "overrides": SHAPES[family], "dropout": 0.1}
    tree |= {"tune": tune, "features": {"cache": cache}, "output": str(folder / output), "budget": {"steps": 20}}
    return replaced(base, **tree | {"checkpoint": {"every": 10}} | over)


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same metrics and ended with the same bits."""
    return untimed(one) == untimed(other) and shas(one, 20) == shas(other, 20)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each method a run that keeps nothing."""
    folder = tmp_path_factory.mktemp("plain")
    for tune in (FROZEN, TOP):
        finetune(tuned(folder, next(iter(tune)), tune, "never"))
    return {name: folder / name for name in ("frozen", "top")}


@pytest.mark.parametrize("tune", [FROZEN, TOP])
def test_a_run_is_the_same_with_it_and_without(
    tmp_path: Path, tune: dict[str, Any], plain: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(tuned(tmp_path, "run", tune, **SAID))
    assert same(plain[next(iter(tune))], tmp_path / "run")
    assert not (tmp_path / "run" / "features").exists()
    said = " ".join(capsys.readouterr().err.split())
    assert "computed once a sample" in said
    assert "layers that do not learn ran for 60 sequences" in said  # 48 that train, and 12 that evaluate


@pytest.mark.parametrize(
    ("family", "tune", "task"),
    [("bert", TOP, "tagging"), ("gpt2", TOP, "classification"), ("xlnet", FROZEN, "classification")],
)
def test_other_families_and_tasks(tmp_path: Path, family: str, tune: dict[str, Any], task: str) -> None:
    for cache in ("never", "always"):
        finetune(tuned(tmp_path, cache, tune, cache, family=family, task=task))
    assert same(tmp_path / "never", tmp_path / "always")


@pytest.mark.parametrize("tune", [FROZEN, TOP])
def test_a_stopped_run_goes_on_with_what_it_has(
    tmp_path: Path, tune: dict[str, Any], plain: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(tmp_path, tune, monkeypatch)
    assert list((tmp_path / "run" / "features").glob("*.index"))
    computed: list[int] = []
    drop = FeatureCache.drop
    monkeypatch.setattr(FeatureCache, "drop", lambda self: (computed.append(self.computed), drop(self)))
    finetune(run)
    assert same(plain[next(iter(tune))], tmp_path / "run")
    assert computed[0] <= 20  # a batch of each sort, where only heads learn: what the model gives is seen anew
    assert not (tmp_path / "run" / "features").exists()


@pytest.mark.parametrize("damage", [b"\xff" * 40_000, None])
def test_damaged_files_are_computed_again(
    tmp_path: Path, damage: bytes | None, plain: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(tmp_path, TOP, monkeypatch)
    (rows,) = (tmp_path / "run" / "features").glob("*.hidden")
    content = rows.read_bytes()
    rows.write_bytes(content[:5000] if damage is None else damage + content[len(damage) :])
    finetune(run)
    assert same(plain["top"], tmp_path / "run")


def stopped(folder: Path, tune: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe of a run that a signal has stopped after ten steps."""
    run = tuned(folder, "run", tune)
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        with pytest.raises(SignalError):
            finetune(run)
    return run


def test_a_full_disk_costs_time_alone(
    tmp_path: Path, plain: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    finetune(tuned(tmp_path, "run", TOP, **SAID))
    assert same(plain["top"], tmp_path / "run")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("features cannot be kept any more (No space left on device)") == 1


def test_what_changes_each_epoch_is_never_kept(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree: dict[str, Any] = {"tune": FROZEN, "budget": {"steps": 30}, "track": {"progress": "auto"}}
    pretrain(replaced(recipe(tmp_path / "run", store, **tree), objective={"mlm": 1.0}))
    assert "mlm changes in each epoch what the model reads" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match=r"features\.cache = always: mlm changes in each epoch"):
        pretrain(replaced(recipe(tmp_path / "no", store, features={"cache": "always"}, **tree), objective={"mlm": 1.0}))
    assert not (tmp_path / "no" / "run.json").exists()


def test_full_and_other_runs_without_a_boundary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune(tuned(tmp_path, "full", {"full": {}}, "auto", **SAID))
    assert "computed" not in capsys.readouterr().err
    with pytest.raises(UsageError, match="the embedding or the first layer learns"):
        finetune(tuned(tmp_path, "no", {"full": {}}))


def test_too_much_is_said_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"cache": "auto", "gigabytes": 1e-6}
    finetune(tuned(tmp_path, "small", TOP, features=small, **SAID))
    assert "it would need about 0.1 MB, and features.gigabytes is 1e-06" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match=r"features\.gigabytes is 1e-06"):
        finetune(tuned(tmp_path, "no", TOP, features={"cache": "always", "gigabytes": 1e-6}))


def test_gradual_unfreezing_keeps_what_never_learns(tmp_path: Path) -> None:
    model = {"family": "bert", "size": "tiny", "overrides": {**SHAPE, "num_hidden_layers": 3}, "dropout": 0.1}
    for cache in ("never", "always"):
        finetune(tuned(tmp_path, cache, {"top": {"layers": 2, "gradual": True}}, cache, model=model))
    assert same(tmp_path / "never", tmp_path / "always")


def test_two_ranks_read_what_either_has_computed(
    tmp_path: Path, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(output: str, accumulate: int) -> Recipe:
        over: dict[str, Any] = {"tune": TOP, "features": {"cache": "always"}, "budget": {"steps": 36}}
        over |= {"evaluation": {"samples": 0}, "checkpoint": {"best": False}, "track": {"progress": "plain"}}
        data = {"batch": 8, "accumulate": accumulate}
        return clm_recipe(tmp_path / output, store, data=data, optimizer={"eps": 1e-3}, **over)

    pretrain(run("one", 4))
    assert "ran for 64 sequences, and 224 times" in capfd.readouterr().err
    codes, messages = both("none", run("two", 2))
    assert codes == [0, 0], messages
    assert "ran for 32 sequences, and 112 times" in capfd.readouterr().err  # half of them on each rank
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=2e-6)
    assert not (tmp_path / "two" / "features").exists()
