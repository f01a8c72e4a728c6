"""Memory of preparing against the amount of text: 10 MB, 100 MB, 1 GB of made-up words. Ours alone; no peer streams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.benchmark import Contestant, Given, Work
from benchmarks.suite.prepare import setup, train

__all__ = ["PrepareMemory", "setup"]


class PrepareMemory(Work):
    """A token store of ever more text."""

    about = "Memory of all processes of `pretune prepare` on growing amounts of generated text; ours alone."
    variants: ClassVar[Mapping[str, int]] = {"10MB": 10, "100MB": 100, "1000MB": 1000}
    amount, unit = "megabytes", "MB/s"
    fresh = True
    most = (1, 0)

    def contestants(self, given: Given) -> list[Contestant]:
        """Ours."""
        tokenizer = train(generate(given.folder / "small.jsonl", 5), "wordpiece", given.folder / "tokenizer")
        source = generate(given.folder / "source.jsonl", self.variants[given.variant])
        options = {"source": str(source), "tokenizer": str(tokenizer), "folder": str(given.folder)}
        return [self.ours(**options, processes=given.threads)]


def generate(path: Path, megabytes: int) -> Path:
    """Documents of Zipf-distributed made-up words, all different."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(letters[rng.geometric(0.12, rng.integers(2, 10)) % 26]) for _ in range(60_000)]
    marks = rng.choice(["", "", "", "", ",", ".", ". "], len(words))
    words = [word + mark for word, mark in zip(words, marks, strict=True)]
    number = 0
    with path.open("w") as file:
        while file.tell() < megabytes * 1_000_000:
            drawn = np.minimum(rng.zipf(1.15, 200_000), len(words)) - 1
            for run in drawn.reshape(-1, 200).tolist():
                file.write(json.dumps({"text": f"{number} " + " ".join(words[i] for i in run)}) + "\n")
                number += 1
    return path
