"""A loss that explodes on two ranks: both go back to one checkpoint, and to the same bits if they were stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drillkit import HERE
from safetensors.numpy import load_file

sys.path.insert(0, str(HERE / "train"))
from trainkit import make_store, shas

pytestmark = pytest.mark.drill


def test_ranks_go_back_together(tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE / "train"), str(HERE), str(HERE.parent)])
    done = subprocess.run(
        [sys.executable, HERE / "drill" / "rollback_ranks.py", make_store(tmp_path / "store"), tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (whole, errors), (stopped, _), (resumed, _) = json.loads(done.stdout.splitlines()[-1])
    assert whole == resumed == [0, 0], errors
    assert all(code == 143 for code in stopped)
    assert shas(tmp_path / "parts", 24) == shas(tmp_path / "whole", 24)
    names = ("one", "whole", "parts")
    facts = [json.loads((tmp_path / name / "run.json").read_text())["finished"]["rollbacks"] for name in names]
    assert facts == [[[16, 12]]] * 3
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in names[:2])
    assert max(float(np.abs(one[name] - two[name]).max()) for name in one) < 1e-4
