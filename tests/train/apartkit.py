"""Runs of ranks in folders of their own, in a process that forks them: see `ranks_apart.py`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from trainkit import make_store, recipe, run_script


def run_apart(folder: Path, jobs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What `ranks_apart.py` prints, in a process of its own."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return run_script("ranks_apart.py", folder / "jobs.json")


def rank_folders(folder: Path, count: int = 2) -> list[Path]:
    """Folders of ranks, each with the same store in it."""
    places = [folder / f"rank{n}" for n in range(count)]
    store = make_store(folder / "store")
    for place in places:
        place.mkdir(parents=True)
        shutil.copytree(store, place / "store")
    return places


def job(place: Path, name: str, **over: Any) -> dict[str, Any]:
    tree = recipe(Path(name), Path("store"), **over).model_dump(mode="json")
    return {"recipe": tree, "folder": str(place)}
