"""Memory of preparing against the amount of text: 10 MB, 100 MB, 1 GB of made-up words. Ours alone; no peer streams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.benchmark import Benchmark, Context, Side
from benchmarks.suite.prepare import setup, train

SAMPLE = 5  # megabytes that the tokenizer is trained on
__all__ = ["PrepareMemory", "setup"]


class PrepareMemory(Benchmark):
    """A token store of ever more text."""

    about = "Memory of all processes of `pretune prepare` on growing amounts of generated text; ours alone."
    variants: ClassVar[Mapping[str, int]] = {"10MB": 10, "100MB": 100, "1000MB": 1000}
    amount, unit = "megabytes", "MB/s"
    fresh = True
    max_rounds = (1, 0)

    def sides(self, context: Context) -> list[Side]:
        """Ours."""
        tokenizer = train(generate(context.folder / "small.jsonl", SAMPLE), "wordpiece", context.folder / "tokenizer")
        source = generate(context.folder / "source.jsonl", self.variants[context.variant])
        options = {"source": str(source), "tokenizer": str(tokenizer), "folder": str(context.folder)}
        return [self.ours(**options, processes=context.threads)]


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
