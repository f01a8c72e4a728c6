"""Greedy decoding, GPT-2 small shape with random weights, against `transformers`, CTranslate2 and llama.cpp.

Every run reads its prompts and decodes; the time of both counts. No side guesses tokens from what came before, as texts
of random weights repeat themselves; in rows `guesses` ours and `transformers` both do. Our tokens in bf16 are checked
in fp32 by the peer's own model: the logit of each, the ones before it context, is close to the largest. Several prompts
at once give what each gives alone. Rows `at-900` time steps alone, after 900 tokens and after 64. Rows `beam-4` search
with four beams, in fp32 on both sides and in bf16; in fp32 both must write the same text. Rows `torch` do
without our kernels.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np

from benchmarks.benchmark import OURS, Benchmark, Context, Limits, Run, Runs, Side, peer
from benchmarks.limits import read_bandwidth
from benchmarks.runner import once
from pretune.errors import BenchError

VOCABULARY = 50257
MARGIN = 0.05


@dataclass(frozen=True)
class Work:
    """What is read and written.

    Attributes:
        prompt: tokens of each prompt.
        new: tokens written after each.
        prompts: how many at once.
        format: of our weights.
        steps: steps alone are timed, against those after as many tokens.
        beams: of beam search; 1 decodes greedily.
        guesses: tokens are guessed from what came before, and checked, where a side can do it.
        kernels: ours has those in C; else torch does the work, as where there was no compiler.
    """

    prompt: int
    new: int
    prompts: int = 1
    format: str = "bf16"
    steps: int | None = None
    beams: int = 1
    guesses: bool = False
    kernels: bool = True

    def tokens(self) -> list[list[int]]:
        """The same prompts for all."""
        rng = np.random.default_rng(0)
        return [[int(n) for n in rng.integers(0, VOCABULARY, self.prompt)] for _ in range(self.prompts)]


_FORMATS = ("int8", "q8_0", "q4_0")
_PLAIN = ("bf16", "fp32")
_PEER_GUESSES = 10  # tokens, as the peer's documentation has it


class Decode(Benchmark):
    """The time to a whole answer."""

    about = (
        "Greedy decoding, or four beams, GPT-2 small shape, random weights; the prompt's time counts. The weights' "
        "GB/s are the bytes that a step must read times steps a second, beside a plain read of memory."
    )
    variants: ClassVar[Mapping[str, Work]] = {
        "gpt2-small-64+64": Work(64, 64),
        "gpt2-small-900+64": Work(900, 64),
        "gpt2-small-64+64-8-prompts": Work(64, 64, prompts=8),
        "gpt2-small-64+64-beam-4": Work(64, 64, beams=4, format="fp32"),
        "gpt2-small-64+64-beam-4-bf16": Work(64, 64, beams=4),
        "gpt2-small-at-900": Work(900, 64, steps=64),
        **{f"gpt2-small-64+64-{name}": Work(64, 64, format=name) for name in _FORMATS},
        **{f"gpt2-small-64+64-guesses-{name}": Work(64, 64, format=name, guesses=True) for name in ("bf16", "q8_0")},
        **{f"gpt2-small-64+64-torch-{name}": Work(64, 64, format=name, kernels=False) for name in ("bf16", "q4_0")},
        "gpt2-small-900+64-q8_0": Work(900, 64, format="q8_0"),
        "gpt2-small-64+64-8-prompts-q8_0": Work(64, 64, prompts=8, format="q8_0"),
    }

    def sides(self, context: Context) -> list[Side]:
        """Ours; `generate`, and the engines that are in the same format. Several prompts: ours one by one, too."""
        work, folder = self.variants[context.variant], context.folder / "model"
        write_model(folder)
        inputs = "int8" if work.kernels else "exact"  # torch gains nothing by rounded ones
        rounded = context.folder / work.format
        own = folder if work.format in _PLAIN else round_model(folder, rounded, work.format, inputs)
        common: dict[str, Any] = {"prompts": work.tokens(), "new": work.new}
        if work.beams > 1:
            options = {"model": str(own), **common, "beams": work.beams, "precision": work.format}
            name = f"transformers {work.format}, {work.beams} beams"
            return [self.ours(**options), Side(name, peer("transformers_decode"), options, environment="transformers")]
        if work.steps is not None:
            fewer = {"model": str(own), "prompt": work.tokens()[0][: work.steps], "new": work.new}
            whole = {**fewer, "prompt": work.tokens()[0]}
            return [
                Side(OURS, self.script, whole, "steps", allocator="ours"),
                Side(f"ours after {work.steps} tokens", self.script, fewer, "steps"),
            ]
        ours = self.ours(model=str(own), **common, guesses=work.guesses, kernels=work.kernels)
        out = [ours]
        if work.prompts > 1:
            out.append(Side("ours, one by one", self.script, ours.options, "one_by_one"))
        plain = {"model": str(folder), **common}
        given = plain | ({"guesses": _PEER_GUESSES} if work.guesses else {})
        out.append(Side("transformers bf16", peer("transformers_decode"), given, environment="transformers"))
        options = {**plain, "threads": context.threads, "folder": str(context.folder)}
        for name, script, environment, form in _engines(work.format) if work.kernels and not work.guesses else ():
            side = Side(name, peer(script), {**options, "format": form}, environment=environment, setting="best")
            out.append(side)
        return out

    def limits(self, context: Context) -> dict[str, float]:
        """And a plain read of memory, in bytes a second."""
        return super().limits(context) | {"read": read_bandwidth(timer=context.timer)}

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """In bf16 each of our tokens is as good as the best, by the peer's model in fp32; beams write its text."""
        work = self.variants[context.variant]
        if work.beams > 1:
            same = [past[0]["chosen"] == runs[OURS][0]["chosen"] for past in runs.values()]
            if work.format == "fp32" and not all(same):
                raise BenchError("beam search wrote another text than the peer's")
            return {"same_text": all(same)}
        if work.format != "bf16" or work.steps is not None:
            return {}
        options = {
            "model": str(context.folder / "model"),
            "prompt": work.tokens()[0],
            "chosen": runs[OURS][0]["chosen"],
        }
        judge = Side("transformers fp32", peer("transformers_decode"), options, "margin", "transformers")
        margin = once(judge, context.threads)["margin"]
        if not margin <= MARGIN:
            raise BenchError(f"one of our tokens is {margin:.3f} below the best fp32 logit, more than {MARGIN}")
        return {"margin": margin}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """How fast the weights are read."""
        work = self.variants[context.variant]
        steps = statistics.median(run["tokens"] / run["seconds"] for run in runs) / work.prompts  # all beams in one
        return {
            "weights_gbs": steps * weight_bytes(context.folder / "model", work.format) / 1e9,
            "read_gbs": statistics.median(limits["read"]) / 1e9,
        }

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same beside what a plain read gives."""
        weights, read = facts["weights_gbs"], facts["read_gbs"]
        fraction = f"{weights / read:.0%} of a plain read's {read:.1f} GB/s"
        return [f"weights are read at {weights:.1f} GB/s, {fraction}"]


def _engines(form: str) -> list[tuple[str, str, str, str]]:
    """Name, script, environment and format of the engines that a format of ours is held against."""
    ctranslate2 = ("ctranslate2 int8", "ctranslate2_decode", "ctranslate2", "int8")
    llama = {"bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
    own = [(f"llama.cpp {llama[form]}", "llamacpp_decode", "llama.cpp", llama[form])] if form in llama else []
    return own + ([ctranslate2] if form in ("int8", "q8_0") else [])


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


def round_model(model: Path, folder: Path, form: str, inputs: str = "int8") -> Path:
    """The same model with rounded weights and inputs; its vocabulary is in q8_0 where the layers are in q4_0."""
    from pretune.api import compress_model

    compress_model(model, "quantize", output=folder, format=form, inputs=inputs)
    return folder


def weight_bytes(folder: Path, form: str) -> float:
    """Bytes that one step reads: all blocks and the vocabulary, positions left out."""
    from pretune.interop.huggingface import load_model
    from pretune.nn.formats.format import find_format

    model = load_model(folder)
    vocabulary = model.embedding.word.size * model.width
    layers = sum(p.numel() for p in model.stack.parameters())
    bits = 32.0 if form == "fp32" else find_format(form).BITS
    return (layers * bits + vocabulary * (find_format("q8_0").BITS if form == "q4_0" else bits)) / 8


def setup(
    *,
    model: str,
    prompts: list[list[int]],
    new: int,
    beams: int = 1,
    precision: str | None = None,
    guesses: bool = False,
    kernels: bool = True,
) -> Callable[[], dict[str, Any]]:
    """`pretune.load(...).continuations(...)`, all prompts at once; each text must be what it is alone.

    Raises:
        BenchError: one is another.
    """
    network, texts = _load(model, precision, kernels), _texts(prompts)
    options: dict[str, Any] = {"max_new_tokens": new}
    if beams > 1:
        options["beams"] = beams
    elif not guesses:
        options["lookup"] = 0
    together = [list(each.tokens) for each in network.continuations(texts, **options)]
    for n, text in enumerate(texts if len(texts) > 1 else []):
        if list(network.continuations([text], **options)[0].tokens) != together[n]:
            raise BenchError(f"text {n + 1} is another alone")

    def run() -> dict[str, Any]:
        written = network.continuations(texts, **options)
        return {"tokens": float(sum(len(each.tokens) for each in written)), "chosen": list(written[0].tokens)}

    return run


def one_by_one(
    *, model: str, prompts: list[list[int]], new: int, guesses: bool = False, kernels: bool = True
) -> Callable[[], dict[str, Any]]:
    """The same, one prompt after another."""
    network, texts = _load(model, None, kernels), _texts(prompts)
    options: dict[str, Any] = {"max_new_tokens": new} | ({} if guesses else {"lookup": 0})

    def run() -> dict[str, Any]:
        written = [network.continuations([text], **options)[0] for text in texts]
        return {"tokens": float(sum(len(each.tokens) for each in written))}

    return run


def steps(*, model: str, prompt: list[int], new: int) -> Callable[[], dict[str, Any]]:
    """Steps after a prompt that was read before."""
    import torch

    from pretune.generate.session import DecodingSession
    from pretune.models.fuse import fuse

    network = fuse(_load(model).network)
    session = DecodingSession(network, VOCABULARY, 1, len(prompt) + new)
    first = session.read([np.array(prompt)]).argmax(1)

    def run() -> dict[str, Any]:
        session.truncate([len(prompt)])
        token: torch.Tensor = first
        for _ in range(new):
            token = session.feed(token).argmax(1)
        return {"tokens": float(new)}

    return run


def _load(model: str, precision: str | None = None, kernels: bool = True) -> Any:
    from pretune.api import load

    if not kernels:
        os.environ["PRETUNE_NATIVE"] = "0"
    rounded = kernels and Path(model).name in _FORMATS  # torch has products of packed rows in bf16 alone
    return load(model, "cpu", cast(Literal["fp32", "bf16"], precision or ("fp32" if rounded else "bf16")))


def _texts(prompts: list[list[int]]) -> list[str]:
    return [" ".join(f"w{n}" for n in prompt) for prompt in prompts]
