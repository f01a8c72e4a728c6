"""A thousand flipped bits, over every kind of file that pretune writes: each is found when the file is used."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from trainkit import WORDS, make_store, recipe

from pretune.api import load
from pretune.config import validate
from pretune.errors import PretuneError
from pretune.interop.verify import verify
from pretune.report.report import write_report
from pretune.report.run_files import read_run
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.directory import RunDirectory
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain

pytestmark = pytest.mark.drill
FLIPS = 1000
PAGE = "report.html"  # nothing reads it again: `pretune verify` alone finds what changed


def _make(folder: Path) -> None:
    """A store, a finished run, deltas that need their base."""
    make_store(folder / "store")
    pretrain(recipe(folder / "run", folder / "store", track={"report": True}))
    write_report(folder / "run")
    rows = [{"text": f"{WORDS[n]} {WORDS[n + 1]}", "label": "ab"[n % 2]} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = recipe(folder / "tuned", folder / "store").model_dump(mode="json", exclude_unset=True)
    tree = {name: value for name, value in tree.items() if name not in ("objective", "evaluation")} | {
        "model": {"init": str(folder / "run")},
        "data": {"train": [str(folder / "rows.jsonl")], "length": 16, "batch": 8},
        "task": {"classification": {}},
        "budget": {"steps": 4},
    }
    finetune(validate(Recipe, tree, "recipe"))


def _read_store(path: Path) -> None:
    """As training and `evaluate` do."""
    store = TokenStore.open(path)
    store.verify()
    store.check_tokenizer(Tokenizer.load(store.tokenizer_path))


def _go_on(run: Path) -> None:
    """What a run that is started again reads first."""
    with RunDirectory(run) as directory:
        directory.resolve_recipe(recipe(run, run.parent / "store", budget={"steps": 20}))
        directory.facts()


def _uses(path: Path, root: Path) -> list[Callable[[], object]]:
    """What reads a file, each as a verb does."""
    parts = path.relative_to(root).parts
    folder = root / parts[0]
    if parts[0] == "store":
        return [lambda: _read_store(folder)]
    if parts[1].startswith("checkpoint-"):
        return [lambda: load(folder, "cpu", "fp32", step=int(parts[1].partition("-")[2]))]
    if parts[1] in ("initial", "delta"):
        return [lambda: load(folder / parts[1], "cpu", "fp32")]
    return [
        lambda: _go_on(folder),
        lambda: read_run(folder),
        lambda: load(folder, "cpu", "fp32"),
    ]  # the quick ones first


def _is_refused(use: Callable[[], object]) -> bool:
    try:
        use()
    except PretuneError:
        return True
    return False


@pytest.mark.timeout(900)
def test_a_thousand_flipped_bits_are_found(tmp_path: Path) -> None:
    root = tmp_path / "made"
    _make(root)
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    paths = [path for path in paths if path.name != "rows.jsonl"]  # the user's own
    draw = random.Random(23)
    counts: Counter[str] = Counter()
    missed: list[str] = []
    for number in range(FLIPS):
        path = paths[number % len(paths)]
        place = draw.randrange(8 * path.stat().st_size)
        raw = path.read_bytes()
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        name = f"{path.relative_to(root)} bit {place}"
        if not any(each.problem for each in verify(root / path.relative_to(root).parts[0])):
            missed.append(f"verify: {name}")
        if path.name != PAGE and not any(_is_refused(use) for use in _uses(path, root)):
            missed.append(f"use: {name}")
        path.write_bytes(raw)
        counts[path.name] += 1
    assert missed == []
    assert sum(counts.values()) == FLIPS
    assert len(counts) > 15
    shutil.rmtree(root)
