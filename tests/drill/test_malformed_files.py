"""Malformed files of every kind: an answer or a clear refusal, never a signal, a panic, a defect or a lot of memory."""

import re
from pathlib import Path

import malformed
import pytest
from drillkit import Ended, Zygote

ALL = 336
CODES = (0, 64, 65, 66, 73, 74, 75)
SECONDS, BYTES = 10.0, int(1.5 * 2**30)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "valid"
    folder.mkdir()
    malformed.write_valid(folder)
    return folder


def faults(ended: Ended) -> list[str]:
    """What is not as it should be in how a verb ended."""
    wrong = [] if ended.code in CODES else [f"exit code {ended.code}"]
    wrong += [f"{ended.seconds:.1f} s"] if ended.seconds > SECONDS else []
    wrong += [f"{ended.peak:,} bytes"] if ended.peak > BYTES else []
    wrong += re.findall(r"Traceback|panicked|Panic|bug in pretune|defect", ended.err + ended.out)
    lines = ended.err.strip().splitlines()
    return wrong + ([f"{len(lines)} lines"] if len(lines) > 60 else [])


def _read(zygote: Zygote, valid: Path, folder: Path, seed: int) -> Ended:
    target = malformed.TARGETS[seed % len(malformed.TARGETS)]
    malformed.write_malformed(valid, folder, target, seed)
    return zygote.run(*target.arguments, folder=folder, timeout=120.0)


def run(zygote: Zygote, valid: Path, folder: Path, seeds: range) -> tuple[list[str], int]:
    """What is wrong with each seed, and how many files were refused."""
    out, refused = [], 0
    for seed in seeds:
        target = malformed.TARGETS[seed % len(malformed.TARGETS)]
        ended = _read(zygote, valid, folder / str(seed), seed)
        if ended.seconds > SECONDS:  # of a busy machine: once more
            ended = _read(zygote, valid, folder / f"{seed}-again", seed)
        refused += ended.code != 0
        if wrong := faults(ended):
            out.append(f"seed {seed}, {target.file}: {', '.join(wrong)}: {ended.err[-400:]}")
    return out, refused


@pytest.mark.drill
def test_valid_files_are_read(zygote: Zygote, valid: Path, tmp_path: Path) -> None:
    for n, target in enumerate(malformed.TARGETS):
        folder = tmp_path / str(n)
        malformed.copy_valid(valid, folder, target)
        ended = zygote.run(*target.arguments, folder=folder)
        assert ended.code == 0, (target, ended.err)


@pytest.mark.drill
def test_malformed_files(zygote: Zygote, valid: Path, tmp_path: Path) -> None:
    wrong, refused = run(zygote, valid, tmp_path, range(1000, 1000 + ALL))
    assert wrong == []
    assert refused > ALL // 4, "the sample says nothing"


@pytest.mark.drill
def test_random_layouts_of_tokenizers(zygote: Zygote, tmp_path: Path) -> None:
    for first in range(1000, 6000, 1000):  # a process each, as a signal would end it
        script = tmp_path / f"{first}.py"
        script.write_text(f"import randomlayouts\nprint(*randomlayouts.run({first}, {first + 1000}), sep='\\n')\n")
        ended = zygote.run(folder=tmp_path, script=script, timeout=300.0)
        count, wrong = ended.out.splitlines()
        assert (ended.code, wrong) == (0, "[]"), ended
        assert int(count) > 100, "the sample says nothing"
