"""Runs that are stopped again and again, started twice, whose clock jumps or whose directory vanishes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from drillcases import OUTPUT, STEPS, Case, Material
from drillkit import HERE, Fault, differences, snapshot
from test_faults import last_checkpoint

STOPPER = HERE / "drill" / "stopper.py"
JUMPER = HERE / "drill" / "jumper.py"


def folder_of(parent: Path, name: str) -> Path:
    """A new folder."""
    path = parent / name
    path.mkdir()
    return path


def command(case: Case) -> list[str]:
    """A case's command line."""
    return [*case.arguments, case.flag, OUTPUT]


def stopped_at_each_step(material: Material, case: Case, number: int, folder: Path) -> list[str]:
    """Stop a run by a signal in each of its steps, and start it again; what differs in the end."""
    stops = 0
    while True:
        # Not in the last: its checkpoint is made before its evaluation then, and that is what it says.
        ended = material.zygote.run(int(number), STEPS - 1, *command(case), folder=folder, script=STOPPER)
        if ended.code != 128 + number:
            break
        stops += 1
        assert stops < 20, "it never ends"
    assert ended.code == 0, ended.err
    assert stops >= STEPS - 2
    whole, left = last_checkpoint(material.whole(case)[0]), last_checkpoint(snapshot(folder))
    return differences(whole, left)


@pytest.mark.drill
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("name", ["mlm-nsp", "clm-accumulate", "cert", "classification"])
def test_preempted_in_every_step_it_ends_with_the_same_bits(material, tmp_path, name, number):
    assert stopped_at_each_step(material, material.case(name), number, folder_of(tmp_path, "run")) == []


def test_a_preempted_run_loses_no_step(material, tmp_path):
    assert stopped_at_each_step(material, material.case("plm"), signal.SIGTERM, folder_of(tmp_path, "run")) == []


@pytest.mark.drill
@pytest.mark.parametrize("name", ["mlm-nsp", "prepare", "tokenizer-bpe", "export", "augment"])
def test_of_many_at_once_one_goes_on(material, tmp_path, name):
    """C10: all but one are refused, or come when it is done; the result is whole in each case."""
    case = material.case(name)
    whole, _ = material.whole(case)
    for n in range(5):
        folder = folder_of(tmp_path, str(n))
        ended = [running.wait(120.0) for running in [case.start(material.zygote, folder) for _ in range(4)]]
        codes = [each.code for each in ended]
        assert set(codes) <= {0, 73}, [each.err for each in ended]
        assert 0 in codes
        refusals = [each.err for each in ended if each.code]
        assert all("another process" in text or "exists already" in text for text in refusals), refusals
        assert differences(whole, snapshot(folder)) == []


@pytest.mark.drill
def test_of_two_trainers_one_goes_on(material, tmp_path):
    case, folder = material.case("plm"), folder_of(tmp_path, "run")
    slow = Fault("sleep", 1, ["sync"], 100, sticky=True)
    first = case.start(material.zygote, folder, slow)
    while not (folder / OUTPUT / "recipe.toml").exists():
        time.sleep(0.01)
    second = case.run(material.zygote, folder)
    assert second.code == 73
    assert f"pid {first.pid}" in second.err
    assert first.wait(120.0).code == 0
    assert differences(material.whole(case)[0], snapshot(folder)) == []


@pytest.mark.drill
@pytest.mark.parametrize("name", ["mlm-nsp", "cert"])
def test_a_clock_that_jumps_changes_nothing(material, tmp_path, name):
    case, folder = material.case(name), folder_of(tmp_path, "run")
    assert material.zygote.run(*command(case), folder=folder, script=JUMPER).code == 0
    assert differences(material.whole(case)[0], snapshot(folder)) == []


@pytest.mark.drill
@pytest.mark.parametrize("moment", [-(2**30), 2**32])
def test_times_of_files_decide_nothing(material, tmp_path, moment):
    """A disk copied without its times, or written by a machine whose clock was wrong."""
    case, folder = material.case("mlm-nsp"), folder_of(tmp_path, "run")
    _, undisturbed = material.whole(case)
    case.run(material.zygote, folder, Fault("kill", undisturbed.operations // 2))
    for path in folder.rglob("*"):
        os.utime(path, (time.time() + moment, time.time() + moment))
    assert case.run(material.zygote, folder).code == 0
    assert differences(material.whole(case)[0], snapshot(folder)) == []


def vanish(material: Material, folder: Path, after: float) -> None:
    """Remove a run's directory while it trains; it says so, and what it trains is saved, by this run or the next."""
    case = material.case("plm")
    at = int(material.calls(case, ("sync",)) * after)
    words = [each for each in case.arguments if each != "--quiet"]
    loud = replace(case, arguments=[*words, "--track.progress", "plain"])
    running = loud.start(material.zygote, folder, Fault("sleep", at, ["sync"], 400))
    while not (folder / OUTPUT / "recipe.toml").exists():
        time.sleep(0.005)
    time.sleep(after)
    shutil.rmtree(folder / OUTPUT, ignore_errors=True)
    ended = running.wait(120.0)
    assert ended.code in (0, 73, 74), ended.err
    assert ended.code or "removed while training" in ended.err or not (folder / OUTPUT).exists(), ended.err
    assert "Traceback" not in ended.err
    assert "bug" not in ended.err
    if ended.code or not (folder / OUTPUT).exists():  # that is, it went after the last call
        assert not ended.code or OUTPUT in ended.err
        again = case.run(material.zygote, folder)
        assert again.code == 0, again.err
    name = f"{OUTPUT}/model.safetensors"
    assert snapshot(folder)[name] == material.whole(case)[0][name]


@pytest.mark.drill
@pytest.mark.parametrize("after", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_directory_that_vanishes_is_not_silent(material, tmp_path, after):
    vanish(material, folder_of(tmp_path, "run"), after)
