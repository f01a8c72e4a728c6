"""What tests of search share: a tiny random model, a few documents, and what an index holds, byte by byte."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.model import Model

_SENTENCE = "the quick brown fox jumps over lazy dog and cat ate a hat model learns quickly do you think"
WORDS = _SENTENCE.split()


def save_model(folder: Path) -> Path:
    """A random BERT without heads, and its tokenizer."""
    save_bert(folder, word_tokenizer(), transformers.BertModel)
    return folder


def load_model(folder: Path) -> Model:
    """A model in single precision."""
    return pretune.load(folder, "cpu", "fp32")


def records(count: int, seed: int = 0, words: int = 12) -> list[dict[str, Any]]:
    """Documents of random words, with fields."""
    draw = random.Random(seed)
    return [
        {
            "id": f"d{seed}-{n}",
            "text": " ".join(draw.choices(WORDS, k=draw.randint(3, words))).capitalize() + ".",
            "language": draw.choice(["en", "zh"]),
            "year": 1990 + n % 10,
        }
        for n in range(count)
    ]


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file of a folder, by its name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def ids(hits: Sequence[Any]) -> list[str]:
    """The documents of what was found, in order."""
    return [hit.document for hit in hits]
