"""Runs verbs in 0.1 seconds each, lets their writes fail or kill them, and compares what they leave, bit by bit.

    zygote.run("pretrain", ..., folder=case)                                  -> Ended(code, out, err, ...)
    zygote.run(..., fault=Fault("kill", at=7))                                killed at its 7th call that writes
    zygote.run(..., fault=Fault("error", at=7, value=errno.ENOSPC, sticky=True))
    snapshot(folder)                                                          what must be equal afterwards

`zygote` is a fixture of `tests/conftest.py`. The failpoints are C (`failpoints.c`), compiled when first needed; without
a compiler, tests that need them are skipped. Linux only.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import pytest

HERE = Path(__file__).parent
OPERATIONS = {
    name: 1 << n
    for n, name in enumerate(("open", "write", "sync", "rename", "mkdir", "unlink", "truncate", "lock", "link"))
}
ALL = tuple(name for name in OPERATIONS if name != "lock")
_ACTIONS = ("count", "error", "kill", "signal", "sleep")
_TIMED = {"time", "tokens_per_second", "data_wait", "gemm_utilization", "seconds", "began", "history", "precision"}
_TIMED |= {"metrics_bytes", "tokenizer_seconds"}


_CLOCKS = {"run.json", "metrics.jsonl", "report.html"}  # files that tell of the clock


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th call that changes the disk below the folder of a run.

    Attributes:
        action: count only; fail with an errno; SIGKILL before the call, half of a write done; a signal; wait.
        at: which call, from 1; 0 for none.
        operations: which calls are counted.
        value: errno, number of a signal, or milliseconds.
        sticky: it happens at all later calls too; a full disk still lets files be removed.
        journal: file into which all calls are recorded.
        folders: where calls are counted; by default the folder of the run.
    """

    action: Literal["count", "error", "kill", "signal", "sleep"]
    at: int = 0
    operations: Sequence[str] = ALL
    value: int = 0
    sticky: bool = False
    journal: Path | None = None
    folders: Sequence[Path] = ()

    def request(self, folder: Path) -> dict[str, Any]:
        """As the server takes it."""
        return {
            "folders": ":".join(os.path.realpath(each) for each in self.folders or (folder,)),
            "operations": sum(OPERATIONS[name] for name in self.operations),
            "at": self.at,
            "action": _ACTIONS.index(self.action),
            "value": self.value,
            "sticky": self.sticky,
            "journal": str(self.journal or ""),
        }


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: exit code; negative for a signal.
        out, err: what it printed.
        seconds: from fork to end.
        peak: of its memory, in bytes, with what it shares with the server.
        operations: calls that were counted; 0 for a killed one.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak: int
    operations: int


