"""Greedy decoding, batch 1, bf16, GPT-2 small shape with random weights, against `transformers.generate` in bf16.

Every run reads a prompt and decodes; the time of both counts. Our tokens are checked in fp32 by the peer's own model:
the logit of each, the ones before it context, is close to the largest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.benchmark import OURS, Benchmark, Context, Limits, Run, Runs, Side, peer
from benchmarks.limits import read_bandwidth
from benchmarks.runner import once
from pretune.errors import BenchError

VOCABULARY = 50257
MARGIN = 0.05


@dataclass(frozen=True)
class Lengths:
    """Tokens read and tokens written."""

    prompt: int
    new: int

    def tokens(self) -> list[int]:
        """The same prompt for all."""
        return [int(n) for n in np.random.default_rng(0).integers(0, VOCABULARY, self.prompt)]


class Decode(Benchmark):
    """The time to a whole answer."""

    about = (
        "Greedy decoding, batch 1, bf16, GPT-2 small shape, random weights; the prompt's time counts. The weights' "
        "GB/s are the bytes that a step must read times steps a second, beside a plain read of memory."
    )
    variants: ClassVar[Mapping[str, Lengths]] = {"gpt2-small-64+64": Lengths(64, 64)}

    def sides(self, context: Context) -> list[Side]:
        """Ours and `generate`."""
        lengths, folder = self.variants[context.variant], context.folder / "model"
        write_model(folder)
        common = {"model": str(folder), "prompt": lengths.tokens(), "new": lengths.new}
        theirs = peer("transformers_decode")
        return [
            self.ours(**common),
            Side("transformers bf16", theirs, common, environment="transformers", setting="best"),
        ]

    def limits(self, context: Context) -> dict[str, float]:
        """And a plain read of memory, in bytes a second."""
        return super().limits(context) | {"read": read_bandwidth()}

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Each of our tokens is as good as the best, by the peer's model in fp32."""
        chosen = runs[OURS][0]["chosen"]
        options = {
            "model": str(context.folder / "model"),
            "prompt": self.variants[context.variant].tokens(),
            "chosen": chosen,
        }
        judge = Side("transformers fp32", peer("transformers_decode"), options, "margin", "transformers")
        margin = once(judge, context.threads)["margin"]
        if not margin <= MARGIN:
            raise BenchError(f"one of our tokens is {margin:.3f} below the best fp32 logit, more than {MARGIN}")
        return {"margin": margin}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """How fast the weights are read."""
        speed = statistics.median(run["tokens"] / run["seconds"] for run in runs)
        return {
            "weights_gbs": speed * weight_bytes(context.folder / "model") / 1e9,
            "read_gbs": statistics.median(limits["read"]) / 1e9,
        }

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same beside what a plain read gives."""
        weights, read = facts["weights_gbs"], facts["read_gbs"]
        fraction = f"{weights / read:.0%} of a plain read's {read:.1f} GB/s"
        return [f"weights are read at {weights:.1f} GB/s, {fraction}"]


def write_model(folder: Path, size: str = "small") -> None:
    """A random GPT-2 with a tokenizer of as many words; nothing ends a text."""
    import tokenizers
    import torch

    from pretune.interop.huggingface import save_model
    from pretune.models import build

    torch.manual_seed(0)
    save_model(build("gpt2", size, ["clm"], overrides={"vocab_size": VOCABULARY}), folder)
    words = {f"w{n}": n for n in range(VOCABULARY)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")


def weight_bytes(folder: Path) -> int:
    """bf16 bytes that one step reads: all blocks and the vocabulary, positions left out."""
    from pretune.interop.huggingface import load_model

    model = load_model(folder)
    return 2 * sum(p.numel() for name, p in model.named_parameters() if "position" not in name)


def setup(*, model: str, prompt: list[int], new: int) -> Callable[[], dict[str, Any]]:
    """`pretune.load(...).continuations(...)`."""
    from pretune.api import load

    network = load(model, "cpu", "bf16")
    text = " ".join(f"w{n}" for n in prompt)

    def run() -> dict[str, Any]:
        (continuation,) = network.continuations([text], max_new_tokens=new)
        return {"tokens": float(len(continuation.tokens)), "chosen": list(continuation.tokens)}

    return run
