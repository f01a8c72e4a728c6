"""What is said where llama.cpp does not answer; whether it reads our files is in the tests of the export."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pretune.errors import DataError
from pretune.interop import llamacpp


def test_an_engine_that_never_ends_is_an_error_of_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match=r"model\.gguf.*1800 s"):
        llamacpp._ask(tmp_path / "model.gguf", {})
