"""The kernels under sanitizers: a program in C runs all of them on arrays of exactly the size that they may touch."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("driver.c")
FLAGS = ("-std=gnu11", "-O1", "-g", "-ffp-contract=off", "-pthread")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_nothing_is_touched_that_is_not_its_own(sanitizer: str, tmp_path: Path) -> None:
    program = tmp_path / "driver"
    flags = (*FLAGS, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    subprocess.run(["gcc", *flags, str(DRIVER), "-o", str(program), "-lm"], check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "scalar" in result.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_each_thread_does_each_call_once(tmp_path: Path) -> None:
    program = tmp_path / "pool"
    flags = ("-std=gnu11", "-D_GNU_SOURCE", "-O0", "-pthread")
    subprocess.run(["gcc", *flags, str(DRIVER.with_name("pool.c")), "-o", str(program), "-lm"], check=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
