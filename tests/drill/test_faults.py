"""A disk that is full, fails, is read-only, over its quota or slow, and SIGTERM, at any call that writes.

The exit code is the right one, the message names what could not be written, nothing is left half-written, and the same
command started again gives the same bits.
"""

from __future__ import annotations

import errno
import random
import signal
from pathlib import Path

import pytest
from drillcases import FILES, FOLDERS, STEPS, TRAINING, Case, Material
from drillkit import ALL, Ended, Fault, differences, snapshot

WRITING = tuple(name for name in ALL if name != "unlink")  # what cannot be removed is swept by the next run: test_kills
TIMES = {"ENOSPC": 3, "EIO": 2, "EDQUOT": 1, "EROFS": 1, "SIGTERM": 1, "slow": 1}
CODES = {"ENOSPC": {74}, "EIO": {74}, "EDQUOT": {74}, "EROFS": {73, 74}, "SIGTERM": {143, 0}, "slow": {0}}


def fault(name: str, at: int) -> Fault:
    """What happens at a call, and, to a disk that stays as it is, at all later ones."""
    if name == "slow":
        return Fault("sleep", 1, ["sync"], 5, sticky=True)
    if name == "SIGTERM":
        return Fault("signal", at, WRITING, signal.SIGTERM)
    return Fault("error", at, WRITING, getattr(errno, name), sticky=name != "EIO")


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders but for the lock of a run, and for what the next run moves to its place by a plan."""
    names = snapshot(folder)
    planned = [name.removesuffix("/.plan.json") for name in names if name.endswith("/.plan.json")]
    names = {name: each for name, each in names.items() if not any(name.startswith(plan) for plan in planned)}
    return [name for name in names if Path(name).name.startswith(".") and Path(name).name != ".lock"]


def last_checkpoint(names: dict[str, str]) -> dict[str, str]:
    """A snapshot without earlier checkpoints: at a signal, one more is made."""
    early = [f"out/checkpoint-{step}" for step in range(STEPS)]
    return {name: each for name, each in names.items() if not any(name.startswith(before) for before in early)}


def wrong_after(case: Case, name: str, ended: Ended, folder: Path, whole: dict[str, str]) -> list[str]:
    """What is wrong after a run that met a fault."""
    is_whole = ended.code == 0 and last_checkpoint(snapshot(folder)) == last_checkpoint(whole)  # mkdir of what is there
    lines = [] if ended.code in CODES[name] or is_whole else [f"rc {ended.code}: {ended.err.strip()[-300:]}"]
    if ended.code in (73, 74) and "out" not in ended.err:
        lines.append(f"the message does not name the output: {ended.err.strip()[-300:]}")
    if name != "EROFS":  # there, nothing can be removed
        lines += [f"left: {each}" for each in leftovers(folder)]
        if ended.code and not case.trains and snapshot(folder) != whole:
            lines += [f"left: {each}" for each in snapshot(folder)]
    return lines


def meet(material: Material, case: Case, name: str, at: int, folder: Path) -> list[str]:
    """Run a case into a fault, then again without; what is wrong."""
    folder.mkdir()
    whole, _ = material.whole(case)
    ended = case.run(material.zygote, folder, fault(name, at))
    lines = wrong_after(case, name, ended, folder, whole)
    if ended.code or case.trains:
        again = case.run(material.zygote, folder)
        if again.code and "exists already" not in again.err:
            lines.append(f"again: rc {again.code}: {again.err.strip()[-300:]}")
    wrong = differences(last_checkpoint(whole), last_checkpoint(snapshot(folder)))
    return lines + [f"in the end {line}" for line in wrong]


def drill(material: Material, name: str, folder: Path, times: dict[str, int], seed: int) -> None:
    """Let a case meet faults; all that was wrong is the message of the failure."""
    case, chance = material.case(name), random.Random(f"{name}/{seed}")
    calls, lines = material.calls(case, WRITING), []
    for each, count in times.items():
        for n in range(count):
            at = chance.randint(1, calls)
            where = f"{each} at call {at} of {calls}"
            lines += [f"{where}: {line}" for line in meet(material, case, each, at, folder / f"{each}{n}")]
    assert not lines, "\n".join(lines)


@pytest.mark.drill
@pytest.mark.parametrize("name", [*TRAINING, *FOLDERS, *FILES])
def test_faults_end_a_verb_cleanly(material, tmp_path, name):
    drill(material, name, tmp_path, TIMES, 0)


@pytest.mark.parametrize("name", ["clm-accumulate", "prepare", "tokenizer-bpe", "predict"])
def test_a_few_faults_end_a_verb_cleanly(material, tmp_path, name):
    drill(material, name, tmp_path, {"ENOSPC": 1, "EIO": 1}, 1)
