"""Training steps of BERT (MLM) and GPT-2 (CLM) against `transformers`: same weights, same batches, equal first loss.

Ours multiplies in the faster format of this machine. The peer's default is what its `Trainer` does without being told:
fp32, batches padded to the row's fixed length, fused AdamW (its default since version 5), SDPA, attention dropout. At
its best it has our format by autocast and is padded to the longest of the batch, with attention dropout, where the
search found its eager attention to be the faster one, and without.
Only real tokens count. What is timed is the pace of a long run: the peer's shapes are all alike and the warm-ups do for
them, ours vary and take some more steps beforehand, with batches of their own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from benchmarks.benchmark import GEMM, OURS, Benchmark, Context, Limits, Run, Runs, Search, Side, peer
from pretune.errors import BenchError

BATCHES = 128  # different ones: more than a run of five rounds takes, so that no shape is met twice by design
WARM = 40  # steps of ours beforehand: its shapes vary, and until then each new one may still ask the system for memory
EQUAL = {"loss_fp32": (1e-5, True), "loss_bf16": (2e-2, False)}  # the largest gap of first losses; relative or not


@dataclass(frozen=True)
class Shape:
    """A model and the lengths of its batch.

    Attributes:
        fill: mean length / longest.
        steps: in a run.
        vocabulary: number of tokens; 0 for the family's own, as published.
    """

    family: Literal["bert", "gpt2"]
    layers: int
    width: int
    sequences: int
    length: int
    fill: float
    steps: int
    vocabulary: int = 0

    @property
    def task(self) -> str:
        """The objective, and its head."""
        return "mlm" if self.family == "bert" else "clm"

    @property
    def tokens(self) -> int:
        """The size of the vocabulary."""
        return self.vocabulary or {"bert": 30522, "gpt2": 50257}[self.family]

    def overrides(self) -> dict[str, int]:
        """The size in the family's own words."""
        heads, size = self.width // 64, self.tokens
        if self.family == "gpt2":
            return {"n_layer": self.layers, "n_embd": self.width, "n_head": heads, "vocab_size": size}
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": heads,
            "intermediate_size": 4 * self.width,
            "vocab_size": size,
        }

    def lengths(self, seed: int) -> list[int]:
        """Packed: all alike. Ragged: uniform, one of them the longest."""
        if self.fill == 1.0:
            return [self.length] * self.sequences
        low = max(2, round((2 * self.fill - 1) * self.length))
        drawn = np.random.default_rng(seed).integers(low, self.length + 1, self.sequences)
        drawn[0] = self.length
        return sorted(int(n) for n in drawn)


class TrainStep(Benchmark):
    """Whole steps: forward, backward, clipping, update."""

    about = (
        "Whole training steps: forward, backward, clipping, AdamW. Same weights, same batches, equal first loss; only "
        f"real tokens count. Utilization counts the FLOPs that our path executes. Ours is timed after "
        f"{WARM} steps, by which shapes that vary ask for no more memory; the peer's do not vary."
    )
    variants: ClassVar[Mapping[str, Shape]] = {
        "mlm-mini-packed": Shape("bert", 4, 256, 32, 128, 1.0, 3),
        "mlm-mini-ragged": Shape("bert", 4, 256, 32, 128, 0.53, 3),
        "mlm-base-packed": Shape("bert", 12, 768, 8, 128, 1.0, 2),
        "mlm-base-ragged": Shape("bert", 12, 768, 8, 128, 0.53, 2),
        "clm-6x384-packed": Shape("gpt2", 6, 384, 8, 256, 1.0, 2),
    }

    def sides(self, context: Context) -> list[Side]:
        """Ours; the peer as it comes; at its best with and without attention dropout."""
        from pretune.interop.huggingface import save_model
        from pretune.models import build

        shape = self.variants[context.variant]
        size = "base" if shape.family == "bert" else "small"
        save_model(build(shape.family, size, [shape.task], overrides=shape.overrides()), context.folder / "model")
        write_padded(shape, context.folder / "inputs.safetensors")
        common = {"model": str(context.folder / "model"), "precision": context.precision}
        return [
            self.ours(shape=asdict(shape), **common),
            _theirs(context, shape, "default", dropout=0.1, precision="fp32", padding="fixed"),
            _theirs(context, shape, "best", dropout=0.1, precision=context.precision, attention="eager"),
            _theirs(context, shape, "best", dropout=0.0, precision=context.precision),
        ]

    def shapes(self, context: Context) -> Sequence[tuple[int, int, int]]:
        """Those of a block."""
        shape = self.variants[context.variant]
        rows, width = sum(shape.lengths(0)), shape.width
        return [(rows, width, width), (rows, width, 4 * width), (rows, 4 * width, width)]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Equal first loss in each format that both sides know."""
        gaps: dict[str, float] = {}
        for name, (max_distance, relative) in EQUAL.items():
            losses = {label: past[0][name] for label, past in runs.items() if name in past[0]}
            if OURS not in losses:
                continue
            scale = losses[OURS] if relative else 1.0
            distances = [abs(loss - losses[OURS]) / scale for loss in losses.values()]
            if not all(distance <= max_distance for distance in distances):  # NaN is far from everything
                raise BenchError(f"first losses differ, the row does not count: {name} {losses}")
            gaps[name.replace("loss", "gap")] = max(distances)
        return gaps

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """The fraction of the GEMM peak."""
        fractions = [run["flops"] / run["seconds"] / peak for run, peak in zip(runs, limits[GEMM], strict=True)]
        return {
            "gemm_utilization": round(statistics.median(fractions), 3),
            "gemm_peak_gflops": [round(peak / 1e9) for peak in limits[GEMM]],
        }

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The fraction as a sentence."""
        fraction, peaks = facts["gemm_utilization"], facts["gemm_peak_gflops"]
        spread = f"{min(peaks)} .. {max(peaks)} GFLOP/s"
        return [f"{fraction:.0%} of the best matmul in that dtype on the model's shapes ({spread})"]

    def search(self, context: Context) -> Search:
        """From the default; the precision of this machine among the values."""
        start = _theirs(
            context, self.variants[context.variant], "default", dropout=0.1, precision="fp32", padding="fixed"
        )
        axes: dict[str, list[Any]] = {
            "precision": sorted({"fp32", context.precision}, reverse=True),
            "padding": ["fixed", "longest"],
            "attention": ["sdpa", "eager"],
            "optimizer": ["fused", "foreach"],
            "allocator": ["own", "ours"],
            "compile": [False, True],
        }
        return Search(start, axes)


