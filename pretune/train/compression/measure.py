"""What a model costs and how well it does: size, held-out scores, and the speed of two models on the same work."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretune.batch import ragged
from pretune.draw import Draw
from pretune.evaluate.labelled import evaluate_data
from pretune.evaluate.recorded import trained_task
from pretune.evaluate.stores import evaluate_folder
from pretune.generate.generate import generate
from pretune.generate.options import GenerateConfig
from pretune.generate.session import context_length
from pretune.models.flops import flops_per_token
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.cast import cast_to_bf16
from pretune.nn.model_protocol import find_language_head
from pretune.nn.rounded import count_rounded
from pretune.runtime.device import inference_context, is_bf16
from pretune.scratch import ScratchFolder
from pretune.text.store.manifest import MANIFEST
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.tokenizer import Tokenizer

_PROMPT, _NEW, _TEXTS, _LENGTH = 32, 32, 16, 64  # tokens, and texts of an encoder
_ROUNDS = 5
_PLAIN = ("", ".txt", ".md", ".html")
_WEIGHTS = (".safetensors", ".gguf", ".bin")


def file_bytes(path: Path) -> int:
    """Bytes of the files of weights of a model."""
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.suffix in _WEIGHTS]
    return sum(file.stat().st_size for file in files)


def count_weights(model: LanguageModel) -> int:
    """Numbers that a model holds, those of a rounded matrix by the matrix that it stands for; shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters()) + count_rounded(model)


def operations(model: LanguageModel, length: int = 128) -> float:
    """Floating-point operations of the stack for a token of a text of so many tokens."""
    return flops_per_token(model, min(length, model.max_length or length))


def score(
    model: LanguageModel, tokenizer: Tokenizer, data: Sequence[str], folder: Path, split: str = "validation"
) -> dict[str, float]:
    """The scores of the model's task on labelled files, or the losses of its objective on texts or a token store.

    Args:
        folder: where the model was read, for what its files record.
        split: of a token store.

    Raises:
        PretuneError: as `pretune evaluate`.
    """
    length = context_length(model, tokenizer)
    if len(data) == 1 and (Path(data[0]) / MANIFEST).is_file():
        return _losses(model, tokenizer, Path(data[0]), folder, split, length)
    if any(Path(name).suffix.lower() not in _PLAIN for name in data) and _has_task(model):
        task = trained_task(model, tokenizer.vocabulary, folder)
        return dict(evaluate_data(fuse(model), tokenizer, task, list(data), length))
    with ScratchFolder("evaluation") as scratch:
        store = scratch / "store"
        prepare(list(data), tokenizer, store, PrepareConfig(validation=0, processes=1))
        return _losses(model, tokenizer, store, folder, "train", length)


def _has_task(model: LanguageModel) -> bool:
    metadata = model.metadata
    return bool(metadata.tasks) or metadata.task is not None or "classification" in model.heads


def _losses(
    model: LanguageModel, tokenizer: Tokenizer, store: Path, folder: Path, split: str, length: int
) -> dict[str, float]:
    return evaluate_folder(model, tokenizer, store, model_folder=folder, split=split, length=min(length, 512))


@dataclass(frozen=True)
class Speed:
    """Tokens a second of two models on the same work.

    Attributes:
        work: what they did, for people.
        before, after: tokens a second, of the fastest round of each.
        ratio: median over rounds of the second's speed over the first's.
        rounds: number of rounds, in each of which both ran, in turns.
    """

    work: str
    before: float
    after: float
    ratio: float
    rounds: int


def compare_speed(before: LanguageModel, after: LanguageModel, tokenizer: Tokenizer, *, half: bool) -> Speed:
    """Runs two models in turns on the same work.

    Args:
        half: plain weights are rounded to bf16 first, as where they are loaded for use.

    Raises:
        PretuneError: one of them cannot do it.
    """
    runs: list[Callable[[], int]] = []
    work = ""
    for model in (before, after):
        used = copy.deepcopy(model).eval()
        if half:
            cast_to_bf16(used)
        run, work = _work(fuse(used), tokenizer)
        runs.append(run)
    for run in runs:
        run()  # the first run packs weights
    seconds: list[tuple[float, float]] = []
    tokens = [0, 0]
    for number in range(_ROUNDS):
        pair = [0.0, 0.0]
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            tokens[side] = runs[side]()
            pair[side] = (time.perf_counter() - began) / max(1, tokens[side])
        seconds.append((pair[0], pair[1]))
    ratio = statistics.median(first / second for first, second in seconds)
    fastest = [1 / min(pair[side] for pair in seconds) for side in (0, 1)]
    return Speed(work, fastest[0], fastest[1], ratio, _ROUNDS)


def _work(model: LanguageModel, tokenizer: Tokenizer) -> tuple[Callable[[], int], str]:
    """What a model is timed on: greedy decoding of a language model, else a forward of some texts."""
    size = min(tokenizer.vocabulary.size, model.vocab_size)
    if find_language_head(model, "next") is not None and not model.has_encoder:
        room = context_length(model, tokenizer)
        prompt = min(_PROMPT, max(1, room // 2))
        new = min(_NEW, room - prompt)
        tokens = Draw(0).at("speed").below(np.arange(prompt), size)
        config = GenerateConfig(max_new_tokens=new, min_new_tokens=new, temperature=0.0)
        work = f"greedy decoding of {new} tokens behind {prompt}, one text"
        return lambda: len(generate(model, tokenizer, [tokens], config)[0].tokens), work
    length = min(_LENGTH, context_length(model, tokenizer))
    texts = [Draw(0).at("speed", n).below(np.arange(length), size) for n in range(_TEXTS)]
    batch = ragged(texts)

    def forward() -> int:
        with inference_context(model.device, is_bf16(model)):
            model(batch.to(model.device))
        return len(batch.tokens)

    return forward, f"a forward of {_TEXTS} texts of {length} tokens"
