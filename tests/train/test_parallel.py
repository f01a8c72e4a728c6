"""Two processes with gloo, started as torchrun does."""

import json

import pytest
import torch
from safetensors.torch import load_file
from trainkit import lines, run_ranks

from pretune.errors import UsageError
from pretune.runtime.distributed import Distributed, join_ranks


@pytest.fixture(scope="module")
def ranks(store, tmp_path_factory):
    """The folder of all runs; exit codes and standard errors of both ranks for each fault."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_ranks(store, folder)


def test_two_ranks_with_two_parts_each_are_one_process(ranks):
    folder, actual = ranks
    assert actual["none"][0] == [0, 0], actual["none"]
    one, two = (load_file(folder / name / "model.safetensors") for name in ("one", "none"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=2e-6)
    stats = [json.loads((folder / name / "data_stats.json").read_text())["training"] for name in ("one", "none")]
    assert stats[0] == stats[1]
    for ours, theirs in zip(lines(folder / "none"), lines(folder / "one"), strict=True):
        assert ours["step"] == theirs["step"]
        for name in ("loss", "loss/mlm", "loss/nsp", "eval/loss", "eval/accuracy/mlm", "grad_norm", "tokens"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


@pytest.mark.parametrize(("fault", "code"), [("kill", -9), ("raise", 1)])
def test_when_one_rank_dies_the_other_ends(ranks, fault, code):
    codes, messages = ranks[1][fault]
    assert codes == [70, code], messages
    assert "another rank ended" in messages[0]
    assert {"raise": "rank 1: ValueError: this rank is broken", "kill": "rank 1 (process"}[fault] in messages[0]


def test_a_signal_to_one_rank_stops_all_in_the_same_step(ranks):
    codes, messages = ranks[1]["term"]
    assert codes == [143, 143], messages
    assert all("after step 5" in text for text in messages)
    assert (ranks[0] / "term/checkpoint-5/manifest.json").exists()


def test_a_bad_input_ends_all_ranks_with_its_code(ranks):
    assert ranks[1]["missing"][0] == [66, 66]


def test_alone_nothing_is_sent():
    with join_ranks("cpu") as distributed:
        assert distributed == Distributed()
        assert distributed.sum([1.0, 2.5]) == [1.0, 2.5]
        assert distributed.broadcast({"a": 1}) == {"a": 1}
        assert distributed.all_gather_object([1]) == [[1]]
        assert distributed.on_main(lambda: 5) == distributed.on_all_ranks(lambda: 5) == 5


def test_half_set_variables_are_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK"), join_ranks("cpu"):
        pass
