"""SIGKILL at random moments: what comes out in the end is what an undisturbed run gives, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "kills",
    [2, pytest.param(5, marks=pytest.mark.slow), pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_killed_runs_end_with_the_same_bits(store, tmp_path, kills):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, here / "zygote.py", store, tmp_path, str(kills), "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, actual in json.loads(done.stdout).items():
        assert len(actual["runs"]) == kills, f"{name}: the kills missed"
        for run in actual["runs"]:
            assert run == actual["whole"], name
