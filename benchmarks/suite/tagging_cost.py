"""What a CRF costs in fine-tuning a tagger: whole steps with it, against steps of a softmax over each word's tags.

Both sides are ours: the ratio is the cost. They train on the same texts, with every second token the first of a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from benchmarks.benchmark import OURS, Allocator, Benchmark, Context, Runs, Side
from pretune.errors import BenchError

_BATCHES = 16
_WARM = 16  # steps beforehand, of each side
_STEPS = 3  # of a run
_SEQUENCES, _LENGTH = 32, 126  # of a batch, the longest; special tokens come on top
_VOCABULARY, _SENTINELS = 30522, 100
_ORDINARY = 5 + _SENTINELS  # the first id that is no special token
_SHAPE = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}


class TaggingCost(Benchmark):
    """Whole steps of two decoders."""

    about = (
        "What a step of fine-tuning a tagger with a CRF costs: the ratio is its time over that of a step with a "
        "softmax, both ours (forward, backward, clipping, AdamW; a BERT of 6 layers, 384 wide, 32 texts of up to 128 "
        "tokens). The number of tags stands in the names."
    )
    variants: ClassVar[Mapping[str, int]] = {"crf-9": 9, "crf-41": 41}
    allocators: ClassVar[tuple[Allocator, ...]] = ("ours",)

    def sides(self, context: Context) -> list[Side]:
        """A softmax, and a CRF."""
        common = {"tags": self.variants[context.variant], "precision": context.precision}
        return [
            self.ours(**common, decoder="softmax"),
            Side("with a CRF", self.script, {**common, "decoder": "crf"}, setting="default"),
        ]

    def shapes(self, context: Context) -> Sequence[tuple[int, int, int]]:
        """Those of a block."""
        rows = _SEQUENCES * _LENGTH // 2
        return [(rows, 384, 384), (rows, 384, 1536), (rows, 1536, 384)]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Both trained on as many tokens, and on what is finite."""
        tokens = {label: [run["tokens"] for run in past] for label, past in runs.items()}
        if any(each != tokens[OURS] for each in tokens.values()):
            raise BenchError(f"the sides trained on different numbers of tokens: {tokens}")
        if not all(np.isfinite(run["loss"]) for past in runs.values() for run in past):
            raise BenchError("a loss is not finite")
        return {}


def setup(
    *, decoder: Literal["softmax", "crf"], tags: int, precision: Literal["bf16", "fp32"]
) -> Callable[[], dict[str, float]]:
    """A step of the training loop with one decoder."""
    import torch

    from pretune.draw import Draw
    from pretune.models import build
    from pretune.optim import adamw
    from pretune.optim.optimizer import build_optimizer
    from pretune.runtime.distributed import Distributed
    from pretune.runtime.precision import Precision
    from pretune.tasks.tagging import Tagging
    from pretune.text.samples.rows import Row
    from pretune.text.tokenizer.vocabulary import numbered
    from pretune.train.step import TrainModule, TrainStep

    labels = ("O", *(f"{part}-{n}" for n in range((tags - 1) // 2) for part in "BI"))
    config = Tagging.Config(labels=labels, scheme="IOB2", decoder=decoder)
    task = Tagging(config, numbered(_VOCABULARY, _SENTINELS))
    network = build("bert", "tiny", task.heads, overrides={"vocab_size": _VOCABULARY, **_SHAPE})
    task.setup(network, Draw(0))
    root = TrainModule(network, task).train()
    trainer = TrainStep(
        root,
        build_optimizer(root, adamw.Config(lr=1e-4)),
        Distributed(),
        torch.device("cpu"),
        Precision(precision, 0.0, "benchmark"),
        Draw(0),
        1.0,
    )
    random = np.random.default_rng(0)

    def row(batch: int, number: int) -> Row:
        length = int(random.integers(2, _LENGTH + 1))
        targets = np.stack([random.integers(0, len(labels), length), np.arange(length) % 2 == 0], axis=1)
        targets[1::2, 0] = -2  # no word begins there
        return Row((0, batch, number), random.integers(_ORDINARY, _VOCABULARY, length), targets=targets)

    batches = [task.build_batch([row(number, n) for n in range(_SEQUENCES)], Draw(1)) for number in range(_BATCHES)]
    step = 0

    def train_step() -> tuple[int, float]:
        nonlocal step
        batch = batches[step % _BATCHES]
        result = trainer.run(step, [batch], task.counts(batch), 1.0)
        step += 1
        return batch.layout.total, sum(result.sums.values())

    for _ in range(_WARM):
        train_step()

    def run() -> dict[str, float]:
        done = [train_step() for _ in range(_STEPS)]
        return {"tokens": float(sum(tokens for tokens, _ in done)), "loss": done[-1][1]}

    return run
