"""The process around the command line: signals before a verb listens, and after it has ended."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pretune.runtime.screen import Screen

_DEFAULT = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it


@pytest.mark.parametrize(
    "script",
    [
        # While the command line is imported: the finder stands for any module that takes its time.
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cyclopts': os.kill(os.getpid(), signal.SIGINT)\n"
        "from pretune.__main__ import run\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.exit(run())\n",
        # While the interpreter ends.
        "import atexit, os, sys\n"
        "from pretune.__main__ import run\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "sys.argv = ['pretune', 'version']\n"
        "sys.exit(run())\n",
    ],
    ids=["imports", "end"],
)
def test_an_interrupt_at_the_edges_leaves_no_traceback(script: str) -> None:
    ended = subprocess.run([sys.executable, "-c", _DEFAULT + script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    script = "import signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom pretune.__main__ import run\n"
    script += "sys.argv = ['pretune', 'version']\ncode = run()\nprint(signal.getsignal(signal.SIGINT).name, code)\n"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.stdout.split()[-2:] == ["SIG_IGN", "0"]


def test_a_closed_standard_error_is_no_defect() -> None:
    script = "import os, sys\nfrom pretune.__main__ import run\nsys.argv = ['pretune', 'verify', 'missing']\n"
    script += "code = run()\nprint(code, open(os.devnull).fileno() > 2)\n"
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert ended.stdout.split() == ["66", "True"]


def test_a_library_without_standard_error_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    Screen().line("nobody hears it")
    assert Screen().encoding == "utf-8"
    assert not Screen().isatty()
