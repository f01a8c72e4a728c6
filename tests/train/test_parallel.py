"""Two processes with gloo, started as torchrun does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainkit import lines, recipe

from pretune.errors import UsageError
from pretune.train.parallel import World, world_of
from pretune.train.run import pretrain

WORKER = Path(__file__).parent / "worker.py"


def ranks(store, output, fault="none"):
    """Exit codes and standard errors of two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, WORKER, store, output, fault],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=120)[1] for process in started]
    return [process.returncode for process in started], ended


def test_two_ranks_with_two_parts_each_are_one_process(store, tmp_path):
    codes, said = ranks(store, tmp_path / "two")
    assert codes == [0, 0], said
    pretrain(recipe(tmp_path / "one", store, model={"dropout": 0.0}, optimizer={"eps": 1e-3}))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=2e-6)
    for ours, theirs in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert ours["step"] == theirs["step"]
        for name in ("loss", "loss/mlm", "loss/nsp", "eval/loss", "eval/accuracy/mlm", "grad_norm", "tokens"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


@pytest.mark.parametrize(("fault", "code"), [("kill", -9), pytest.param("raise", 1, marks=pytest.mark.slow)])
def test_when_one_rank_dies_the_other_ends(store, tmp_path, fault, code):
    codes, said = ranks(store, tmp_path / "run", fault)
    assert codes == [70, code]
    assert "rank 0: another rank ended" in said[0]


def test_a_signal_to_one_rank_stops_all_in_the_same_step(store, tmp_path):
    codes, said = ranks(store, tmp_path / "run", "term")
    assert codes == [143, 143], said
    assert all("after step 5" in text for text in said)
    assert (tmp_path / "run/checkpoint-5/manifest.json").exists()


def test_a_bad_input_ends_all_ranks_with_its_code(tmp_path):
    codes, said = ranks(tmp_path / "nowhere", tmp_path / "run")
    assert codes == [66, 66], said


def test_alone_nothing_is_sent():
    with world_of("cpu") as world:
        assert world == World()
        assert world.sum([1.0, 2.5]) == [1.0, 2.5]
        assert world.share({"a": 1}) == {"a": 1}
        assert world.gather([1]) == [[1]]
        assert world.once(lambda: 5) == 5


def test_half_set_variables_are_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK"), world_of("cpu"):
        pass
