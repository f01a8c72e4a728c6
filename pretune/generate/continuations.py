"""The likelihood of continuations by tokens: what several sequences have in common is computed once.

    requests (context, continuation)  ->  the inputs, sorted as words in a dictionary, so that common beginnings meet
    input                             ->  only the rows that no input before it has: position-wise layers see no more
    attention                         ->  gathers each input's keys from the rows that it consists of (`SharedCache`)
    rows before continued tokens      ->  the vocabulary's scores, each row once, a block at a time

A forward takes a number of new rows; keys and values that the next one needs go with it, so that nothing is computed
twice, however many prompts begin with the same examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.batch import Batch, Layout
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.nn.shared_cache import KeysAndValues, SharedCache
from pretune.runtime.device import inference_context, is_bf16

Tokens = NDArray[np.int64]
NEW_ROWS = 2048  # of a forward
_KEYS = 16  # times as many keys, which attention gathers
_SCORED = 64  # rows of the vocabulary's scores that are in memory at once, on the CPU
_SCORED_ELSEWHERE = 1024


class Likelihood(NamedTuple):
    """Of a continuation.

    Attributes:
        log_prob: natural logarithm, summed over its tokens.
        is_greedy: each of its tokens is the most likely one.
    """

    log_prob: float
    is_greedy: bool


class Request(NamedTuple):
    """What a model reads, and which tokens follow its last rows.

    Attributes:
        tokens: all that it reads; the last token of the continuation is not among them.
        labels: tokens of the continuation, the last of which follows the last of `tokens`.
    """

    tokens: Tokens
    labels: Tokens

    @property
    def first(self) -> int:
        """The row that predicts the first label."""
        return len(self.tokens) - len(self.labels)


@dataclass
class _Part:
    """Requests of one forward.

    Attributes:
        numbers: of the requests, in the order of the dictionary.
        starts: first tokens of each that are rows of the past or of the one before it.
    """

    numbers: list[int]
    starts: list[int]


def score_continuations(
    model: LanguageModel, head: VocabularyHead, requests: Sequence[Request], rows: int = NEW_ROWS
) -> Iterator[tuple[int, Likelihood]]:
    """The likelihood of each continuation under a decoder, with its number, in the order in which they are computed.

    Args:
        head: that predicts the next token.
        rows: new ones of a forward.
    """
    shares = model.embedding.prompt.length == 0
    order = sorted(range(len(requests)), key=lambda n: requests[n].tokens.astype(">u4").tobytes())
    past: list[KeysAndValues] = []
    path = np.zeros(0, np.int64)
    parts = list(_parts(requests, order, rows, shares))
    for part, later in [*pairwise(parts), (parts[-1], None)] if parts else []:
        needed = 0 if later is None else later.starts[0]
        run = _Run(requests, part, path, len(past[0][0]) if past else 0)
        yield from zip(part.numbers, run.score(model, head, past, needed), strict=True)
        past, path = run.kept, np.arange(needed)


def _parts(requests: Sequence[Request], order: Sequence[int], rows: int, shares: bool) -> Iterator[_Part]:
    """Requests of a forward each: as many as have so many new rows and keys, at least one."""
    part = _Part([], [])
    new = keys = common = 0  # common: first tokens that all requests of the part have
    last: Tokens = np.zeros(0, np.int64)
    for n in order:
        request = requests[n]
        start = _common(last, request.tokens) if shares else 0
        added = len(request.tokens) - start
        if part.numbers and (new + added > rows or keys + len(request.tokens) > _KEYS * rows):
            yield part
            part, new, keys = _Part([], []), 0, 0
            start = min(start, request.first)
            added = len(request.tokens) - start
        common = min(common, start) if part.numbers else start
        if part.numbers and request.first < min(common, part.starts[0]):  # the scores of a past run's rows are gone
            added += part.starts[0] - request.first
            part.starts[0] = request.first
        part.numbers.append(n)
        part.starts.append(start)
        new, keys, last = new + added, keys + len(request.tokens), request.tokens
    if part.numbers:
        yield part


def _common(one: Tokens, other: Tokens) -> int:
    """How many first tokens are the same."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(differ.argmax()) if differ.any() else length


