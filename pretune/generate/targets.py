"""The likelihood of texts that an encoder-decoder writes: each distinct source is encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.batch import Batch, ragged
from pretune.errors import DataError
from pretune.generate.continuations import Likelihood, score_rows
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.runtime.device import inference_context, is_bf16
from pretune.text.tokenizer.vocabulary import Vocabulary

Tokens = NDArray[np.int64]


class Target(NamedTuple):
    """What the encoder reads, with its special tokens, and what the decoder writes, without them."""

    source: Tokens
    tokens: Tokens


def score_targets(
    model: LanguageModel,
    head: VocabularyHead,
    vocabulary: Vocabulary,
    targets: Sequence[Target],
    length: int,
    budget: int,
) -> Iterator[tuple[int, Likelihood]]:
    """The likelihood of each target, with its number, in the order in which they are computed.

    Args:
        length: tokens that a sequence of either side may have.
        budget: tokens of a forward, both sides together.

    Raises:
        DataError: a source or a target is too long.
    """
    before = np.array([model.decoder_start or 0, *vocabulary.prefix])
    groups: dict[bytes, list[int]] = {}
    for n, target in enumerate(targets):
        for what, size in (("source", len(target.source)), ("target", len(before) + len(target.tokens) - 1)):
            if size > length:
                raise DataError(
                    f"{what} {n + 1} of {len(targets)} has {size} tokens, the model's context is {length}; shorten it"
                )
        groups.setdefault(target.source.tobytes(), []).append(n)
    part: list[list[int]] = []
    size = 0
    for numbers in groups.values():
        cost = len(targets[numbers[0]].source) + sum(len(before) + len(targets[n].tokens) for n in numbers)
        if part and size + cost > budget:
            yield from _score(model, head, before, targets, part)
            part, size = [], 0
        part.append(numbers)
        size += cost
    if part:
        yield from _score(model, head, before, targets, part)


def _score(
    model: LanguageModel,
    head: VocabularyHead,
    before: Tokens,
    targets: Sequence[Target],
    groups: Sequence[Sequence[int]],
) -> list[tuple[int, Likelihood]]:
    """Likelihoods of targets, grouped by their sources: what all begin with is read once for a source."""
    device = model.device
    numbers = [n for group in groups for n in group]
    origin = [row for row, group in enumerate(groups) for _ in group]
    runs = [targets[n].tokens[:-1] for n in numbers]
    cache = model.new_cache(len(groups), max(map(len, runs)) + len(before))
    with inference_context(device, is_bf16(model)):
        first = [len(before)] * len(groups)
        start = torch.from_numpy(np.tile(before, len(groups))).to(device)
        source = ragged([targets[group[0]].source for group in groups]).to(device)
        begun = model(Batch(start, cache.layout(first, device), source=source), cache=cache).last_hidden_state
        hidden = begun[len(before) - 1 :: len(before)]
        if any(map(len, runs)):
            cache.reorder(origin)
            layout = cache.layout([len(run) for run in runs], device)
            tokens = torch.from_numpy(np.concatenate(runs)).to(device)
            hidden = torch.cat([hidden, model(Batch(tokens, layout), cache=cache).last_hidden_state])
        offsets = len(groups) + np.cumsum([0, *map(len, runs)])
        rows = [np.r_[row, np.arange(a, b)] for row, (a, b) in zip(origin, pairwise(offsets.tolist()), strict=True)]
        distinct, index = np.unique(np.concatenate(rows), return_inverse=True)
        labels = np.concatenate([targets[n].tokens for n in numbers])
        log_probs, greedy = score_rows(head, hidden, distinct, index, labels)
    ends = pairwise(np.cumsum([0, *map(len, rows)]).tolist())
    return [
        (n, Likelihood(float(log_probs[a:b].sum()), bool(greedy[a:b].all())))
        for n, (a, b) in zip(numbers, ends, strict=True)
    ]
