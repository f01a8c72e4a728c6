"""A rank that hangs or fails ends all ranks, with its name and the reason; with short times of waiting."""

import sys
from pathlib import Path
from typing import Any

import pytest
from drillkit import HERE

sys.path.insert(0, str(HERE / "train"))
from apartkit import job, rank_folders, run_apart

pytestmark = pytest.mark.drill

PATIENCE = {"BEAT": 0.3, "SILENCE": 3.0, "IDLE": 4.0}
FAULTS = {"stop": 1, "stop first": 0, "sleep": 1, "sleep first": 0, "raise": 1, "memory": 1, "kill": 1}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Path]]:
    """How all ranks ended, for each thing that befalls one of them, and their folders."""
    folder = tmp_path_factory.mktemp("hung")
    places = rank_folders(folder)
    jobs = {}
    for name, rank in FAULTS.items():
        jobs[name] = [{**job(place, name, budget={"steps": 8}), "patience": PATIENCE} for place in places]
        jobs[name][rank] |= {"fault": name.partition(" ")[0], "at": 6}
    return run_apart(folder, jobs), places


@pytest.mark.parametrize("name", ["stop", "stop first", "sleep", "sleep first"])
def test_a_rank_that_hangs_is_named_with_the_stacks_of_all(ended: tuple[dict[str, Any], list[Path]], name: str) -> None:
    actual, rank = ended[0][name], FAULTS[name]
    assert actual["codes"][1 - rank] == 75, actual
    assert actual["codes"][rank] != 0, actual
    assert max(actual["seconds"]) < 60
    text = actual["errors"][1 - rank]
    assert f"rank {rank}" in text
    assert "hang" in text
    assert f"Stacks of rank {1 - rank} of 2" in text
    assert "train/step.py" in text
    assert f"Stacks of rank {rank} of 2" in actual["errors"][rank]
    assert "in faulty" in actual["errors"][rank] or name == "stop first"
    assert ("its state is stopped" in text) == (name == "stop")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raise", "rank 1: ValueError: this rank is broken"),
        ("memory", "rank 1: RuntimeError"),
        ("kill", "rank 1 (process"),
    ],
)
def test_what_one_rank_dies_of_is_said_by_the_other(
    ended: tuple[dict[str, Any], list[Path]], name: str, reason: str
) -> None:
    actual = ended[0][name]
    assert 0 not in actual["codes"], actual
    assert reason in actual["errors"][0], actual
    assert max(actual["seconds"]) < 30


def test_what_was_saved_before_is_there(ended: tuple[dict[str, Any], list[Path]]) -> None:
    for name in FAULTS:
        assert (ended[1][0] / name / "checkpoint-5" / "manifest.json").is_file(), name