class _Run:
    """One forward.

    Args:
        path: rows of the past that the first request consists of.
        before: rows of the past.

    Attributes:
        kept: keys and values that the next forward needs, after `score`.
    """

    def __init__(self, requests: Sequence[Request], part: _Part, path: Tokens, before: int) -> None:
        self.kept: list[KeysAndValues] = []
        self._requests = [requests[n] for n in part.numbers]
        self._starts = part.starts
        lengths = [len(request.tokens) for request in self._requests]
        new = [length - start for length, start in zip(lengths, part.starts, strict=True)]
        # equal lengths together: attention computes them in one call
        self._flat = sorted((n for n in range(len(new)) if new[n]), key=lambda n: (new[n], lengths[n]))
        offsets = dict(zip(self._flat, before + np.cumsum([0, *(new[n] for n in self._flat)]), strict=False))
        self._before = before
        self.paths: list[Tokens] = []
        for n, start in enumerate(part.starts):
            own = np.arange(new[n]) + offsets[n] if new[n] else np.zeros(0, np.int64)
            path = np.concatenate([path[:start], own])
            self.paths.append(path)

    def score(
        self, model: LanguageModel, head: VocabularyHead, past: list[KeysAndValues], needed: int
    ) -> list[Likelihood]:
        """The likelihoods of its requests.

        Args:
            past: keys and values of each layer.
            needed: first rows of the last request that the next forward needs.
        """
        hidden = self._forward(model, past, needed)
        pairs = [
            (path[request.first :] - self._before, request.labels)
            for path, request in zip(self.paths, self._requests, strict=True)
        ]
        rows, index = np.unique(np.concatenate([row for row, _ in pairs]), return_inverse=True)
        labels = np.concatenate([label for _, label in pairs])
        with inference_context(model.device, is_bf16(model)):
            log_probs, greedy = score_rows(head, hidden, rows, index, labels)
        ends = np.cumsum([0, *(len(label) for _, label in pairs)])
        return [Likelihood(float(log_probs[a:b].sum()), bool(greedy[a:b].all())) for a, b in pairwise(ends.tolist())]

    def _forward(self, model: LanguageModel, past: list[KeysAndValues], needed: int) -> Tensor:
        """The last hidden states of the new rows. Shape: return: (T, width)."""
        flat, device = self._flat, model.device
        starts = [self._starts[n] for n in flat]
        tokens = np.concatenate([self._requests[n].tokens[self._starts[n] :] for n in flat])
        cache = None
        if any(starts) or needed:
            index = np.concatenate([self.paths[n] for n in flat])
            kept = torch.from_numpy(self.paths[-1][:needed]).to(device)
            cache = SharedCache(
                len(model.stack.order), starts, torch.from_numpy(index).to(device), past, kept, model.places.of_cache
            )
        lengths = [len(self._requests[n].tokens) - self._starts[n] for n in flat]
        with inference_context(device, is_bf16(model)):
            layout = Layout.of(lengths, device, starts=starts)
            hidden = model(Batch(torch.from_numpy(tokens).to(device), layout), cache=cache).last_hidden_state
        self.kept = [] if cache is None else cache.kept
        return hidden  # type: ignore[no-any-return]


def score_rows(
    head: VocabularyHead, hidden: Tensor, rows: Tokens, index: Tokens, labels: Tokens
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log probabilities of labels, and whether each is the most likely token; a block of rows is scored at a time.

    Args:
        rows: of the hidden states, each once, ascending.
        index: which of `rows` predicts each label.

    Shape:
        hidden: (T, width); rows: (R,); index, labels: (K,); return: (K,) twice
    """
    device = hidden.device
    block = _SCORED if device.type == "cpu" else _SCORED_ELSEWHERE
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(0, len(rows) + block, block))
    log_probs, greedy = np.empty(len(labels)), np.empty(len(labels), np.bool_)
    for number, first in enumerate(range(0, len(rows), block)):
        some = order[bounds[number] : bounds[number + 1]]
        states = hidden.index_select(0, torch.from_numpy(rows[first : first + block]).to(device))
        scores = head(states)
        logits = scores.float()
        rows_of = torch.from_numpy(index[some] - first).to(device)
        label = torch.from_numpy(labels[some]).to(device)
        if scores.dtype == torch.bfloat16:
            picked = score_exactly(head, states[rows_of], label[:, None])[:, 0]
        else:
            picked = logits[rows_of, label]
        log_probs[some] = (picked - logits.logsumexp(dim=1)[rows_of]).double().cpu().numpy()
        greedy[some] = (logits.argmax(dim=1)[rows_of] == label).cpu().numpy()
    return log_probs, greedy


def score_exactly(head: VocabularyHead, rows: Tensor, tokens: Tensor) -> Tensor:
    """The scores of some tokens of each row by sums in fp32: a score of 16 in bf16 is rounded to 0.125.

    Shape:
        rows: (K, width); tokens: (K, w); return: (K, w) fp32
    """
    states = head.transform(rows).float()
    with torch.autocast(rows.device.type, enabled=False):
        exact = torch.einsum("kw,knw->kn", states, head.vocabulary.row(tokens).float())
        return exact if head.bias is None else exact + head.bias[tokens].float()
