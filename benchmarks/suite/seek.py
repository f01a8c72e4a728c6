"""Going on in the middle of the data: from a closed store of a billion tokens to the batch of any step. Ours alone.

The store is random: what a seek costs does not hang on which tokens it reads. Its pages are in memory, as they are
after a run that was killed; the index of windows is on the disk, as the run that was killed has left it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.benchmark import Benchmark, Context, Limits, Run, Side
from benchmarks.stores import SPECIAL, write_store

TOKENS, DOCUMENT, LENGTH, BATCH, VOCABULARY = 1_000_000_000, 400, 512, 32, 1 << 15
_CHUNK = 10_000_000
_SEEKS = 20


class Seek(Benchmark):
    """The time to the batch that a run would have had next."""

    about = (
        f"Opening a store of {TOKENS / 1e9:g} billion tokens, moving to a step drawn at random and reading its batch "
        f"of {BATCH} windows of {LENGTH} tokens; ours alone, as no peer does without reading what lies before."
    )
    variants: ClassVar[Mapping[str, tuple[str, int]]] = {
        "stream": ("stream", 0),
        "documents": ("document", 0),
        "documents-by-length": ("document", 4096),
    }
    amount, unit = "seeks", "seeks/s"

    def sides(self, context: Context) -> list[Side]:
        """Ours."""
        pack, window = self.variants[context.variant]
        write_store(context.folder / "store", VOCABULARY, documents(TOKENS))
        return [self.ours(store=str(context.folder / "store"), pack=pack, window=window)]

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """Seconds of a seek, and of the first one, which makes the index."""
        return {
            "seek_seconds": median(run["seconds"] / run["seeks"] for run in runs),
            "slowest_seconds": max(run["slowest"] for run in runs),
            "first_seconds": max(run["first"] for run in runs),
        }

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as a sentence."""
        usual, slowest, first = (1e3 * facts[f"{name}_seconds"] for name in ("seek", "slowest", "first"))
        return [f"{usual:.2f} ms a seek, the slowest {slowest:.2f} ms, the very first on a new store {first:.0f} ms"]


def documents(tokens: int) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.int64]]]:
    """Random ones of so many tokens and a few more, some million at a time."""
    random = np.random.default_rng(0)
    while tokens > 0:
        sizes = random.geometric(1 / DOCUMENT, min(tokens, _CHUNK) // DOCUMENT + 1) + 1
        total = int(sizes.sum())
        yield random.integers(len(SPECIAL), VOCABULARY, total, np.uint16), sizes
        tokens -= total


def setup(*, store: str, pack: str, window: int) -> Callable[[], dict[str, Any]]:
    """Everything that a resumed run does before its first batch is there."""
    from time import perf_counter

    from pretune.draw import Draw
    from pretune.text.samples.sampler import Sampler
    from pretune.text.samples.views.view import build_view
    from pretune.text.store.store import TokenStore

    steps = np.random.default_rng(1)

    def seek() -> float:
        begin = perf_counter()
        view = build_view(TokenStore.open(store).split("train"), "stream", LENGTH - 2, 0, pack)
        sampler = Sampler([view], [1.0], Draw(0), batch_samples=BATCH, window=window, overhead=2)
        cursor = sampler.seek(int(steps.integers(0, 2 * len(view) // BATCH)))  # of two epochs
        rows, _ = sampler.next_batch(cursor)
        for row in rows:
            row.tokens.sum()
        return perf_counter() - begin

    first = seek()

    def run() -> dict[str, Any]:
        return {"seeks": _SEEKS, "slowest": max(seek() for _ in range(_SEEKS)), "first": first}

    return run
