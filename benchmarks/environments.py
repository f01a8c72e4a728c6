"""Virtual environments of the peers, made on first use, so that neither side bends the versions of the other.

They stand in `~/.cache/pretune/peers/NAME-HASH`, or below PRETUNE_PEERS; the hash is of the requirements and of the
Python. pip's own variables say where packages come from: on Linux, where the index holds torch for CUDA only,
`PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` spares gigabytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pretune.errors import BenchError

log = logging.getLogger(__name__)

OURS = ("pretune", "torch", "numpy", "tokenizers")
_TORCH = ("torch==2.13.0", "numpy==2.4.6", "safetensors==0.8.0")
_TRANSFORMERS = "transformers==5.23.0"
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "transformers": (*_TORCH, _TRANSFORMERS, "tokenizers==0.23.3"),
    "trainer": (*_TORCH, _TRANSFORMERS, "tokenizers==0.23.3", "accelerate==1.15.0"),
    "peft": (*_TORCH, _TRANSFORMERS, "tokenizers==0.23.3", "accelerate==1.15.0", "peft==0.21.2"),
    "adapters": (*_TORCH, "transformers==4.57.6", "adapters==1.3.0", "accelerate==1.15.0"),
    "datasets": (*_TORCH, _TRANSFORMERS, "tokenizers==0.23.3", "datasets==5.2.0"),
    "sentence-transformers": (*_TORCH, _TRANSFORMERS, "sentence-transformers==6.2.0"),
    "setfit": (*_TORCH, _TRANSFORMERS, "sentence-transformers==6.2.0", "setfit==1.2.0"),
    "onnxruntime": (*_TORCH, _TRANSFORMERS, "onnxruntime==1.32.0", "onnx==1.23.2", "onnxscript==0.7.2"),
    "ctranslate2": ("numpy==2.4.6", "safetensors==0.8.0", "ctranslate2==4.8.5"),
    "llama.cpp": (  # its CMake builds for the processor of the machine
        "numpy==2.4.6",
        "safetensors==0.8.0",
        "gguf==0.19.0",
        "--no-binary=llama-cpp-python",
        "llama-cpp-python==0.3.36",
    ),
    "pytorch-crf": (*_TORCH, "pytorch-crf==0.7.2"),
    "litgpt": (*_TORCH, "litgpt==0.5.13"),
}
_failed: dict[Path, str] = {}  # what could not be made, and why: another try would take as long
_DONE = "pretune.json"  # the last file of a complete environment
_TAIL = 5  # lines of pip's complaint that are shown


class AbsentError(BenchError):
    """A peer that cannot be installed here: its rows are left out, and that is said."""


def packages(name: str | None) -> list[str]:
    """Whose versions are recorded."""
    return (
        [*OURS]
        if name is None
        else [each.partition("==")[0] for each in ENVIRONMENTS[name] if not each.startswith("-")]
    )


def python(name: str | None) -> Path:
    """The interpreter of an environment, which is made if it is not there; None is this one.

    Raises:
        AbsentError: it cannot be made.
    """
    if name is None:
        return Path(sys.executable)
    requirements = ENVIRONMENTS[name]
    key = hashlib.sha256(json.dumps([requirements, sys.version]).encode()).hexdigest()[:12]
    folder = home() / f"{name}-{key}"
    interpreter = folder / "bin" / "python"
    if (folder / _DONE).exists():
        return interpreter
    if folder in _failed:
        raise AbsentError(_failed[folder])
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # two runs may want it at once
            if not (folder / _DONE).exists():
                _make(folder, interpreter, requirements)
    except (OSError, BenchError) as error:
        _failed[folder] = f"{name}: its environment cannot be made in {folder.parent} (PRETUNE_PEERS): {error}"
        raise AbsentError(_failed[folder]) from error
    return interpreter


def home() -> Path:
    """Where the environments stand."""
    return Path(os.environ.get("PRETUNE_PEERS", Path.home() / ".cache" / "pretune" / "peers"))


def _make(folder: Path, interpreter: Path, requirements: tuple[str, ...]) -> None:
    log.info(f"installing {', '.join(requirements)} -> {folder} (minutes, once)")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    pip: list[str | Path] = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands: list[list[str | Path]] = [[sys.executable, "-m", "venv", folder], [*pip, *requirements]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            output = "\n".join((done.stderr or done.stdout).splitlines()[-_TAIL:])
            raise BenchError(output)
    (folder / _DONE).write_text(json.dumps({"requirements": requirements, "python": sys.version}, indent=1))
