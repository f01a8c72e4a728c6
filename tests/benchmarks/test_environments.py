"""Environments of the peers: made once, by pip, in a place of their own; what cannot be made is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import environments
from benchmarks.environments import ENVIRONMENTS, AbsentError, packages, python


class Pip:
    """Stands for `venv` and `pip`: notes the commands, makes the interpreter, fails when told to."""

    def __init__(self, code: int = 0) -> None:
        self.commands: list[list[str]] = []
        self.code = code

    def __call__(self, command: list[Any], **more: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append([str(word) for word in command])
        if "venv" in self.commands[-1]:
            (Path(command[-1]) / "bin").mkdir(parents=True)
            (Path(command[-1]) / "bin" / "python").touch()
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, self.code, "", "ERROR: No matching distribution found for torch")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETUNE_PEERS", str(tmp_path / "peers"))
    return tmp_path / "peers"


def replace_pip(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Pip:
    pip = Pip(code)
    monkeypatch.setattr(environments.subprocess, "run", pip)
    return pip


def test_every_requirement_is_pinned_and_torch_is_among_them() -> None:
    for name, requirements in ENVIRONMENTS.items():
        packages_alone = [requirement for requirement in requirements if not requirement.startswith("-")]
        assert all(len(requirement.split("==")) == 2 for requirement in packages_alone)
        assert "torch==2.13.0" in requirements or name in ("ctranslate2", "llama.cpp")  # engines of their own


def test_options_of_pip_are_no_packages() -> None:
    assert packages("llama.cpp") == ["numpy", "safetensors", "gguf", "llama-cpp-python"]


def test_none_is_this_interpreter() -> None:
    assert python(None) == Path(sys.executable)
    assert packages(None)[:2] == ["pretune", "torch"]


def test_made_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = replace_pip(monkeypatch)
    actual = python("transformers")
    assert actual.exists()
    assert actual.is_relative_to(home)
    assert actual.parts[-3].startswith("transformers-")
    assert pip.commands[1][0] == str(actual)
    assert pip.commands[1][-len(ENVIRONMENTS["transformers"]) :] == list(ENVIRONMENTS["transformers"])
    assert python("transformers") == actual
    assert len(pip.commands) == 2


def test_made_again_for_other_requirements(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_pip(monkeypatch)
    first = python("transformers")
    monkeypatch.setitem(ENVIRONMENTS, "transformers", ("torch==2.13.0", "transformers==5.24.0"))
    assert python("transformers") != first
    assert packages("transformers") == ["torch", "transformers"]


def test_half_an_environment_is_made_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_pip(monkeypatch)
    actual = python("litgpt")
    rest = actual.parent / "left-by-a-killed-run"
    rest.touch()
    (actual.parents[1] / "pretune.json").unlink()
    python("litgpt")
    assert not rest.exists()


def test_absent_with_the_reason_and_tried_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = replace_pip(monkeypatch, code=1)
    for _ in range(2):
        with pytest.raises(
            AbsentError, match=r"(?s)^litgpt: .*PRETUNE_PEERS.*No matching distribution found for torch"
        ):
            python("litgpt")
    assert len(pip.commands) == 2
    assert not list(home.glob("litgpt-*/"))


def test_absent_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRETUNE_PEERS", str(tmp_path / "file" / "peers"))
    with pytest.raises(AbsentError, match="Not a directory"):
        python("datasets")
