"""SIGKILL at any call and at any time: started again until it is done, a verb leaves the same bits and nothing else."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from drillcases import FILES, FOLDERS, OUTPUT, TRAINING, Case, Material
from drillkit import Fault, differences, elsewhere, mounted, snapshot

DISKS = ("plain", "mount", "link", "closed-parent")


@contextmanager
def disk(name: str, folder: Path) -> Iterator[Path]:
    """A folder for a case, whose output is a plain folder, a mounted disk, a link to one, or cannot be made beside."""
    folder.mkdir()
    output = folder / OUTPUT
    if name == "plain":
        yield folder
    elif name == "mount":
        for _ in mounted(output):
            yield folder
    elif name == "link":
        output.symlink_to(elsewhere())
        try:
            yield folder
        finally:
            shutil.rmtree(output.resolve())
    else:
        output.mkdir()
        try:
            if subprocess.run(["chattr", "+i", folder], capture_output=True, check=False).returncode:
                pytest.skip("folders cannot be closed here")
            yield folder
        finally:
            subprocess.run(["chattr", "-i", folder], check=True)


def left(folder: Path) -> dict[str, str]:
    """A snapshot in which the output is a folder, also where it is a link to one."""
    output = folder / OUTPUT
    return snapshot(folder) | ({OUTPUT: "folder"} | _inside(output) if output.is_symlink() else {})


def _inside(output: Path) -> dict[str, str]:
    return {f"{OUTPUT}/{name}": digest for name, digest in snapshot(output.resolve()).items()}


def kill_until_done(material: Material, case: Case, folder: Path, chance: random.Random) -> tuple[int, list[str]]:
    """Run a case, killed once to three times; how many kills there were, and what differs in the end."""
    whole, undisturbed = material.whole(case)
    kills = 0
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if chance.random() < 0.5:
            fault = Fault(
                "kill", chance.randint(1, undisturbed.operations), folders=(folder, (folder / OUTPUT).resolve())
            )
            ended = case.run(material.zygote, folder, fault)
        else:
            running = case.start(material.zygote, folder)
            time.sleep(chance.uniform(0.0, undisturbed.seconds))
            running.kill()
            ended = running.wait()
        if ended.code != -signal.SIGKILL:
            break
        kills += 1
    if ended.code or case.trains:
        ended = case.run(material.zygote, folder)
    wrong = differences(whole, left(folder))
    if ended.code and (wrong or "exists already" not in ended.err):  # killed after its last call: it was done
        wrong.insert(0, f"rc {ended.code}: {ended.err.strip()[-300:]}")
    return kills, wrong


def drill(material: Material, name: str, disk_name: str, folder: Path, count: int, seed: int) -> None:
    """Kill a case as many times as asked for; all that differed is the message of the failure."""
    case, chance = material.case(name), random.Random(f"{name}/{disk_name}/{seed}")
    kills, lines = 0, []
    for attempt in range(4 * count):
        with disk(disk_name, folder / str(attempt)) as where:
            more, wrong = kill_until_done(material, case, where, chance)
        kills += more
        lines += [f"attempt {attempt}: {line}" for line in wrong]
        shutil.rmtree(folder / str(attempt))
        if kills >= count:
            break
    assert not lines, "\n".join(lines)
    assert kills >= count, "the kills missed"


@pytest.mark.drill
@pytest.mark.parametrize("disk_name", DISKS)
@pytest.mark.parametrize("name", TRAINING)
def test_killed_training_ends_with_the_same_bits(material, tmp_path, name, disk_name):
    drill(material, name, disk_name, tmp_path, 6, 0)


@pytest.mark.drill
@pytest.mark.parametrize("disk_name", DISKS)
@pytest.mark.parametrize("name", FOLDERS)
def test_killed_verbs_that_write_folders_leave_the_same_bits(material, tmp_path, name, disk_name):
    drill(material, name, disk_name, tmp_path, 6, 0)


@pytest.mark.drill
@pytest.mark.parametrize("name", FILES)
def test_killed_verbs_that_write_files_leave_the_same_bits(material, tmp_path, name):
    drill(material, name, "plain", tmp_path, 10, 0)


@pytest.mark.parametrize("name", ["mlm-nsp", "prepare", "tokenizer-wordpiece", "augment"])
def test_a_few_kills_leave_the_same_bits(material, tmp_path, name):
    drill(material, name, "plain", tmp_path, 2, 1)
