import os
import resource
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pretune import disk
from pretune.disk import problem
from pretune.errors import StorageError
from pretune.train.checkpoint.store import CheckpointStore

SIZES = {"model.safetensors": 3000, "optimizer.safetensors": 6000, "state.json": 200}


def filler(seed):
    def write(folder):
        rng = np.random.default_rng(seed)
        for name, size in SIZES.items():
            (folder / name).write_bytes(rng.bytes(size))

    return write


def test_one_flipped_bit_is_always_found_and_the_previous_one_used(tmp_path):
    checkpoints = CheckpointStore(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, filler(step))
    rng = np.random.default_rng(0)
    files = sorted(checkpoints.path(2).iterdir())
    assert len(files) == 4
    for _ in range(200):
        path = files[int(rng.choice(4, p=[0.25, 0.25, 0.25, 0.25]))]
        good = path.read_bytes()
        bad = bytearray(good)
        bad[int(rng.integers(len(bad)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        newest, rejected = CheckpointStore(tmp_path).newest()
        assert newest == checkpoints.path(1)
        assert len(rejected) == 1
        assert path.name in rejected[0].reason or "manifest" in rejected[0].reason
        path.write_bytes(good)
    assert CheckpointStore(tmp_path).newest() == (checkpoints.path(2), [])


def test_truncated_missing_and_foreign_files_are_found(tmp_path):
    checkpoints = CheckpointStore(tmp_path)
    checkpoints.save(1, filler(1))
    path = checkpoints.path(1) / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert "2999 bytes instead of 3000" in problem(checkpoints.path(1))
    path.unlink()
    assert problem(checkpoints.path(1)) is not None
    path.write_bytes(good)
    (checkpoints.path(1) / "more").write_bytes(b"")
    assert problem(checkpoints.path(1)) is not None
    (checkpoints.path(1) / "more").unlink()
    assert problem(checkpoints.path(1)) is None


def test_a_bad_checkpoint_of_the_same_step_is_replaced(tmp_path):
    checkpoints = CheckpointStore(tmp_path)
    checkpoints.save(1, filler(1))
    (checkpoints.path(1) / "state.json").write_bytes(b"{}")
    checkpoints.save(1, filler(2))
    assert problem(checkpoints.path(1)) is None


@pytest.mark.parametrize("thing", ["file", "link", "lost link"])
def test_what_is_no_checkpoint_but_has_its_name_is_replaced(tmp_path, thing):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    checkpoints = CheckpointStore(tmp_path)
    path = checkpoints.path(1)
    path.touch() if thing == "file" else path.symlink_to(tmp_path / ("elsewhere" if thing == "link" else "nowhere"))
    checkpoints.save(1, filler(1))
    assert problem(path) is None
    assert not path.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-1", "elsewhere"]
    assert os.listdir(tmp_path / "elsewhere") == ["kept"]


def test_prune_keeps_the_last_and_the_best(tmp_path):
    checkpoints = CheckpointStore(tmp_path)
    for step in range(1, 7):
        checkpoints.save(step, filler(step))
    checkpoints.prune(2, best=2)
    assert checkpoints.steps() == [6, 5, 2]


def test_prune_removes_nothing_before_enough_newer_ones_verify(tmp_path):
    for step in (1, 2, 3):
        CheckpointStore(tmp_path).save(step, filler(step))
    (tmp_path / "checkpoint-3" / "state.json").write_bytes(b"")
    fresh = CheckpointStore(tmp_path)
    fresh.prune(2, None)
    assert fresh.steps() == [3, 2, 1]
    fresh.prune(1, None)
    assert fresh.steps() == [3, 2]


@pytest.mark.parametrize("place", ["write", "fsync", "rename", "manifest"])
def test_a_full_disk_leaves_the_previous_one_and_nothing_half_written(tmp_path, monkeypatch, place):
    checkpoints = CheckpointStore(tmp_path)
    checkpoints.save(1, filler(1))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def half(folder):
        filler(2)(folder)
        if place == "write":
            full()

    if place == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    if place == "rename":
        monkeypatch.setattr(type(tmp_path), "rename", full)
    if place == "manifest":
        monkeypatch.setattr(disk, "write_synced", full)
    with pytest.raises(StorageError, match=r"No space left.*Free some space") as caught:
        checkpoints.save(2, half)
    monkeypatch.undo()
    assert caught.value.code == 74
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoint-1"]
    assert checkpoints.newest() == (checkpoints.path(1), [])


def test_a_limit_on_the_size_of_files_is_a_full_disk_too(tmp_path):
    """The real thing, through the writer of safetensors."""
    checkpoints = CheckpointStore(tmp_path)
    checkpoints.save(1, filler(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="too large"):
            checkpoints.save(2, lambda folder: save_file({"a": torch.zeros(100_000)}, folder / "model.safetensors"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoint-1"]


def test_sweep_removes_leftovers_of_killed_processes(tmp_path):
    (tmp_path / ".checkpoint-7.123.abc").mkdir()
    CheckpointStore(tmp_path).remove_incomplete()
    assert not any(tmp_path.iterdir())


def test_files_are_synced_before_the_rename(tmp_path, monkeypatch):
    """What a power loss could still take must not be visible under its final name."""
    events = []
    fsync = os.fsync
    rename = type(tmp_path).rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(type(tmp_path), "rename", lambda a, b: (events.append("rename"), rename(a, b))[1])
    CheckpointStore(tmp_path).save(1, filler(1))
    before = [os.path.basename(event) for event in events[: events.index("rename")]]
    assert before[:4] == ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
    assert before[4].startswith(".checkpoint-1")
    assert events[-1] == str(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-1")


def test_a_run_directory_that_was_removed_has_no_checkpoints(tmp_path):
    """It may vanish between a save and the removal of older checkpoints: no missing input of the user's."""
    checkpoints = CheckpointStore(tmp_path / "gone")
    assert checkpoints.steps() == []
    assert checkpoints.newest() == (None, [])
    checkpoints.prune(2, None)