@dataclass
class Running:
    """A run that may still go on."""

    zygote: Zygote
    number: int
    pid: int
    files: Path

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """Send a signal to its processes; was it there still."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self, timeout: float = 60.0) -> Ended:
        """How it ended; killed, and the test failed, if that takes too long."""
        ended = self.zygote.answer(self.number, timeout)
        if ended is None:
            self.kill()
            self.zygote.answer(self.number, 10.0)
            pytest.fail(f"still running after {timeout} s\n{_printed(Path(f'{self.files}.err'))[-4000:]}")
        code, peak, seconds = ended
        count = Path(f"{self.files}.out.count")
        out, err = (_printed(Path(f"{self.files}.{name}")) for name in ("out", "err"))
        return Ended(int(code), out, err, seconds, int(peak), int(count.read_text()) if count.exists() else 0)


@dataclass
class Zygote:
    """A server process; a context manager.

    Args:
        scratch: folder for what runs print, and for the failpoints.
    """

    scratch: Path
    failpoints: bool = False
    _process: subprocess.Popen[bytes] = field(init=False)
    _pending: bytes = field(default=b"", init=False)
    _answers: dict[tuple[int, str], list[float]] = field(default_factory=dict, init=False)
    _number: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RAYON_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        library = self._compile()
        self.failpoints = library is not None
        if library is not None:
            environment["LD_PRELOAD"] = str(library)
        command = [sys.executable, str(HERE / "drillserver.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _compile(self) -> Path | None:
        compiler, library = shutil.which("cc"), self.scratch / "failpoints.so"
        if compiler is None or sys.platform != "linux":
            return None
        options = ["-shared", "-fPIC", "-O1", "-Wno-format-truncation", "-o", library, HERE / "failpoints.c", "-ldl"]
        subprocess.run([compiler, *options], check=True)
        return library

    def start(
        self,
        *arguments: object,
        folder: Path,
        fault: Fault | None = None,
        environment: Mapping[str, str] | None = None,
        script: Path | None = None,
    ) -> Running:
        """Begin a verb.

        Args:
            arguments: of the command line.
            folder: where it runs.
            fault: what befalls it.
            environment: added to that of the tests.
            script: a Python file to run instead of a verb.
        """
        if fault is not None and not self.failpoints:
            pytest.skip("failpoints need Linux and a C compiler")
        self._number += 1
        files = self.scratch / f"run{self._number}"
        request = {
            "number": self._number,
            "arguments": [str(each) for each in arguments],
            "folder": str(folder),
            "fault": None if fault is None else fault.request(folder),
            "environment": dict(environment or {}),
            "script": None if script is None else str(script),
            "out": f"{files}.out",
            "err": f"{files}.err",
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        begun = self._receive((self._number, "begun"), 120.0)
        assert begun is not None, "the server does not answer"
        return Running(self, self._number, int(begun[0]), files)

    def run(self, *arguments: object, folder: Path, timeout: float = 60.0, **more: Any) -> Ended:
        """Run a verb to its end; see `start`."""
        return self.start(*arguments, folder=folder, **more).wait(timeout)

    def answer(self, number: int, timeout: float) -> list[float] | None:
        """Exit code, peak of memory and seconds of a run; None if it has not ended in time."""
        return self._receive((number, "ended"), timeout)

    def _receive(self, wanted: tuple[int, str], timeout: float) -> list[float] | None:
        assert self._process.stdout is not None
        until = time.monotonic() + timeout
        while wanted not in self._answers:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            if not more:
                raise RuntimeError(f"the server ended with {self._process.wait()}")
            *lines, self._pending = (self._pending + more).split(b"\n")
            for line in lines:
                number, *values = json.loads(line)
                self._answers[number, "begun" if len(values) == 1 else "ended"] = values
        return self._answers.pop(wanted)


def _printed(path: Path) -> str:
    """What a run wrote into a file; nothing if it was killed before it had one."""
    return path.read_text(errors="replace") if path.exists() else ""


def snapshot(folder: Path, *, timed: bool = False) -> dict[str, str]:
    """Every file, folder and link below a folder by its relative path, with a digest of what it holds.

    Args:
        timed: also compare what tells of the clock: times and speeds of metrics, `run.json` and states of checkpoints.
    """
    return {path.relative_to(folder).as_posix(): _digest(path, timed) for path in sorted(_walk(folder))}


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What is missing, new or changed, a line each."""
    lines = [f"missing: {name}" for name in before if name not in after]
    lines += [f"new: {name}" for name in after if name not in before]
    return lines + [f"changed: {name}" for name in before if name in after and before[name] != after[name]]


def mounted(target: Path, mebibytes: int = 64) -> Iterator[Path]:
    """A file system in memory at a folder, unmounted in the end; skips where that is not allowed."""
    target.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(target)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def elsewhere() -> Path:
    """A new folder on another file system than temporary files'; skips where there is none. The caller removes it."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is no second file system")
    return Path(tempfile.mkdtemp(prefix="pretune-drill-", dir=shared))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _digest(path: Path, timed: bool) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    data = path.read_bytes()
    if not timed:
        if path.name == ".lock":
            return "lock"
        data = _untimed(path, data)
    return hashlib.sha256(data).hexdigest()


def _untimed(path: Path, data: bytes) -> bytes:
    """The bytes of a file without what tells of the clock."""
    if path.name == "report.html":
        return b""
    if path.name == "metrics.jsonl":
        return b"".join(_canonical(json.loads(line)) for line in data.splitlines())
    if path.name == "pretune.xxh128":
        lines = data.decode().splitlines()[1:]  # without the head, which has their digest
        return "\n".join(line for line in lines if line.split()[-1] not in _CLOCKS).encode()
    if path.name in ("run.json", "state.json"):
        return _canonical({name: value for name, value in json.loads(data).items() if name != "sha256"})
    if path.name == "manifest.json" and path.parent.name.startswith("checkpoint-"):
        files = json.loads(data)["files"]
        return _canonical({name: value for name, value in files.items() if name != "state.json"})
    return data


def _canonical(tree: Any) -> bytes:
    return json.dumps(_without_times(tree), sort_keys=True).encode() + b"\n"


def _without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_times(value) for key, value in tree.items() if key not in _TIMED}
    return [_without_times(each) for each in tree] if isinstance(tree, list) else tree
