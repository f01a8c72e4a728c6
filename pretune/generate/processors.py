"""What changes the scores of the next token before one is chosen, in the order of `transformers`.

Source: `GenerationMixin._get_logits_processor` of transformers 5; Keskar et al. 2019 (arXiv 1909.05858) for the
repetition penalty; Paulus et al. 2017 (arXiv 1705.04304) for n-grams that come once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretune.generate.options import GenerateConfig
from pretune.generate.sample import apply_constraints
from pretune.nn.model_protocol import GenerationConstraints


@dataclass(frozen=True)
class Prompt:
    """What a text is written after.

    Attributes:
        read: tokens that the model read: the prompt, or what its encoder read.
        begun: tokens before the text: the prompt, or the token with which a decoder begins.
    """

    read: Sequence[int]
    begun: Sequence[int]


@dataclass(frozen=True)
class LogitsProcessor:
    """Applies penalties, minimal lengths and what the model's files force and forbid.

    Attributes:
        config: what the user asked for, and the files where the user did not.
        constraints: what the model's files force and forbid.
        ends: tokens that end a text.
    """

    config: GenerateConfig
    constraints: GenerationConstraints
    ends: frozenset[int]

    @property
    def changes_nothing(self) -> bool:
        """Whether scores stay as they are, whatever was written."""
        return not self._reads_history and self.constraints == GenerationConstraints()

    @property
    def _reads_history(self) -> bool:
        config = self.config
        return bool(
            config.repetition_penalty != 1
            or config.no_repeat_ngram_size
            or config.prompt_no_repeat_ngram_size
            or config.min_length
            or config.min_new_tokens
        )

    def __call__(
        self, scores: Tensor, prompts: Sequence[Prompt], texts: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> Tensor:
        """Changes scores; what may not come has -inf.

        Args:
            prompts: what each text is written after.
            texts: the tokens generated before.
            limits: maximal number of tokens of each row's text.

        Shape:
            scores: (N, V) logits or log probabilities; prompts, texts, limits: N; return: (N, V)
        """
        if self._reads_history:
            scores = scores.clone()
            for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
                self._change(scores[row], prompt, text)
        return apply_constraints(scores, self.constraints, [len(prompt.begun) for prompt in prompts], texts, limits)

    def _change(self, scores: Tensor, prompt: Prompt, text: Sequence[int]) -> None:
        """Changes the scores of one row in place. Shape: scores: (V,)"""
        config, history = self.config, [*prompt.begun, *text]
        if config.repetition_penalty != 1:
            seen = torch.tensor(sorted(set(history)), device=scores.device)
            old = scores[seen]
            scores[seen] = torch.where(old < 0, old * config.repetition_penalty, old / config.repetition_penalty)
        banned = {*_repeats(history, history, config.no_repeat_ngram_size)}
        banned |= {*_repeats(prompt.read, history, config.prompt_no_repeat_ngram_size)}
        if len(text) < config.min_new_tokens or len(history) < config.min_length:
            banned |= self.ends
        scores[sorted(banned)] = -torch.inf


def _repeats(source: Sequence[int], history: Sequence[int], size: int) -> Iterator[int]:
    """The tokens with which a history would end in a run of `size` tokens that stands in a source."""
    if size and len(history) >= size - 1:
        before = list(history[len(history) - size + 1 :])
        for start in range(len(source) - size + 1):
            if list(source[start : start + size - 1]) == before:
                yield source[start + size - 1]