def _theirs(
    context: Context,
    shape: Shape,
    setting: Literal["default", "best"],
    *,
    dropout: float,
    precision: str,
    padding: str = "longest",
    attention: str = "sdpa",
) -> Side:
    """The peer in one setting."""
    field = "attention_probs_dropout_prob" if shape.family == "bert" else "attn_pdrop"
    options = {
        "task": shape.task,
        "model": str(context.folder / "model"),
        "inputs": str(context.folder / "inputs.safetensors"),
        "steps": shape.steps,
        "precision": precision,
        "overrides": {field: dropout},
        "mask": shape.fill < 1,
        "padding": padding,
        "length": shape.length + (shape.family == "gpt2"),
        "attention": attention,
        "optimizer": "fused",
        "compile": False,
    }
    what = (
        f"default ({precision}, fixed padding)"
        if setting == "default"
        else f"{precision}, attention dropout {dropout:g}"
    )
    return Side(f"transformers {what}", peer("transformers_train"), options, "setup", "transformers", setting)


def batches_of(shape: Shape) -> tuple[Any, list[Any]]:
    """The objective and its batches: the same ones on both sides, however often this is called."""
    from pretune.draw import Draw
    from pretune.objectives.mixture import build
    from pretune.text.samples.rows import Row
    from pretune.text.tokenizer.vocabulary import numbered

    objective = build({shape.task: 1.0}, numbered(shape.tokens))
    extra = objective.lookahead - objective.overhead
    random = np.random.default_rng(0)
    out = []
    for number in range(BATCHES):
        lengths = enumerate(shape.lengths(number))
        rows = [Row((0, number, i), random.integers(5, shape.tokens, n + extra)) for i, n in lengths]
        out.append(objective.corrupt(objective.prepare(rows, Draw(1)), Draw(1)))
    return objective, out


def write_padded(shape: Shape, path: Path) -> None:
    """The batches as `transformers` wants them; labels -100 where nothing is predicted."""
    import torch
    from safetensors.torch import save_file

    batches = batches_of(shape)[1]
    shift = 0 if shape.family == "bert" else 1  # GPT-2 shifts labels by itself, so its input is one token longer
    tensors = {"tokens": torch.tensor([batch.layout.total for batch in batches])}
    for number, batch in enumerate(batches):
        index, label = next(iter(batch.targets.values()))
        flat = torch.full((batch.layout.total,), -100)
        flat[index] = label
        tokens = torch.zeros(batch.layout.count, batch.layout.max_length + shift, dtype=torch.long)
        labels, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
        for n, (start, stop) in enumerate(zip(batch.layout.bounds, batch.layout.bounds[1:], strict=False)):
            size = stop - start
            tokens[n, :size] = batch.tokens[start:stop]
            if shift:
                tokens[n, size] = flat[stop - 1]
            labels[n, shift : size + shift] = flat[start:stop]
            mask[n, : size + shift] = 1
        for name, x in {"input_ids": tokens, "labels": labels, "attention_mask": mask}.items():
            tensors[f"{number:03d}.{name}"] = x
    save_file(tensors, path)


def setup(
    *, shape: dict[str, Any], model: str, precision: Literal["bf16", "fp32"], warm: int = WARM
) -> Callable[[], dict[str, float]]:
    """pretune's own step: what the training loop calls.

    Args:
        warm: steps beforehand.
    """
    import torch

    from pretune.draw import Draw
    from pretune.interop.huggingface import load_model
    from pretune.models.flops import Flops
    from pretune.optim import adamw
    from pretune.optim.optimizer import build_optimizer
    from pretune.runtime.distributed import Distributed
    from pretune.runtime.precision import Precision
    from pretune.train.step import TrainModule, TrainStep

    sizes = Shape(**shape)
    network = load_model(model, heads=[sizes.task])
    objective, batches = batches_of(sizes)
    root = TrainModule(network, objective)
    losses = {f"loss_{p}": _first_loss(root.eval(), batches[0], p) for p in {"fp32", precision}}
    root.train()
    optimizer = build_optimizer(root, adamw.Config(lr=1e-4))
    train_step = TrainStep(
        root, optimizer, Distributed(), torch.device("cpu"), Precision(precision, 0.0, "benchmark"), Draw(0), 1.0
    )
    flops = Flops(network)
    for number, batch in enumerate(batches[-warm:]):
        train_step.run(number, [batch], objective.counts(batch), 1.0)
    step = 0

    def run() -> dict[str, float]:
        nonlocal step
        tokens = executed = 0.0
        for _ in range(sizes.steps):
            batch = batches[step % BATCHES]
            train_step.run(step, [batch], objective.counts(batch), 1.0)
            step += 1
            tokens += batch.layout.total
            executed += flops(batch)
        return {"tokens": tokens, "flops": executed, **losses}

    return run


def _first_loss(root: Any, batch: Any, precision: str) -> float:
    import torch

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        (term,) = root(batch)
    loss: float = float(term.sum) / term.count
    return loss
