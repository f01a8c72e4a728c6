"""A side's process: what reaches it, what comes back, and how it is told that one is dead."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from benchkit import SCRIPT, make_side

from benchmarks import process
from benchmarks.process import Process
from pretune.errors import BenchError

ENVIRONMENT = """
import ctypes, os


class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")]


def setup():
    library = ctypes.CDLL("libc.so.6")
    library.mallinfo2.restype = Info
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

    def run():
        before = library.mallinfo2().hblks
        library.malloc(64 << 20)
        names = ("THP_MEM_ALLOC_ENABLE", "OMP_NUM_THREADS", "PYTHONPATH")
        return {"mapped": library.mallinfo2().hblks - before, **{name: os.environ.get(name) for name in names}}

    return run
"""


def run_of(folder: Path, text: str, **options: object) -> dict[str, object]:
    with Process(make_side(folder, "one", text, options), threads=1, timeout=20) as running:
        return running.run()


class TestProtocol:
    def test_setup_once_then_turns(self, tmp_path: Path) -> None:
        text = "import itertools\ndef setup(start):\n    n = itertools.count(start)\n    return lambda: {'n': next(n)}"
        with Process(make_side(tmp_path, "one", text, {"start": 5}), threads=1) as running:
            actual = [running.run() for _ in range(3)]
            assert running.versions["python"] == sys.version.split()[0]
            assert running.versions["torch"].startswith("2.")
        assert [run["n"] for run in actual] == [5, 6, 7]
        assert all(run["seconds"] > 0 for run in actual)

    def test_another_function_of_the_script(self, tmp_path: Path) -> None:
        side = replace(make_side(tmp_path, "one", "def other():\n    return lambda: {'n': 1}"), function="other")
        with Process(side, threads=1) as running:
            assert running.run()["n"] == 1

    def test_a_turn_may_keep_its_own_time(self, tmp_path: Path) -> None:
        assert run_of(tmp_path, "def setup():\n    return lambda: {'seconds': 42.0}")["seconds"] == 42.0

    def test_a_chatty_library_does_not_break_it(self, tmp_path: Path) -> None:
        text = (
            "import os, sys\nprint('hello')\ndef setup():\n    def run():\n        os.write(1, b'raw')\n"
            "        print('more', flush=True)\n        return {'read': sys.stdin.read()}\n    return run"
        )
        assert run_of(tmp_path, text)["read"] == ""

    def test_names_of_the_harness_are_free(self, tmp_path: Path) -> None:
        text = (
            "def setup():\n    import importlib.util as u\n    return lambda: {'there': bool(u.find_spec('contest'))}"
        )
        assert run_of(tmp_path, text)["there"] is False

    def test_memory_is_its_own_and_not_the_parents(self, tmp_path: Path) -> None:
        ballast = b"x" * (200 << 20)
        assert 3 < run_of(tmp_path, SCRIPT)["peak_mb"] < 100
        text = "def setup():\n    x = bytearray(150 << 20)\n    return lambda: {'n': len(x)}"
        assert 150 < run_of(tmp_path, text)["peak_mb"] < 250
        del ballast


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def parent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # as the command line has it
        monkeypatch.setenv("PYTHONPATH", "/nowhere")

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
    def test_allocator_settings_reach_the_worker(self, tmp_path: Path) -> None:
        actual = {}
        for allocator in ("own", "ours"):
            side = replace(make_side(tmp_path, "one", ENVIRONMENT), allocator=allocator)
            with Process(side, threads=3) as running:
                actual[allocator] = running.run()
        assert actual["own"]["THP_MEM_ALLOC_ENABLE"] is None
        assert actual["own"]["mapped"] == 1
        assert actual["ours"]["THP_MEM_ALLOC_ENABLE"] == "1"
        assert actual["ours"]["mapped"] == 0
        assert {run["OMP_NUM_THREADS"] for run in actual.values()} == {"3"}

    def test_our_side_finds_pretune_and_a_peer_does_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "def setup():\n    import sys\n    return lambda: {'path': sys.path}"
        assert str(Path(process.__file__).parents[1]) in run_of(tmp_path, text)["path"]
        monkeypatch.setattr(process.environments, "python", lambda name: Path(sys.executable))
        monkeypatch.setattr(process.environments, "packages", lambda name: ["torch"])
        side = replace(make_side(tmp_path, "one", text), environment="peer")
        with Process(side, threads=1) as running:
            assert "/nowhere" not in running.run()["path"]
            assert set(running.versions) == {"python", "torch"}


class TestDeath:
    def test_in_setup(self, tmp_path: Path) -> None:
        with pytest.raises(BenchError, match=r"(?s)one, own allocator: failed.*ValueError: broken"):
            run_of(tmp_path, "def setup():\n    raise ValueError('broken')")

    def test_in_a_turn(self, tmp_path: Path) -> None:
        with pytest.raises(BenchError, match=r"(?s)failed.*ZeroDivisionError"):
            run_of(tmp_path, "def setup():\n    return lambda: 1 / 0")

    def test_what_json_does_not_know(self, tmp_path: Path) -> None:
        with pytest.raises(BenchError, match=r"(?s)failed.*not JSON serializable"):
            run_of(tmp_path, "def setup():\n    return lambda: {'n': object()}")

    def test_without_a_word(self, tmp_path: Path) -> None:
        text = "import os\ndef setup():\n    return lambda: os.write(2, b'last words') and os._exit(3)"
        with pytest.raises(BenchError, match=r"(?s)ended without an answer \(exit code 3\).*last words"):
            run_of(tmp_path, text)

    def test_though_a_child_of_it_lives(self, tmp_path: Path) -> None:
        text = (
            "import os, time\ndef setup():\n    def run():\n        if os.fork() == 0:\n            time.sleep(60)\n"
            "        os._exit(4)\n    return run"
        )
        start = time.monotonic()
        with pytest.raises(BenchError, match="exit code 4"):
            run_of(tmp_path, text)
        assert time.monotonic() - start < 15

    def test_hung(self, tmp_path: Path) -> None:
        side = make_side(tmp_path, "one", "import time\ndef setup():\n    return lambda: time.sleep(60)")
        start = time.monotonic()
        running = Process(side, threads=1, timeout=1)
        with pytest.raises(BenchError, match="no answer in 1 s"):
            running.run()
        running.close(0)
        assert time.monotonic() - start < 15
        with pytest.raises(ProcessLookupError):
            os.kill(running.pid, 0)

    def test_what_it_started_ends_with_it(self, tmp_path: Path) -> None:
        text = (
            "import subprocess\ndef setup():\n    child = subprocess.Popen(['sleep', '60'])\n"
            "    return lambda: {'child': child.pid}"
        )
        child = int(run_of(tmp_path, text)["child"])
        status = Path(f"/proc/{child}/stat")
        for _ in range(50):
            if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.1)
        pytest.fail("the child of a closed side lives")
