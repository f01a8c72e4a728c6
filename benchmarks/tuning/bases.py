"""Bases of our own, for sets that no published model here is for: a Chinese ModernBERT and an English GPT-2."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.texts import text_file

_log = logging.getLogger("benchmarks")
_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "zh": {
        "files": ("zh/CLUECorpusSmall_sampled.txt", "zh/peoples-daily-199801-plain.txt", "zh/sanguo-novel.txt"),
        "kind": "wordpiece",
        "family": "modernbert",
        "objective": {"mlm": 1.0},
        "overrides": {},
        "fields": {"length": 128, "start_length": 32, "length_warmup": 0.6, "optimizer": "muon", "lr": 6e-3},
    },
    "decoder": {
        "files": (
            "en/wikitext2-valid.txt",
            "en/sherlock_1661.txt",
            "en/pride_and_prejudice_1342.txt",
            "en/wikipedia-30.txt",
        ),
        "kind": "bpe",
        "family": "gpt2",
        "objective": {"clm": 1.0},
        "overrides": {"n_layer": 6, "n_embd": 256, "n_head": 4, "n_positions": 512},
        "fields": {"length": 256, "lr": 1e-3},
    },
}


def base(name: str, folder: Path, minutes: float) -> Path:
    """A base that was pretrained for some minutes; one of as many minutes that is there is used.

    Args:
        name: `zh` or `decoder`.
        folder: for the bases, with their tokenizers and stores.
    """
    import pretune
    from pretune.text.store.prepare import PrepareConfig, prepare
    from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

    recipe, own = _RECIPES[name], folder / name
    run = own / f"run-{minutes:g}"
    if (run / "model.safetensors").is_file():
        return run
    files = [text_file(f"corpora/{file}") for file in recipe["files"]]
    if not (own / "tokenizer" / "tokenizer.json").is_file():
        texts = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        train_tokenizer(texts, TokenizerConfig(kind=recipe["kind"], vocab_size=8192)).save(own / "tokenizer")
    from pretune.text.tokenizer.tokenizer import Tokenizer

    store = prepare(files, Tokenizer.load(own / "tokenizer"), own / "store", PrepareConfig(processes=1))
    _log.info("%s: pretraining for %g minutes on %s", name, minutes, store)
    pretune.pretrain(
        model={"family": recipe["family"], "size": "mini", "overrides": dict(recipe["overrides"])},
        objective=dict(recipe["objective"]),
        stores=[str(own / "store")],
        batch=32,
        **recipe["fields"],
        minutes=minutes,
        output=str(run),
        track={"report": False},
    )
    return run
