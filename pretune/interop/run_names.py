"""Names the files and folders of a run directory, for those who write it and those who read models from it."""

from __future__ import annotations

import re
from pathlib import Path

RECIPE, FACTS, INITIAL = "recipe.toml", "run.json", "initial"
VALIDATION = "validation.json"
GROWING = ("metrics.jsonl", "samples.json", VALIDATION, "report.html")
"""Written while a run goes on, and sealed when it has ended."""
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
"""Of a checkpoint."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(run: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return run / f"checkpoint-{step}"


def checkpoint_step(path: Path) -> int | None:
    """The step that the name of a checkpoint's folder says; None for a name of something else."""
    match = _CHECKPOINT.fullmatch(path.name)
    return int(match[1]) if match else None


def checkpoint_steps(run: Path) -> list[int]:
    """Steps that have a checkpoint folder, newest first, good or not."""
    steps = (checkpoint_step(entry) for entry in run.iterdir() if entry.is_dir())
    return sorted((step for step in steps if step is not None), reverse=True)
