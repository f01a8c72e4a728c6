"""Greedy decoding of a text that repeats what its prompt has, with guessed tokens and without; GPT-2 small shape, bf16.

The prompt is 64 random tokens and what the model writes after them, which it goes on to repeat. Both sides are ours and
write the same tokens; the prompt's time counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from benchmarks.benchmark import OURS, Benchmark, Context, Runs, Side
from benchmarks.suite.decode import VOCABULARY, write_model
from pretune.errors import BenchError


class Lookup(Benchmark):
    """The time to a whole answer."""

    about = (
        "Greedy decoding, batch 1, bf16, GPT-2 small shape, random weights, after a prompt of 64 random tokens and 64 "
        "that the model wrote: guessed tokens against none. The same tokens on both sides."
    )
    variants: ClassVar[Mapping[str, int]] = {"copied-128+64": 64, "copied-128+256": 256, "random-64+64": 0}

    def sides(self, context: Context) -> list[Side]:
        """With guesses and without."""
        write_model(context.folder / "model")
        new = self.variants[context.variant]
        common = {"model": str(context.folder / "model"), "new": new or 64, "copied": bool(new)}
        without = Side("ours without guesses", self.script, {**common, "lookup": 0}, allocator="ours")
        return [self.ours(**common, lookup=None), without]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """The tokens are equal."""
        if any(past[0]["chosen"] != runs[OURS][0]["chosen"] for past in runs.values()):
            raise BenchError("guesses changed the text")
        return {}


def setup(*, model: str, new: int, copied: bool, lookup: int | None) -> Callable[[], dict[str, Any]]:
    """`pretune.load(...).continuations(...)`."""
    from pretune.api import load

    network = load(model, "cpu", "bf16")
    options: dict[str, Any] = {} if lookup is None else {"lookup": lookup}
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 64).tolist()

    def text(ids: list[int]) -> str:
        return " ".join(f"w{n}" for n in ids)

    if copied:
        (first,) = network.continuations([text(tokens)], max_new_tokens=64, lookup=0)
        tokens += first.tokens

    def run() -> dict[str, Any]:
        (continuation,) = network.continuations([text(tokens)], max_new_tokens=new, **options)
        return {"tokens": float(len(continuation.tokens)), "chosen": list(continuation.tokens)}

    return run
