"""The parent's end of a side's process."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import environments
from benchmarks.benchmark import Run, Side
from pretune.errors import BenchError

WORKER = Path(__file__).with_name("worker.py")
_REPOSITORY = Path(__file__).parents[1]
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
_TAIL = 15  # lines of a dead side's stderr that are shown


class Process:
    """A side that has been set up and waits for its runs.

    Args:
        threads: number of threads of its matmuls.
        timeout: seconds to wait for an answer.

    Raises:
        BenchError: it died or failed before it was ready.
        AbsentError: its environment cannot be made.
    """

    def __init__(self, side: Side, threads: int, timeout: float = 1800.0) -> None:
        self.side = side
        self._timeout = timeout
        threads = side.threads or threads
        python = environments.python(side.environment)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._child = subprocess.Popen(
            [python, WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_variables(side, threads),
            start_new_session=True,  # so that all that it starts can be ended with it
        )
        self.pid = self._child.pid
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        order = {
            "script": str(side.script),
            "function": side.function,
            "options": dict(side.options),
            "allocator": side.allocator,
            "threads": threads,
            "load": side.load,
            "packages": environments.packages(side.environment),
        }
        try:
            self.versions: dict[str, str] = self._ask(order)["versions"]
        except BaseException:
            self.close(0)
            raise

    def run(self) -> Run:
        """Run once: seconds, the peak of memory in MB, and what the run returned.

        Raises:
            BenchError: it died, failed, or does not answer.
        """
        return self._ask("run")

    def close(self, timeout: float = 5.0) -> None:
        """End it and all that it started.

        Args:
            timeout: seconds for it to end by itself.
        """
        with suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._errors.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        self.close(5.0 if error_type is None else 0.0)  # a run that nobody waits for any more is not waited for

    def _listen(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put(b"")

    def _ask(self, order: object) -> dict[str, Any]:
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # its end is noticed below, and told with its last words
            self._child.stdin.write(json.dumps(order).encode() + b"\n")
            self._child.stdin.flush()
        answer: dict[str, Any] = json.loads(self._wait() or self._fail("ended without an answer"))
        if "error" in answer:
            raise BenchError(f"{self.side.label}: failed\n{answer['error'].rstrip()}")
        return answer

    def _wait(self) -> bytes:
        """The next line; empty if there will be none."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                return self._answers.get(timeout=min(1.0, max(0.01, end - time.monotonic())))
            except queue.Empty:
                if self._child.poll() is not None and self._answers.empty():
                    return b""  # dead, though something that it started holds its pipe open
                if time.monotonic() > end:
                    self._fail(f"no answer in {self._timeout:.0f} s")

    def _fail(self, what: str) -> bytes:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(1)  # the end of its output may come before the end of it
        code = self._child.poll()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-_TAIL:]
        state = "" if code is None else f" (exit code {code})"
        raise BenchError("\n".join([f"{self.side.label}: {what}{state}", *lines]))


def _variables(side: Side, threads: int) -> dict[str, str]:
    """The environment variables of a side: threads, no network; huge pages are the worker's to ask for."""
    variables = {name: value for name, value in os.environ.items() if name != _HUGE_PAGES}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        variables[name] = str(threads)
    variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if side.environment is None:
        paths = [str(_REPOSITORY), os.environ.get("PYTHONPATH")]  # of the benchmarks, and of the pretune beside them
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    else:
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            variables.pop(name, None)
    return variables | dict(side.variables)
