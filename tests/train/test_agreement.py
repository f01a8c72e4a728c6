"""Ranks in folders of their own: they read and compute the same, or none begins."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from apartkit import job, rank_folders, run_apart
from safetensors.torch import load_file
from trainkit import make_store

OWN = """
from pretune.objectives.mlm import MaskedLanguageModelling

class Mine(MaskedLanguageModelling):
    name = "mine"
    # {}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """How each disagreement ended, and the folder of all ranks."""
    folder = tmp_path_factory.mktemp("apart")
    first, second = rank_folders(folder)
    jobs = {"none": [job(first, "none"), job(second, "none", threads=1)]}
    make_store(second / "other", documents=61)
    jobs["store"] = [job(first, "store-run"), job(second, "store-run")]
    shutil.copytree(first / "store", first / "other")
    for ours in jobs["store"]:
        ours["recipe"]["data"]["stores"] = ["other"]
    damaged = shutil.copytree(second / "store", second / "damaged")
    shutil.copytree(first / "store", first / "damaged")
    shard = damaged / "train-tokens-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 4
    shard.write_bytes(content)
    jobs["damaged"] = [job(first, "damaged-run"), job(second, "damaged-run")]
    for ours in jobs["damaged"]:
        ours["recipe"]["data"]["stores"] = ["damaged"]
    jobs["recipe"] = [job(first, "recipe-run"), job(second, "recipe-run", optimizer={"lr": 3e-3})]
    jobs["code"] = []
    for place in (first, second):
        (place / "mine.py").write_text(OWN.format(place.name))
        jobs["code"].append(job(place, "code-run"))
        jobs["code"][-1]["recipe"]["objective"] = {"mine.py:Mine": {}}
    return run_apart(folder, jobs), first


def test_ranks_that_agree_train(ended: tuple[dict[str, Any], Path]) -> None:
    assert ended[0]["none"]["codes"] == [0, 0], ended[0]["none"]
    assert load_file(ended[1] / "none" / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("store", 65, ("rank 1 differs from rank 0", "data.stores[0]", "copy those of rank 0")),
        ("recipe", 64, ("rank 1 differs from rank 0", "optimizer.lr is 0.003, not")),
        ("code", 64, ("rank 1 differs from rank 0", "mine.py")),
    ],
)
def test_ranks_that_differ_end_before_the_first_step(
    ended: tuple[dict[str, Any], Path], name: str, code: int, words: tuple[str, ...]
) -> None:
    actual = ended[0][name]
    assert actual["codes"] == [code, code], actual
    for text in actual["errors"]:
        assert all(word in text for word in words), text
    assert not (ended[1] / f"{name}-run" / "metrics.jsonl").exists()


def test_a_damaged_store_of_any_rank_is_noticed(ended: tuple[dict[str, Any], Path]) -> None:
    actual = ended[0]["damaged"]
    assert actual["codes"] == [65, 65], actual
    assert "rank 1: damaged/train-tokens-00000.npy" in actual["errors"][0]
    assert "train-tokens-00000.npy" in actual["errors"][1]
