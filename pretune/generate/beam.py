"""Beam search, with the scores and the stopping rule of `transformers` (`generate(num_beams=k, do_sample=False)`).

Each prompt has its own hypotheses, so that a batch gives what its prompts give alone; a prompt that is done leaves the
batch. In a step the 2k best continuations of a prompt's live beams are looked at: those among the first k that end are
finished, with log probability / tokens ** length_penalty; the best k that do not end live on. Where several tokens end
a text, more continuations are looked at, so that k of them go on.

Source: `GenerationMixin._beam_search` of transformers 5; Wu et al. 2016 (arXiv 1609.08144) for the length penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from pretune.generate.options import GenerateConfig
from pretune.generate.processors import LogitsProcessor, Prompt


class Steps(Protocol):
    """A model with a key/value cache, a row for each sequence."""

    def feed(self, tokens: Tensor) -> Tensor:
        """Feeds one more token for each row. Shape: tokens: (N,); return: (N, V) fp32 logits."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keeps, repeats and reorders rows. Shape: rows: (M,) indices into the N rows."""
        ...


@dataclass
class Hypotheses:
    """The search of one prompt.

    Attributes:
        limit: maximal number of tokens.
        prompt: what it is written after.
        scores: (b,) summed log probabilities of the live beams, best first.
        live: their tokens.
        finished: at most k of (score, tokens), best first.
        done: nothing can improve any more.
    """

    limit: int
    scores: Tensor
    prompt: Prompt
    live: list[list[int]] = field(default_factory=lambda: [[]])
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def advance(
        self,
        logits: Tensor,
        config: GenerateConfig,
        ends: Callable[[list[int]], bool],
        processor: LogitsProcessor,
    ) -> list[int]:
        """Does one step; returns the beam from which each new live beam came.

        Shape:
            logits: (b, V) fp32.
        """
        k = config.beams
        beams = len(logits)
        scores = processor(logits.log_softmax(dim=-1), [self.prompt] * beams, self.live, [self.limit] * beams)
        total = scores + self.scores[:, None]
        best = total.flatten().topk(min(max(2, 1 + len(processor.ends)) * k, total.numel()))
        vocabulary = logits.shape[1]
        length = len(self.live[0]) + 1
        candidates = [
            (value, index // vocabulary, [*self.live[index // vocabulary], index % vocabulary])
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        ended = [length >= self.limit or ends(tokens) for _, _, tokens in candidates]
        full = config.early_stopping is True and len(self.finished) == k
        fresh = [
            (value / length**config.length_penalty, tokens)
            for (value, _, tokens), end in list(zip(candidates, ended, strict=True))[:k]
            if end and not full
        ]
        self.finished = sorted(self.finished + fresh, key=lambda item: -item[0])[:k]
        stay = [n for n, end in enumerate(ended) if not end][:k]
        self.scores = best.values[stay]
        self.live = [candidates[n][2] for n in stay]
        self.done = not stay or self._cannot_improve(float(self.scores[0]), length, config)
        return [candidates[n][1] for n in stay]

    def _cannot_improve(self, best: float, length: int, config: GenerateConfig) -> bool:
        if len(self.finished) < config.beams:
            return False
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = self.limit
        return config.early_stopping is True or best / length**config.length_penalty <= self.finished[-1][0]


def beam_search(
    logits: Tensor,
    steps: Steps,
    config: GenerateConfig,
    limits: Sequence[int],
    ends: Callable[[list[int]], bool],
    processor: LogitsProcessor,
    prompts: Sequence[Prompt],
    check: Callable[[Tensor, Sequence[int]], None],
) -> list[list[tuple[float, list[int]]]]:
    """Returns the finished hypotheses of each prompt, the best first: score and tokens.

    Args:
        logits: for the first token of each prompt.
        steps: the model, after it has read the prompts.
        limits: maximal number of new tokens, for each prompt.
        ends: whether generated tokens are complete: an end token or a stop text came.
        processor: changes the scores of a step.
        prompts: what each text is written after.
        check: refuses logits that are not finite; given the prompt of each row.

    Shape:
        logits: (N, V) fp32; return: N lists of at most `config.beams` runs of tokens, the end token included.
    """
    start = torch.zeros(1, device=logits.device)
    searches = [Hypotheses(limit, start, prompt) for limit, prompt in zip(limits, prompts, strict=True)]
    running, first = list(range(len(searches))), list(range(len(searches) + 1))
    while running:
        check(logits, [n for i, n in enumerate(running) for _ in range(first[i], first[i + 1])])
        rows: list[int] = []
        for i, n in enumerate(running):
            origin = searches[n].advance(logits[first[i] : first[i + 1]], config, ends, processor)
            rows += [first[i] + beam for beam in origin] if not searches[n].done else []
        running = [n for n in running if not searches[n].done]
        if not running:
            break
        first = [0]
        for n in running:
            first.append(first[-1] + len(searches[n].live))
        steps.select(torch.tensor(rows, device=logits.device))
        newest = [tokens[-1] for n in running for tokens in searches[n].live]
        logits = steps.feed(torch.tensor(newest, device=logits.device))
    return [search.finished for search in searches]
