"""A linear-chain CRF against pytorch-crf: the loss with its gradient, and the best labels, on one thread.

Both sides have the same scores, labels and transitions, ours ragged and the peer's padded. Losses, the sizes of all
gradients and every label must be equal, or the row does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from benchmarks.benchmark import OURS, Benchmark, Context, Limits, Run, Runs, Side, peer
from pretune.errors import BenchError

_REPEATS = {"loss": 20, "labels": 5}  # in a run
_CLOSE = 1e-4  # relative, of losses and of gradients, both in fp32


@dataclass(frozen=True)
class Sequences:
    """How many sequences of up to how many tokens are scored with how many labels, and what is computed of them."""

    work: Literal["loss", "labels"]
    labels: int
    count: int
    max_length: int


class Crf(Benchmark):
    """Sequences of scores in; losses and gradients, or labels, out."""

    about = (
        "A linear-chain CRF over sequences of scores, on one thread: `loss` is the loss with the gradients of scores "
        "and transitions of 32 sequences of up to 128 tokens, `labels` the best labels of 1,000 sentences of up to 60. "
        "The numbers of labels stand in the names. Same scores, labels and transitions; equal results."
    )
    variants: ClassVar[Mapping[str, Sequences]] = {
        "loss-9": Sequences("loss", 9, 32, 128),
        "loss-21": Sequences("loss", 21, 32, 128),
        "loss-41": Sequences("loss", 41, 32, 128),
        "labels-9": Sequences("labels", 9, 1000, 60),
        "labels-21": Sequences("labels", 21, 1000, 60),
    }

    def sides(self, context: Context) -> list[Side]:
        """Ours and pytorch-crf, which has no settings."""
        wanted = self.variants[context.variant]
        path = str(context.folder / "sequences.safetensors")
        write(path, wanted)
        options = {"path": path, "work": wanted.work, "repeats": _REPEATS[wanted.work]}
        theirs = Side("pytorch-crf", peer("pytorch_crf"), options, "setup", "pytorch-crf", "default", threads=1)
        return [Side(OURS, self.script, options, allocator="ours", threads=1), theirs]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Equal losses and gradients, or labels."""
        results = {label: past[0]["results"] for label, past in runs.items()}
        gaps = {
            label: max(abs(a - b) / (1e-9 + abs(b)) for a, b in zip(results[OURS], theirs, strict=True))
            for label, theirs in results.items()
        }
        if max(gaps.values()) > (_CLOSE if self.variants[context.variant].work == "loss" else 0.0):
            raise BenchError(f"the results differ, relative to the peer's: {gaps}; the row does not count")
        return {"gap": max(gaps.values())}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """Milliseconds of a pass over all sequences."""
        repeats = _REPEATS[self.variants[context.variant].work]
        return {"milliseconds": round(1e3 * float(np.median([run["seconds"] for run in runs])) / repeats, 2)}

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as a sentence."""
        return [f"ours: {facts['milliseconds']} ms for all sequences"]


def write(path: str, wanted: Sequences) -> None:
    """Random scores, labels and transitions of sequences of all lengths."""
    from safetensors.numpy import save_file

    random = np.random.default_rng(0)
    lengths = random.integers(1, wanted.max_length + 1, wanted.count)
    lengths[0] = wanted.max_length
    total, labels = int(lengths.sum()), wanted.labels
    arrays = {
        "scores": random.standard_normal((total, labels)),
        "first": random.standard_normal(labels),
        "between": random.standard_normal((labels, labels)),
        "last": random.standard_normal(labels),
    }
    integers = {"lengths": lengths, "labels": random.integers(0, labels, total)}
    save_file({name: array.astype(np.float32) for name, array in arrays.items()} | integers, path)


def setup(*, path: str, work: Literal["loss", "labels"], repeats: int) -> Callable[[], dict[str, Any]]:
    """Read the sequences; a run goes over them some times."""
    import torch
    from safetensors.torch import load_file

    from pretune.batch import Layout
    from pretune.nn.crf import CRF

    arrays = load_file(path)
    scores, labels = arrays["scores"].requires_grad_(), arrays["labels"]
    lengths = arrays["lengths"].tolist()
    brick = CRF(scores.shape[1], gain=1.0)
    brick.load_state_dict({name: arrays[name] for name in ("first", "between", "last")})
    variables = [scores, brick.first, brick.between, brick.last]

    def compute() -> list[float]:
        layout = Layout.of(lengths)  # which remembers the order of its rows
        if work == "labels":
            return brick.decode(scores, layout).tolist()
        loss = brick(scores, labels, layout).sum()
        grads = torch.autograd.grad(loss, variables)
        return [loss.item(), *(grad.norm().item() for grad in grads)]

    def run() -> dict[str, Any]:
        for _ in range(repeats):
            results = compute()
        return {"tokens": float(repeats * len(scores)), "results": results}

    return run
