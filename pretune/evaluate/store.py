"""Loss, accuracy and perplexity of an objective on a split of a token store."""

from __future__ import annotations

import math

import numpy as np
import torch

from pretune.draw import Draw
from pretune.evaluate.batches import BUDGET, by_length
from pretune.models.model import LanguageModel
from pretune.objectives.objective import Objective
from pretune.runtime.device import inference_context, is_bf16
from pretune.text.samples.views.view import build_view
from pretune.text.store.store import TokenSplit
from pretune.text.tokenizer.tokenizer import Tokenizer

_READ = 1 << 20


def evaluate_store(
    model: LanguageModel,
    objective: Objective,
    split: TokenSplit,
    tokenizer: Tokenizer,
    device: torch.device,
    *,
    length: int,
    pack: str | None = None,
    budget: int = BUDGET,
) -> dict[str, float]:
    """Mean loss of each objective over all samples of a split, with the corruption that seed 0 draws.

    Args:
        objective: one, or a mixture; each of its terms is reported.
        length: tokens of a window, special ones included.
        pack: `stream` or `document`; by default each objective's habit.
        budget: tokens of a batch.

    Returns:
        `loss/<name>`, `perplexity/<name>`, `accuracy/<name>`, `predictions/<name>`; for causal language modelling also
        `bits_per_byte`.
    """
    model.eval()
    half = is_bf16(model)
    sums: dict[str, list[float]] = {}
    draw = Draw(0).at("evaluate")
    for part in objective.alternatives:
        view = build_view(split, part.view, length - part.overhead, part.lookahead, pack or part.pack, part.words)
        for index in by_length(view.lengths(np.arange(len(view))), budget):
            batch = part.build_batch(view.read(index, 0, 0, draw), draw)
            with inference_context(device, half):
                terms = part(model, batch.to(device))
            for term in terms:
                total = sums.setdefault(term.name, [0.0, 0.0, 0.0])
                correct = 0.0 if term.correct is None else float(term.correct)
                for n, value in enumerate((float(term.sum), float(term.count), correct)):
                    total[n] += value
    out: dict[str, float] = {}
    for name, (loss, count, correct) in sums.items():
        mean = loss / max(count, 1.0)
        out |= {
            f"loss/{name}": mean,
            f"perplexity/{name}": math.exp(min(mean, 700.0)),
            f"accuracy/{name}": correct / max(count, 1.0),
            f"predictions/{name}": count,
        }
    if "clm" in sums:
        loss, count, _ = sums["clm"]
        out["bits_per_byte"] = loss / math.log(2) / max(1.0, count * bytes_per_token(split, tokenizer))
    return out


def bytes_per_token(split: TokenSplit, tokenizer: Tokenizer) -> float:
    """UTF-8 bytes of text that a token stands for, on average over a split; end tokens count, as no bytes."""
    size = 0
    for start in range(0, split.token_count, _READ):
        text = tokenizer.decode(split.read(start, min(start + _READ, split.token_count)))
        size += len(text.encode("utf-8", "replace"))
    return size / max(1, split.token_count)
