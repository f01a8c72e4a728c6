"""What a training step of each objective costs, against one of masked language modelling.

Both sides are ours: the ratio is the cost. A turn trains on the same texts, whatever an objective makes of them; for
`rtd` masked language modelling has the same discriminator, for the others a BERT of the same layers and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from pretune.bench.work import OURS, Allocator, Contestant, Given, Turns, Work
from pretune.errors import BenchError

_BATCHES = 32
_WARM = 24  # steps beforehand, of each side
_SPECIAL = 5
_SENTINELS = 100
_VOCABULARY = 30522


@dataclass(frozen=True)
class Step:
    """An objective, the model that it trains, and the one that masked language modelling trains.

    Attributes:
        sequences, length: of a batch; special tokens come on top.
        steps: in a turn.
    """

    objective: str
    family: str
    size: str
    baseline: str = "bert"
    sequences: int = 32
    length: int = 126
    steps: int = 3


class ObjectiveCost(Work):
    """Whole steps of two objectives."""

    about = (
        "What a step of an objective costs: the ratio is its time over that of a step of masked language modelling "
        "on the same texts, both ours (forward, backward, clipping, AdamW, in batches of full length)."
    )
    variants: ClassVar[Mapping[str, Step]] = {
        "rtd-mini": Step("rtd", "electra", "mini", "electra"),
        "rtd-base": Step("rtd", "electra", "base", "electra", sequences=8, steps=1),
        "plm-mini": Step("plm", "xlnet", "mini"),
        "plm-base": Step("plm", "xlnet", "base", sequences=8, steps=1),
        "clm-mini": Step("clm", "gpt2", "mini"),
        "denoise-mini": Step("denoise", "bart", "mini"),
        "span-mini": Step("span", "t5", "mini"),
        "prefix-mini": Step("prefix", "t5", "mini"),
    }
    allocators: ClassVar[tuple[Allocator, ...]] = ("ours",)

    def contestants(self, given: Given) -> list[Contestant]:
        """Masked language modelling, and the objective."""
        step = self.variants[given.variant]
        base = {**asdict(step), "precision": given.precision}
        base.pop("baseline")
        masked = {**base, "objective": "mlm", "family": step.baseline}
        return [self.ours(**masked), Contestant(f"{step.objective} ({step.family})", self.script, base)]

    def shapes(self, given: Given) -> Sequence[tuple[int, int, int]]:
        """Those of a block."""
        step = self.variants[given.variant]
        width = 768 if step.size == "base" else 256
        rows = step.sequences * (step.length + 2)
        return [(rows, width, width), (rows, width, 4 * width), (rows, 4 * width, width)]

    def check(self, given: Given, turns: Turns) -> dict[str, Any]:
        """Both trained on as many tokens, and on what is finite."""
        tokens = {label: [turn["tokens"] for turn in past] for label, past in turns.items()}
        if any(each != tokens[OURS] for each in tokens.values()):
            raise BenchError(f"the sides trained on different numbers of tokens: {tokens}")
        if not all(np.isfinite(turn["loss"]) for past in turns.values() for turn in past):
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
    from pretune.text.rows import Row
    from pretune.train.optimizer import OptimizerConfig, build_optimizer
    from pretune.train.parallel import World
    from pretune.train.precision import Precision
    from pretune.train.step import Root, Stepper

    made = build_objective({objective: 1.0}, _vocabulary())
    network = build(family, size, list(made.roles), overrides={"vocab_size": _VOCABULARY})
    made.attach(network, Draw(0))
    root = Root(network, made).train()
    optimizer = build_optimizer(root, OptimizerConfig(lr=1e-4))
    stepper = Stepper(
        root, optimizer, World(), torch.device("cpu"), Precision(precision, 0.0, "benchmark"), Draw(0), 1.0
    )
    random = np.random.default_rng(0)
    texts = random.integers(_SPECIAL + _SENTINELS, _VOCABULARY, (_BATCHES, sequences, length + made.lookahead))
    batches = [
        made.make([Row((0, number, i), tokens) for i, tokens in enumerate(text)], Draw(1))
        for number, text in enumerate(texts)
    ]
    step = 0

    def run() -> float:
        nonlocal step
        batch = batches[step % _BATCHES]
        result = stepper.run(step, [batch], made.counts(batch), 1e-4)
        step += 1
        return sum(result.sums.values())

    for _ in range(_WARM):
        run()

    def turn() -> dict[str, float]:
        losses = [run() for _ in range(steps)]
        return {"tokens": float(steps * sequences * length), "loss": losses[-1]}

    return turn


def _vocabulary() -> Any:
    from pretune.text.vocabulary import Vocabulary

    special = np.zeros(_VOCABULARY, bool)
    special[: _SPECIAL + _SENTINELS] = True
    return Vocabulary(
        size=_VOCABULARY, pad=0, unk=1, cls=2, sep=3, mask=4, bos=None, eos=None, special=special,
        continuation=np.zeros(_VOCABULARY, bool), sentinels=tuple(range(_SPECIAL, _SPECIAL + _SENTINELS)),
    )  # fmt: skip
