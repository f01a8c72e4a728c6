"""Masked batches: sampler, reading, special tokens and masks, against a DataLoader with the collator of `transformers`.

Both sides draw the same windows in orders of their own, each once in a run, 32 at a time. What they hold is compared
by the number of tokens and the sum of their ids, and the masks by their rates, or the row does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.benchmark import OURS, Benchmark, Context, Runs, Search, Side, peer
from benchmarks.stores import SPECIAL, write_store
from pretune.errors import BenchError

LENGTH, BATCH, WINDOWS, VOCABULARY = 128, 32, 12_800, 16_000
RATES = {"chosen": (0.15, 0.005), "masked": (0.8, 0.01), "kept": (0.1, 0.01)}  # of masks, and how far off they may be


class Batches(Benchmark):
    """From windows on the disk to batches that a model takes."""

    about = (
        "Masked batches of 32 windows of up to 128 tokens, from the store to tensors: ours in one thread, and with the "
        "rows of the last layer named, which the peer has no need of."
    )
    variants: ClassVar[Mapping[str, str]] = {"packed": "stream", "ragged": "document"}

    def sides(self, context: Context) -> list[Side]:
        """Ours; a table of `datasets`, as the examples have it; windows in memory, at the setting that won."""
        pack = self.variants[context.variant]
        write(context.folder, pack)
        store = str(context.folder / "store")
        return [
            self.ours(store=store, pack=pack),
            _theirs(context, "arrow", "pt", 0),
            _theirs(context, "arrays", "np", 0),
        ]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """The same windows, and masks at the same rates."""
        results = {label: past[0] for label, past in runs.items()}
        for name in ("windows", "tokens", "id_sum"):
            if len({run[name] for run in results.values()}) > 1:
                raise BenchError(
                    f"the sides read different windows ({name}): { {k: t[name] for k, t in results.items()} }"
                )
        gaps: dict[str, float] = {}
        for label, run in results.items():
            ordinary = run["tokens"] - 2 * run["windows"]
            for name, (rate, max_gap) in RATES.items():
                gap = abs(run[name] / (ordinary if name == "chosen" else run["chosen"]) - rate)
                gaps[name] = max(gap, gaps.get(name, 0.0))
                if gap > max_gap:
                    raise BenchError(f"{label}: the rate of {name} tokens is {gap:.3f} off {rate}: it does not count")
        return {"windows": results[OURS]["windows"], "gaps": gaps}

    def search(self, context: Context) -> Search:
        """From the default."""
        axes: dict[str, Sequence[Any]] = {
            "storage": ["arrow", "lists", "arrays"],
            "tensors": ["pt", "np"],
            "workers": [0, 1, 2, 4],
        }
        return Search(_theirs(context, "arrow", "pt", 0), axes)


def _theirs(context: Context, storage: str, tensors: str, workers: int) -> Side:
    options = {
        "windows": str(context.folder / "windows.safetensors"),
        "tokenizer": str(context.folder / "store" / "tokenizer" / "tokenizer.json"),
        "batch": BATCH,
        "storage": storage,
        "tensors": tensors,
        "workers": workers,
        "padded": context.variant == "ragged",
    }
    name = f"DataLoader, {'datasets' if storage == 'arrow' else 'windows in memory'}, {tensors}"
    return Side(
        name, peer("collator"), options, environment="datasets", setting="default" if storage == "arrow" else "best"
    )


def write(folder: Path, pack: str) -> None:
    """A store of random tokens that has exactly the windows wanted, and the same windows for the peer."""
    from safetensors.numpy import save_file

    max_tokens = LENGTH - 2
    random = np.random.default_rng(0)
    sizes = np.full(WINDOWS, max_tokens)
    if pack != "stream":
        sizes = np.clip(random.geometric(1 / 62, WINDOWS), 2, max_tokens)
    tokens = random.integers(len(SPECIAL), VOCABULARY, int(sizes.sum()))
    if pack == "stream":
        documents = (tokens, np.array([len(tokens)]))
    else:
        documents = (np.insert(tokens, np.cumsum(sizes), SPECIAL.index("[SEP]")), sizes + 1)
    tokenizer = write_store(folder / "store", VOCABULARY, [documents])
    wrapped, lengths = tokenizer.vocabulary.add_special_tokens_to_runs(tokens, sizes)
    save_file({"tokens": wrapped, "lengths": lengths}, folder / "windows.safetensors")


def setup(*, store: str, pack: str) -> Callable[[], dict[str, Any]]:
    """What the feed of the training loop does for each step of one micro-batch."""
    from pretune.draw import Draw
    from pretune.objectives.mixture import build
    from pretune.text.samples.sampler import Sampler, partition
    from pretune.text.samples.views.view import build_view
    from pretune.text.store.store import TokenStore
    from pretune.text.tokenizer.tokenizer import Tokenizer

    opened = TokenStore.open(store)
    objective = build({"mlm": 1.0}, Tokenizer.load(opened.tokenizer_path).vocabulary)
    view = build_view(opened.split("train"), "stream", LENGTH - objective.overhead, 0, pack)
    sampler = Sampler([view], [1.0], Draw(1), batch_samples=BATCH, overhead=objective.overhead)
    cursor = sampler.start

    def step() -> Any:
        nonlocal cursor
        rows, cursor = sampler.next_batch(cursor)
        batch = objective.build_batch(partition(rows, 1)[0], Draw(1))
        objective.counts(batch)
        return batch

    facts = statistics([step() for _ in range(len(view) // BATCH)], "mlm")

    def run() -> dict[str, Any]:
        for _ in range(len(view) // BATCH):
            step()
        return facts

    return run


def statistics(batches: Sequence[Any], name: str) -> dict[str, Any]:
    """What an epoch holds and how it was masked."""
    count = dict.fromkeys(("windows", "tokens", "id_sum", "chosen", "masked", "kept"), 0)
    for batch in batches:
        index, label = batch.targets[name]
        before = batch.tokens.clone()
        before[index] = label
        now = batch.tokens[index]
        counts = (
            batch.layout.count,
            batch.layout.total,
            int(before.sum()),
            len(label),
            int((now == SPECIAL.index("[MASK]")).sum()),
            int((now == label).sum()),
        )
        count = {key: count[key] + number for key, number in zip(count, counts, strict=True)}
    return count
