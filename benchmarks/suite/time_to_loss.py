"""Wall-clock to the validation loss that `transformers`' Trainer reaches in ten minutes: masked language modelling.

Both begin with the same weights of BERT mini (4 layers, 256 wide, 30,522 tokens) and read the documentation of this
Python's packages, packed into windows of 128. The Trainer is at its best (bf16, fused AdamW, SDPA, no dropout, the
learning rate that our search found best for AdamW). Ours follows its recipe for a number of tokens that was fixed
beforehand. Both final models are evaluated by the same code on the same masked windows of held-out documents, outside
the clock; a round counts only if ours is at least as good.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.benchmark import OURS, Allocator, Benchmark, Context, Limits, Run, Runs, Side, peer
from pretune.errors import BenchError

LENGTH = 128
VOCABULARY = 30522
THEIR_LR = 1e-3


class TimeToLoss(Benchmark):
    """A run of ours against a run of the Trainer that is several times as long."""

    about = (
        "Wall-clock of a pretraining run (BERT mini, MLM) that ends at a validation loss at least as good as that of "
        "transformers' Trainer after its time. Same initial weights, corpus and evaluation."
    )
    variants: ClassVar[Mapping[str, Any]] = {
        "mlm-mini-10min": {"seconds": 600.0, "tokens": 1_000_000},
        "mlm-mini-1min": {"seconds": 60.0, "tokens": 160_000},
    }
    amount, unit = "", "runs/s"
    allocators: ClassVar[tuple[Allocator, ...]] = ("ours",)  # a run takes minutes: the setting that favours the peer
    max_rounds: ClassVar[tuple[int, int]] = (3, 0)
    recipe: ClassVar[Mapping[str, Any]] = {
        "data": {"batch": 32, "length": LENGTH, "pack": "stream", "length_warmup": 0.6},
        "optimizer": {"name": "muon", "lr": 6e-3},
        "schedule": {"kind": "linear", "warmup": 0.06},
        "model": {"dropout": 0.0},
    }

    def sides(self, context: Context) -> list[Side]:
        """A store and windows of the same text, and initial weights."""
        from pretune.interop.huggingface import save_model
        from pretune.models import build

        wanted = self.variants[context.variant]
        tokenizer, store = prepare_documentation(context.folder)
        save_model(build("bert", "mini", ["mlm"], overrides={"vocab_size": VOCABULARY}), context.folder / "model")
        np.save(context.folder / "windows.npy", windows(store))
        common = {"model": str(context.folder / "model"), "precision": context.precision}
        trainer = {
            "tokenizer": str(tokenizer),
            "windows": str(context.folder / "windows.npy"),
            "output": str(context.folder / "trainer"),
            "seconds": wanted["seconds"],
            "batch": 32,
            "lr": THEIR_LR,
        }
        return [
            self.ours(
                store=str(store),
                output=str(context.folder / "ours"),
                tokens=wanted["tokens"],
                recipe=dict(self.recipe),
                **common,
            ),
            Side("transformers Trainer", peer("transformers_pretrain"), trainer | common, "setup", "trainer", "best"),
        ]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Both validation losses of every round."""
        losses = {label: [evaluate(run["model"], context) for run in past] for label, past in runs.items()}
        for label, theirs in losses.items():
            if any(a > b for a, b in zip(losses[OURS], theirs, strict=True)):
                raise BenchError(f"ours did not reach the loss of {label}: {losses[OURS]} against {theirs}")
        return {f"validation loss, {label}": [round(loss, 4) for loss in past] for label, past in losses.items()} | {
            f"tokens, {label}": statistics.median(run["tokens"] for run in past) for label, past in runs.items()
        }

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """What was trained on."""
        return {"seconds": [round(run["seconds"], 1) for run in runs], "tokens": runs[0]["tokens"]}

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """Its length."""
        return [f"ours reads {facts['tokens']:,} tokens in {statistics.median(facts['seconds']):.0f} s"]


def prepare_documentation(folder: Path) -> tuple[Path, Path]:
    """The documentation that this Python carries, as a tokenizer and a store made with it."""
    from pretune.demo.pydocs import write_pydocs
    from pretune.text.readers.corpus import read_corpus
    from pretune.text.store.prepare import PrepareConfig, prepare
    from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

    source, tokenizer, store = folder / "source.jsonl", folder / "tokenizer", folder / "store"
    write_pydocs(source)
    config = TokenizerConfig(kind="wordpiece", vocab_size=VOCABULARY)
    words = train_tokenizer((document.text for document in read_corpus(source)), config)
    words.save(tokenizer)
    prepare(source, words, store, PrepareConfig())
    return tokenizer, store


def windows(store: Path) -> np.ndarray[Any, Any]:
    """The training split as `group_texts` packs it: documents between [CLS] and [SEP], cut every 128 tokens."""
    from pretune.text.store.store import TokenStore
    from pretune.text.tokenizer.tokenizer import Tokenizer

    opened = TokenStore.open(store)
    split, vocabulary = opened.split("train"), Tokenizer.load(opened.tokenizer_path).vocabulary
    tokens = split.read(0, split.token_count)
    cuts = np.asarray(split.document_offsets)[1:-1]
    stream = np.insert(tokens.astype(np.int32), cuts, vocabulary.cls or 0)  # each document ends with its [SEP] already
    return stream[: len(stream) // LENGTH * LENGTH].reshape(-1, LENGTH)


def evaluate(model: str, context: Context) -> float:
    """Mean loss on all held-out windows, with the masks that seed 0 draws."""
    from pretune.api import load

    trained = load(model, "cpu", context.precision, tokenizer=context.folder / "tokenizer")
    return trained.evaluate(context.folder / "store", objective={"mlm": 1.0}, length=LENGTH, pack="stream")["loss/mlm"]


def setup(
    *, model: str, precision: str, store: str, output: str, tokens: int, recipe: dict[str, Any]
) -> Callable[[], dict[str, Any]]:
    """Our side: `pretune.pretrain` from the folder of the initial weights."""
    from pretune import config
    from pretune.api import pretrain
    from pretune.train.recipe import Recipe

    runs = 0

    def run() -> dict[str, Any]:
        nonlocal runs
        runs += 1
        folder = str(Path(output) / f"run-{runs}")
        tree = {
            **recipe,
            "output": folder,
            "seed": runs,
            "precision": precision,
            "device": "cpu",
            "model": {**recipe["model"], "init": model},
            "data": {**recipe["data"], "stores": [store]},
            "objective": {"mlm": 1.0},
            "budget": {"tokens": tokens},
            "evaluation": {"samples": 0, "keep": "last"},
            "checkpoint": {"best": False},
            "track": {"progress": "quiet", "report": False},
        }
        start = time.perf_counter()
        pretrain(config.validate(Recipe, tree, "recipe"))
        return {"seconds": time.perf_counter() - start, "runs": 1, "tokens": tokens, "model": folder}

    return run
