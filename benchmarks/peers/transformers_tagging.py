"""The `token-classification` pipeline of `transformers` on lists of words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers


def setup(*, model: str, sentences: str, precision: str, batch: int) -> Callable[[], dict[str, Any]]:
    """Load the model; a run tags all sentences.

    Args:
        sentences: JSON, a list of lists of words.
        precision: bf16 or fp32, of the weights too.
        batch: sentences of a forward.
    """
    transformers.logging.set_verbosity_error()
    tagger = transformers.pipeline(
        "token-classification",
        model,
        device="cpu",
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        aggregation_strategy="first",
    )
    words = json.loads(Path(sentences).read_text(encoding="utf-8"))

    def run() -> dict[str, Any]:
        with torch.inference_mode():
            tagged = tagger(words, batch_size=batch, is_split_into_words=True)
        entities = [
            [n, entity["start"], entity["end"], entity["entity_group"]]
            for n, sentence in enumerate(tagged)
            for entity in sentence
        ]
        return {"sentences": float(len(words)), "entities": entities}

    return run
