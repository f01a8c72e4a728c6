"""How the compiled file is found, refused and switched off."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from pretune import native
from pretune.errors import UsageError
from pretune.native import library, structs

needs_kernels = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled: make native")


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETUNE_NATIVE", "0")
    native.reload()
    assert not native.available()
    assert native.isa() is None
    assert native.reason() == "PRETUNE_NATIVE=0 switches them off"
    with pytest.raises(UsageError, match="no native kernels: PRETUNE_NATIVE=0"):
        library.library()


def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "__file__", str(folder / "library.py"))
    native.reload()


def test_without_a_compiled_file_it_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_folder(tmp_path, monkeypatch)
    with caplog.at_level(logging.INFO, logger="pretune"):
        assert not native.available()
        assert not native.available()
    assert len(caplog.records) == 1
    assert "make native" in caplog.text
    assert "torch does the work" in caplog.text


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_kernels.so").write_bytes(b"no library")
    in_folder(tmp_path, monkeypatch)
    assert "cannot be loaded" in (native.reason() or "")
    assert "run `make native`" in (native.reason() or "")


@needs_kernels
def test_a_file_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(f for f in Path(library.__file__).parent.glob("_kernels*") if f.suffix in (".so", ".pyd"))
    shutil.copy(file, tmp_path / file.name)
    monkeypatch.setattr(library, "ABI", structs.ABI + 1)
    in_folder(tmp_path, monkeypatch)
    assert f"of another version of pretune (interface {structs.ABI}, this one has {structs.ABI + 1})" in (
        native.reason() or ""
    )


@needs_kernels
def test_an_instruction_set_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETUNE_ISA", "avx1024")
    native.reload()
    with pytest.raises(UsageError, match="PRETUNE_ISA=avx1024: this processor has no such instruction set; use one of"):
        native.available()


@needs_kernels
def test_scalar_is_always_there() -> None:
    assert native.variants()["scalar"]
    assert native.isa() in native.variants()


def test_threads_follow_torch_unless_set() -> None:
    native.set_threads(None)
    assert native.threads() == torch.get_num_threads()
    native.set_threads(3)
    assert native.threads() == 3
    with pytest.raises(UsageError, match="threads must be 1 or more, got 0"):
        native.set_threads(0)
