"""Power losses: any part of what was not synced is gone; what was reported is there, and the end has the same bits."""

from __future__ import annotations

import random
import shutil
from pathlib import Path, PurePosixPath

import pytest
from drillcases import FILES, FOLDERS, OUTPUT, Case, Material
from drillkit import differences, snapshot
from powerloss import Call, Disk, record

from pretune.disk import problem


def calls_of(material: Material, case: Case, folder: Path) -> list[Call]:
    """The calls of an undisturbed run in a folder."""
    folder.mkdir()
    place = [case.flag, OUTPUT + case.suffix] if case.flag else [OUTPUT + case.suffix]
    journal = folder.with_name(f"{folder.name}.journal")
    return record(material.zygote, folder, *case.arguments, *place, journal=journal, script=case.script)


def saved(calls: list[Call], root: Path) -> set[str]:
    """Checkpoints that were moved into the run directory, with that synced, and not removed since."""
    run = PurePosixPath(root) / OUTPUT
    moved: set[str] = set()
    safe: set[str] = set()
    for call in calls:
        if call.name == "rename" and call.path.name in moved:  # to a hidden name, under which it is removed
            moved.discard(call.path.name)
            safe.discard(call.path.name)
        elif call.name == "rename" and PurePosixPath(call.other).parent == run:
            moved.add(PurePosixPath(call.other).name)
        elif call.name == "fsync" and call.path == run:
            safe |= {name for name in moved if name.startswith("checkpoint-")}
    return safe


def lose_power(material: Material, case: Case, done: list[Call], folder: Path, chance: random.Random) -> list[str]:
    """A power loss after these calls, and the verb once more; what is wrong."""
    root = folder.parent / "recorded"
    disk = Disk(root)
    for call in done:
        disk.execute(call)
    disk.lose_power(chance)
    folder.mkdir()
    disk.write(folder)
    lock = folder / OUTPUT / ".lock"
    if lock.exists():
        lock.write_bytes(b"")  # else the owner that it names is watched for 15 seconds
    lines = [
        f"lost: {name}: {problem(folder / OUTPUT / name)}"
        for name in saved(done, root)
        if problem(folder / OUTPUT / name)
    ]
    ended = case.run(material.zygote, folder)
    wrong = differences(material.whole(case)[0], snapshot(folder))
    if ended.code and (wrong or "exists already" not in ended.err):
        lines.append(f"rc {ended.code}: {ended.err.strip()[-300:]}")
    return lines + wrong


def drill(material: Material, name: str, folder: Path, count: int, seed: int) -> None:
    """Lose power as many times as asked for; all that was wrong is the message of the failure."""
    case, chance = material.case(name), random.Random(f"{name}/{seed}")
    calls, lines = calls_of(material, case, folder / "recorded"), []
    for n in range(count):
        at = chance.randint(0, len(calls))
        wrong = lose_power(material, case, calls[:at], folder / str(n), chance)
        lines += [f"after call {at} of {len(calls)}: {line}" for line in wrong]
        shutil.rmtree(folder / str(n))
    assert not lines, "\n".join(lines)


@pytest.mark.drill
@pytest.mark.parametrize("name", ["mlm-nsp", "cert", "classification"])
def test_training_survives_power_losses(material, tmp_path, name):
    drill(material, name, tmp_path, 30, 0)


@pytest.mark.drill
@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_other_verbs_survive_power_losses(material, tmp_path, name):
    drill(material, name, tmp_path, 12, 0)


@pytest.mark.parametrize("name", ["prepare", "extend-tokenizer", "augment"])
def test_a_few_power_losses(material, tmp_path, name):
    drill(material, name, tmp_path, 4, 1)


def test_a_file_that_is_moved_before_it_is_synced_may_be_empty(zygote, tmp_path):
    """The drill sees what it is for."""
    writer = tmp_path / "writer.py"
    writer.write_text("import os\nopen('a', 'wb').write(b'12345678')\nos.replace('a', 'b')\n")
    (tmp_path / "recorded").mkdir()
    calls = record(zygote, tmp_path / "recorded", journal=tmp_path / "journal", script=writer)
    results = set()
    for seed in range(60):
        disk = Disk(tmp_path / "recorded")
        for call in calls:
            disk.execute(call)
        disk.lose_power(random.Random(seed))
        folder = tmp_path / str(seed)
        folder.mkdir()
        disk.write(folder)
        results |= {(path.name, path.read_bytes()) for path in folder.iterdir()}
    assert {("b", b""), ("b", b"12345678"), ("a", b"")} <= results
