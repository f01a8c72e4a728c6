"""Chooses the next token of each sequence from its logits, greedily or by keyed sampling."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.draw import Draw
from pretune.generate.options import GenerateConfig
from pretune.nn.cross_entropy import draw_tokens
from pretune.nn.model_protocol import GenerationConstraints

_COLD, _COLDEST = 1e-4, 1e-30  # temperatures: where quotients of logits may overflow, and where fp32 ends


def keys(prompts: Sequence[NDArray[np.int64]], seed: int) -> list[Draw]:
    """Returns one key for each prompt: from the seed, its tokens, and how often it came before in the list.

    So a prompt gives the same text alone and among others, and equal prompts of one call give different samples.
    """
    seen: Counter[bytes] = Counter()
    out = []
    for prompt in prompts:
        digest = hashlib.sha256(np.ascontiguousarray(prompt, dtype="<i8").tobytes()).digest()
        out.append(Draw(seed).at("generate", int.from_bytes(digest[:8], "little"), seen[digest]))
        seen[digest] += 1
    return out


def sample(logits: Tensor, config: GenerateConfig, draws: Sequence[Draw], steps: Sequence[int]) -> Tensor:
    """Draws one token for each row, by inverting the cumulative distribution at the row's uniform number of its step.

    Shape:
        logits: (N, V) fp32; draws: N keys; steps: N, tokens written before; return: (N,) int64.
    """
    uniform = torch.tensor(
        [float(draw.uniform(step)) for draw, step in zip(draws, steps, strict=True)], dtype=torch.float64
    )
    if config.temperature < _COLD:
        logits = logits - logits.amax(dim=-1, keepdim=True)
    scaled = top_k_top_p(logits / max(config.temperature, _COLDEST), config.top_k, config.top_p)
    if config.min_p:
        probabilities = scaled.softmax(dim=-1)
        unlikely = probabilities < config.min_p * probabilities.amax(dim=-1, keepdim=True)
        scaled = scaled.masked_fill(unlikely, -torch.inf)
    return draw_tokens(scaled.softmax(dim=-1).double(), uniform.to(logits.device))


def apply_constraints(
    scores: Tensor,
    constraints: GenerationConstraints,
    begun: Sequence[int],
    texts: Sequence[Sequence[int]],
    limits: Sequence[int],
) -> Tensor:
    """Sets scores to -inf for tokens that the constraints forbid now; a token that must come has 0.

    Args:
        begun: number of tokens before each text: of the prompt, or 1, the token with which a decoder begins. As in
            transformers, the first token of a text is not forced after a prompt of several.
        texts: the tokens generated before.
        limits: maximal number of tokens of each row's text.

    Shape:
        scores: (N, V) logits or log probabilities; begun, texts, limits: N; return: (N, V)
    """
    if constraints == GenerationConstraints():
        return scores
    scores = scores.clone()
    is_forced = [constraints.first is not None and before == 1 for before in begun]
    for *begun, token in constraints.bad_words:
        rows = [n for n, text in enumerate(texts) if not begun or list(text[-len(begun) :]) == begun]
        scores[rows, token] = -torch.inf
    if constraints.first is not None:
        _force(scores, [n for n, text in enumerate(texts) if is_forced[n] and not text], [constraints.first])
    if constraints.last:
        _force(scores, [n for n, text in enumerate(texts) if len(text) == limits[n] - 1], constraints.last)
    if constraints.suppressed:
        scores[:, list(constraints.suppressed)] = -torch.inf
    if constraints.suppressed_first:
        rows = [n for n, text in enumerate(texts) if len(text) == int(is_forced[n])]
        for token in constraints.suppressed_first:
            scores[rows, token] = -torch.inf
    return scores


def _force(scores: Tensor, rows: list[int], tokens: Sequence[int]) -> None:
    scores[rows] = -torch.inf
    for token in tokens:
        scores[rows, token] = 0.0


def top_k_top_p(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Sets logits to -inf outside the k most probable tokens, then outside the nucleus of mass p.

    Shape:
        logits: (N, V); return: same.

    Source: Fan et al. 2018 (arXiv 1805.04833), top-k; Holtzman et al. 2020 (arXiv 1904.09751), nucleus.
    """
    if top_k and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        values, order = logits.sort(dim=-1, descending=True, stable=True)
        mass = values.softmax(dim=-1)
        outside = mass.cumsum(dim=-1) - mass >= top_p
        outside[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), -torch.inf)
    return logits
