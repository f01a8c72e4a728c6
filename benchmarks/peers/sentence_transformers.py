"""Vectors of texts by `SentenceTransformer.encode`, as documented: it sorts by length and pads each batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def setup(
    *, model: str, texts: str, vectors: str, precision: str, batch: int, attention: str, compile: bool
) -> Callable[[], dict[str, float]]:
    """Load a model; a run encodes all texts, the first one also writes the vectors.

    Args:
        model: folder of a sentence transformer.
        texts: JSON file of a list.
        vectors: .npy file to write.
        precision: of the weights: fp32 (the default of the library) or bf16.
        batch: texts of a forward (its default is 32).
        attention: implementation: sdpa (its default) or eager.
        compile: the network by `torch.compile`, for any shape.
    """
    from sentence_transformers import SentenceTransformer

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    network: Any = SentenceTransformer(
        model, device="cpu", model_kwargs={"dtype": dtype, "attn_implementation": attention}
    )
    if compile:
        network[0].auto_model.compile(dynamic=True)
    lines: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))

    def run() -> dict[str, float]:
        embeddings = network.encode(lines, batch_size=batch, show_progress_bar=False)
        if not Path(vectors).exists():
            np.save(vectors, np.asarray(embeddings, np.float32))
        return {"texts": float(len(embeddings))}

    return run
