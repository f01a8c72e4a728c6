"""A tiny store, tokenizer and recipes, on which whole runs take a second."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from pretune.config import merge, validate
from pretune.find import find_class
from pretune.objectives.objective import Objective
from pretune.runtime import precision
from pretune.seals import sealed_json
from pretune.text.store.manifest import FORMAT, MANIFEST, VERSION
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.recipe import Recipe
from pretune.train.step import TrainStep

TIMES = ("time", "tokens_per_second", "data_wait", "gemm_utilization")
WORDS = [f"w{n}" for n in range(59)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def make_tokenizer(folder: Path, sentinels: int = 0) -> Tokenizer:
    """A word-level tokenizer of 64 tokens, BERT's special ones among them, and sentinels behind them."""
    gaps = [f"<extra_id_{n}>" for n in range(sentinels)]
    vocabulary = {word: n for n, word in enumerate([*SPECIAL, *WORDS, *gaps])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([*SPECIAL, *gaps])
    roles = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    Tokenizer(backend, roles).save(folder)
    return Tokenizer.load(folder)


def make_store(folder: Path, documents: int = 60, seed: int = 0, sentinels: int = 0) -> Path:
    """A store of documents in which each token mostly follows from the one before it."""
    tokenizer = make_tokenizer(folder / "tokenizer", sentinels)
    rng = np.random.default_rng(seed)
    splits = {
        "train": _split(folder, "train", rng, documents),
        "validation": _split(folder, "validation", rng, max(4, documents // 6)),
    }
    tree = {
        "format": FORMAT,
        "version": VERSION,
        "tokenizer_hash": tokenizer.hash,
        "vocab_size": tokenizer.vocabulary.size,
        "end": 3,
        "corpus": "0" * 64,
        "domains": {},
        "splits": splits,
        "config": {},
        "data_stats": {"documents": documents},
    }
    (folder / MANIFEST).write_bytes(sealed_json(tree))
    return folder


def _split(folder: Path, name: str, rng: np.random.Generator, documents: int) -> dict[str, Any]:
    tokens: list[int] = []
    ends, sentences = [0], []
    for _ in range(documents):
        for _ in range(int(rng.integers(3, 7))):
            sentences.append(len(tokens))
            word = int(rng.integers(0, 59))
            for _ in range(int(rng.integers(4, 12))):
                tokens.append(5 + word)
                word = (word * 7 + 3) % 59 if rng.random() < 0.9 else int(rng.integers(0, 59))
        tokens.append(3)
        ends.append(len(tokens))
    arrays = {
        "tokens-00000": np.array(tokens, np.uint16),
        "documents": np.array(ends, np.int64),
        "sentences": np.array(sentences, np.int64),
    }
    files = {}
    for part, array in arrays.items():
        path = folder / f"{name}-{part}.npy"
        np.save(path, array)
        raw = path.read_bytes()
        files[part] = {
            "file": path.name,
            "items": len(array),
            "dtype": str(array.dtype),
            "bytes": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
        }
    return {
        "tokens": len(tokens),
        "documents": documents,
        "sentences": len(sentences),
        "unknown": 0,
        "shards": [files["tokens-00000"]],
        "document_file": files["documents"],
        "sentence_file": files["sentences"],
    }


def recipe(output: Path, store: Path, **over: Any) -> Recipe:
    """A run of ten steps of MLM and NSP in fp32 on one thread, quiet; tables in `over` are merged into it."""
    tree: dict[str, Any] = {
        "output": str(output),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "model": {"family": "bert", "overrides": SHAPE, "size": "tiny"},
        "data": {"stores": [str(store)], "length": 32, "batch": 8},
        "objective": {"mlm": 1.0, "nsp": 1.0},
        "budget": {"steps": 10},
        "checkpoint": {"every": 5},
        "evaluation": {"samples": 16, "every": 5},
        "track": {"every": 2, "progress": "quiet", "report": False},
    }
    return validate(Recipe, merge(tree, over), "recipe")


GPT2_SHAPE = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_inner": 64, "n_positions": 64}


def clm_recipe(output: Path, store: Path, **over: Any) -> Recipe:
    """The same for CLM."""
    model = {"family": "gpt2", "overrides": GPT2_SHAPE, "size": "tiny", **over.pop("model", {})}
    return replaced(recipe(output, store, **over), model=model, objective={"clm": 1.0})


_BART = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"layers": 2, "attention_heads": 2, "ffn_dim": 64}.items()
}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": SHAPE,
    "gpt2": GPT2_SHAPE,
    "albert": {**SHAPE, "embedding_size": 16},
    "electra": {**SHAPE, "embedding_size": 16},
    "xlnet": {"n_layer": 2, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64},
    "bart": {**_BART, "d_model": 32, "max_position_embeddings": 64},
    "t5": {"num_layers": 2, "d_model": 32, "num_heads": 2, "d_kv": 16, "d_ff": 64},
}
"""A small shape of each family that an objective was published with."""


def home_recipe(objective: str, output: Path, store: Path, **over: Any) -> Recipe:
    """A run of an objective with the family that it was published with; `store` has sentinels."""
    family = find_class("objectives", objective, Objective).default_family  # type: ignore[type-abstract]
    model = {"family": family, "size": "tiny", "overrides": SHAPES[family], **over.pop("model", {})}
    settings = {"rtd": {"generator": 0.5}, "plm": {"memory": 8}, "simcse": {"pooling": "mean"}}.get(objective, 1.0)
    return replaced(recipe(output, store, **over), model=model, objective={objective: settings})


def replaced(base: Recipe, **tables: Any) -> Recipe:
    """A recipe with whole tables replaced."""
    return validate(Recipe, {**base.model_dump(mode="json"), **tables}, "recipe")


def lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without those that tell of the clock."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines(run)]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send the process a signal in the middle of a step."""
    run = TrainStep.run

    def stopping(self: TrainStep, at: int, *args: Any) -> Any:
        if at == step:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        return run(self, at, *args)

    monkeypatch.setattr(TrainStep, "run", stopping)


def run_ranks(store: Path, folder: Path, *names: str) -> dict[str, Any]:
    """What `ranks.py` prints, in a process of its own."""
    return run_script("ranks.py", store, folder, *names)


def measure_peak_once() -> None:
    """Has runs of this process and of its forks measure the speed of a large matmul once, as `conftest.py` has."""
    precision.measure = cache(precision.measure)


def run_script(name: str, *arguments: str | Path) -> dict[str, Any]:
    """What a script beside this file prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / name, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    actual: dict[str, Any] = json.loads(done.stdout)
    return actual


def shas(run: Path, step: int) -> dict[str, str]:
    """SHA-256 of a checkpoint's tensors."""
    folder = run / f"checkpoint-{step}"
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "optimizer.safetensors")
    }
