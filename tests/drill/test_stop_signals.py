"""SIGTERM, SIGINT, SIGHUP and SIGUSR1 at any call that writes, again at every later one: nothing lost, nothing left."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from drillcases import OUTPUT, STEPS, Material
from drillkit import ALL, HERE, Fault, differences, snapshot

from pretune.config import to_toml
from pretune.runtime.signals import CATCH

sys.path.insert(0, str(HERE / "train"))
from trainkit import make_store, recipe, shas

pytestmark = pytest.mark.drill
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SECONDS = 120.0


def final(folder: Path) -> dict[str, str]:
    """What lies there, but for older checkpoints: which of them are kept depends on where a run was stopped."""
    kept = f"{OUTPUT}/checkpoint-{STEPS}"
    return {
        name: digest
        for name, digest in snapshot(folder).items()
        if not name.startswith(f"{OUTPUT}/checkpoint-") or name.startswith(kept)
    }


@pytest.mark.parametrize("number", CATCH)
@pytest.mark.parametrize("name", ["mlm-nsp", "clm-accumulate", "classification"])
def test_a_run_is_signalled_in_its_writing(name: str, number: int, material: Material, tmp_path: Path) -> None:
    case, chance = material.case(name), random.Random(f"{name}{number}")
    whole, undisturbed = material.whole(case)
    expected = {key: value for key, value in whole.items() if not key.startswith(f"{OUTPUT}/checkpoint-")}
    stopped = 0
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        fault = Fault("signal", chance.randint(1, undisturbed.operations - 1), ALL, number, sticky=True)
        ended = case.run(material.zygote, folder, fault)
        assert ended.code in (0, 128 + number), ended
        assert "Traceback" not in ended.err
        stopped += ended.code != 0
        again = case.run(material.zygote, folder)
        assert again.code == 0, again.err
        actual = {key: value for key, value in final(folder).items() if not key.startswith(f"{OUTPUT}/checkpoint-")}
        assert differences(expected, actual) == []
        assert (
            differences(
                {key: whole[key] for key in whole if f"/checkpoint-{STEPS}" in key},
                {key: value for key, value in final(folder).items() if f"/checkpoint-{STEPS}" in key},
            )
            == []
        )
    assert stopped


@pytest.mark.parametrize("name", ["prepare", "tokenizer-bpe", "export", "embed", "augment"])
def test_other_verbs_end_cleanly_and_can_be_started_again(name: str, material: Material, tmp_path: Path) -> None:
    case, chance = material.case(name), random.Random(name)
    whole, undisturbed = material.whole(case)
    for number in CATCH:
        folder = tmp_path / str(number)
        folder.mkdir()
        at = chance.randint(1, max(1, undisturbed.operations - 2))
        ended = case.run(material.zygote, folder, Fault("signal", at, ALL, number, sticky=True))
        assert ended.code in (0, 128 + number), ended
        if ended.code:
            assert case.run(material.zygote, folder).code in (0, 73)  # it was done, and refuses to do it again
        assert differences(whole, snapshot(folder)) == []


@pytest.fixture(scope="module")
def slow_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of thousands of steps."""
    root = tmp_path_factory.mktemp("slow")
    made = recipe(root / "run", make_store(root / "store"), budget={"steps": 4000}, track={"progress": "auto"})
    (root / "recipe.toml").write_text(to_toml(made))
    return root


def wait_for_steps(run: Path) -> None:
    """Wait until the first metrics are written."""
    end = time.monotonic() + SECONDS
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").stat().st_size:
        assert time.monotonic() < end, "no step was made"
        time.sleep(0.05)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "pretune", *map(str, words)]


def newest(run: Path) -> int:
    return max(int(path.name.partition("-")[2]) for path in run.glob("checkpoint-*"))


def test_a_terminal_that_closes(slow_recipe: Path, tmp_path: Path) -> None:
    """The process gets SIGHUP, and each write to its screen fails from then on."""
    run = tmp_path / "run"
    child, terminal = pty.fork()
    if child == 0:
        words = command("pretrain", slow_recipe / "recipe.toml", "--output", run, "--no-allocator")
        os.execve(sys.executable, words, ENVIRONMENT)
    wait_for_steps(run)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP
    assert json.loads((run / f"checkpoint-{newest(run)}/state.json").read_text())["step"] == newest(run)
    assert not list(run.glob(".checkpoint*"))


def test_a_screen_that_goes_away_without_a_signal(slow_recipe: Path, tmp_path: Path) -> None:
    """As where `tee` dies: the run goes on."""
    run = tmp_path / "run"
    words = command("pretrain", slow_recipe / "recipe.toml", "--output", run, "--budget.steps", 60, "--track.every", 1)
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        wait_for_steps(run)
        process.stderr.close()
        assert process.wait(SECONDS) == 0
    assert newest(run) == 60


def torchrun(folder: Path, words: Sequence[object]) -> subprocess.Popen[bytes]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pretune"]
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            [*start, *map(str, words)], stdout=log, stderr=log, env=ENVIRONMENT, cwd=folder, start_new_session=True
        )


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_one_rank_of_torchrun_is_signalled(number: int, tmp_path: Path) -> None:
    made: dict[str, Any] = {"budget": {"steps": 200}, "evaluation": {"samples": 0}, "checkpoint": {"every": 1000}}
    store = make_store(tmp_path / "store")
    (tmp_path / "recipe.toml").write_text(to_toml(recipe(tmp_path / "x", store, **made)))
    outputs = [tmp_path / name for name in ("stopped", "whole")]
    for output in outputs:
        words = ["pretrain", tmp_path / "recipe.toml", "--output", output, "--no-allocator"]
        process = torchrun(tmp_path, words)
        if output == outputs[0]:
            wait_for_steps(output)
            owner = int((output / ".lock").read_text().split()[1])
            os.kill(owner, number)
            os.kill(owner, number)
            assert process.wait(SECONDS) != 0, (tmp_path / "log").read_text()
            assert 0 < newest(output) < 200
            process = torchrun(tmp_path, words)
        assert process.wait(SECONDS) == 0, (tmp_path / "log").read_text()
    assert shas(outputs[0], 200) == shas(outputs[1], 200)
