"""What a training step of each objective costs, against one of masked language modelling.

Both sides are ours: the ratio is the cost. A run trains on the same texts, whatever an objective makes of them; for
`rtd` masked language modelling has the same discriminator, for the others a BERT of the same layers and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from benchmarks.benchmark import OURS, Allocator, Benchmark, Context, Runs, Side
from pretune.errors import BenchError

_BATCHES = 32
_WARM = 24  # steps beforehand, of each side
_SENTINELS = 100
_ORDINARY = 5 + _SENTINELS  # the first id that is no special token
_VOCABULARY = 30522


@dataclass(frozen=True)
class Step:
    """An objective, the size of its own family's model, and the family that masked language modelling trains.

    Attributes:
        sequences, length: of a batch; special tokens come on top.
        steps: in a run.
    """

    objective: str
    size: str
    baseline: str = "bert"
    sequences: int = 32
    length: int = 126
    steps: int = 3


class ObjectiveCost(Benchmark):
    """Whole steps of two objectives."""

    about = (
        "What a step of an objective costs: the ratio is its time over that of a step of masked language modelling "
        "on the same texts, both ours (forward, backward, clipping, AdamW, in batches of full length)."
    )
    variants: ClassVar[Mapping[str, Step]] = {
        "rtd-mini": Step("rtd", "mini", "electra"),
        "rtd-base": Step("rtd", "base", "electra", sequences=8, steps=1),
        "plm-mini": Step("plm", "mini"),
        "plm-base": Step("plm", "base", sequences=8, steps=1),
        "clm-mini": Step("clm", "mini"),
        "denoise-mini": Step("denoise", "mini"),
        "span-mini": Step("span", "mini"),
        "prefix-mini": Step("prefix", "mini"),
    }
    allocators: ClassVar[tuple[Allocator, ...]] = ("ours",)

    def sides(self, context: Context) -> list[Side]:
        """Masked language modelling, and the objective."""
        from pretune.find import find_class
        from pretune.objectives.objective import Objective

        step = self.variants[context.variant]
        family = find_class("objectives", step.objective, Objective).default_family  # type: ignore[type-abstract]
        common = {**asdict(step), "precision": context.precision}
        masked = {"objective": "mlm", "family": common.pop("baseline")}
        own = common | {"family": family}
        return [self.ours(**common | masked), Side(f"{step.objective} ({family})", self.script, own)]

    def shapes(self, context: Context) -> Sequence[tuple[int, int, int]]:
        """Those of a block."""
        step = self.variants[context.variant]
        width = 768 if step.size == "base" else 256
        rows = step.sequences * (step.length + 2)
        return [(rows, width, width), (rows, width, 4 * width), (rows, 4 * width, width)]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Both trained on as many tokens, and on what is finite."""
        tokens = {label: [run["tokens"] for run in past] for label, past in runs.items()}
        if any(each != tokens[OURS] for each in tokens.values()):
            raise BenchError(f"the sides trained on different numbers of tokens: {tokens}")
        if not all(np.isfinite(run["loss"]) for past in runs.values() for run in past):
            raise BenchError("a loss is not finite")
        return {}


def setup(
    *,
    objective: str,
    family: str,
    size: str,
    sequences: int,
    length: int,
    steps: int,
    precision: Literal["bf16", "fp32"],
) -> Callable[[], dict[str, float]]:
    """A step of the training loop with one objective."""
    import torch

    from pretune.draw import Draw
    from pretune.models import build
    from pretune.objectives.mixture import build as build_objective
    from pretune.optim import adamw
    from pretune.optim.optimizer import build_optimizer
    from pretune.runtime.distributed import Distributed
    from pretune.runtime.precision import Precision
    from pretune.text.samples.rows import Row
    from pretune.text.tokenizer.vocabulary import numbered
    from pretune.train.step import TrainModule, TrainStep

    trained = build_objective({objective: 1.0}, numbered(_VOCABULARY, _SENTINELS))
    network = build(family, size, trained.heads, overrides={"vocab_size": _VOCABULARY})
    trained.setup(network, Draw(0))
    root = TrainModule(network, trained).train()
    optimizer = build_optimizer(root, adamw.Config(lr=1e-4))
    trainer = TrainStep(
        root, optimizer, Distributed(), torch.device("cpu"), Precision(precision, 0.0, "benchmark"), Draw(0), 1.0
    )
    random = np.random.default_rng(0)
    texts = random.integers(_ORDINARY, _VOCABULARY, (_BATCHES, sequences, length + trained.lookahead))
    batches = [
        trained.build_batch([Row((0, number, i), tokens) for i, tokens in enumerate(text)], Draw(1))
        for number, text in enumerate(texts)
    ]
    step = 0

    def train_step() -> float:
        nonlocal step
        batch = batches[step % _BATCHES]
        result = trainer.run(step, [batch], trained.counts(batch), 1.0)
        step += 1
        return sum(result.sums.values())

    for _ in range(_WARM):
        train_step()

    def run() -> dict[str, float]:
        losses = [train_step() for _ in range(steps)]
        return {"tokens": float(steps * sequences * length), "loss": losses[-1]}

    return run
