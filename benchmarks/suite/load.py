"""Loading a model of 500 MB whose files have digests, against the same files without, and against `transformers`.

The files are in memory, as they are when a model was just copied or is loaded again. Every run ends with the first
token of an answer, as a peer that maps its file has read nothing before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.benchmark import Allocator, Benchmark, Context, Limits, Run, Runs, Side, peer
from benchmarks.limits import read_bandwidth
from benchmarks.suite.decode import write_model
from pretune.errors import BenchError

PROMPT = "w7 w8 w9"
_READ = "read"


class Load(Benchmark):
    """The time from a folder to a model."""

    about = (
        "From a folder to the first token: a GPT-2 small of 498 MB and its tokenizer in fp32, from files in memory. "
        "Ours checks every byte against the digests that it wrote; the same folder without digests has nothing to "
        "check, and `transformers` never does."
    )
    variants: ClassVar[Mapping[str, None]] = {"gpt2-small": None}
    amount, unit = "bytes", "B/s"
    allocators: ClassVar[tuple[Allocator, ...]] = ("ours",)
    together = True

    def sides(self, context: Context) -> list[Side]:
        """Ours; ours without digests; `from_pretrained`."""
        from pretune.seals import SEAL

        sealed, bare = context.folder / "sealed", context.folder / "bare"
        write_model(sealed)
        shutil.copytree(sealed, bare, copy_function=os.link)  # the same pages
        (bare / SEAL).unlink()
        without = Side("pretune, without digests", self.script, {"model": str(bare)}, setting="best")
        options = {"model": str(sealed), "prompt": PROMPT}
        theirs = Side("transformers from_pretrained", peer("transformers_load"), options, environment="transformers")
        return [self.ours(model=str(sealed)), without, theirs]

    def limits(self, context: Context) -> dict[str, float]:
        """A plain read of memory, in bytes a second."""
        return {_READ: read_bandwidth()}

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """All give the same token."""
        if len(answers := {str(run["answer"]).strip() for side in runs.values() for run in side}) > 1:
            raise BenchError(f"the sides answer {sorted(answers)}: the row does not count")
        return {}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """The fraction of the bandwidth at which the weights come in."""
        fractions = [run["bytes"] / run["seconds"] / peak for run, peak in zip(runs, limits[_READ], strict=True)]
        return {"read_utilization": round(sorted(fractions)[len(fractions) // 2], 3)}

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as a sentence."""
        return [f"ours: {facts['read_utilization']:.0%} of a plain read of memory"]


def setup(*, model: str) -> Callable[[], dict[str, Any]]:
    """Our side."""
    from pretune.api import load

    size = (Path(model) / "model.safetensors").stat().st_size

    def run() -> dict[str, Any]:
        loaded = load(model, "cpu", "fp32")
        return {"bytes": size, "answer": loaded.continuations([PROMPT], max_new_tokens=1, temperature=0)[0].text}

    return run
