"""How likely texts are to a model in use: whole ones, and choices after a context."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Unpack, overload

import torch

from pretune.evaluate.embed import budget_of
from pretune.evaluate.labelled import Texts
from pretune.evaluate.likelihood import Score, ScoreOptions, score
from pretune.generate.choices import ChoiceOptions, ChoiceScore, score_choices
from pretune.models.model import LanguageModel
from pretune.text.readers.memory import check_texts
from pretune.text.tokenizer.tokenizer import Tokenizer


class Likelihoods:
    """The likelihoods of a model in use.

    Attributes:
        network: whose likelihoods they are.
        tokenizer: that it was trained with.
    """

    network: LanguageModel
    tokenizer: Tokenizer

    @cached_property
    def _fused(self) -> LanguageModel:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        raise NotImplementedError

    @overload
    def score(self, texts: str, sources: str | None = None, **options: Unpack[ScoreOptions]) -> Score: ...
    @overload
    def score(self, texts: Texts, sources: Texts | None = None, **options: Unpack[ScoreOptions]) -> list[Score]: ...
    def score(
        self, texts: str | Texts, sources: str | Texts | None = None, **options: Unpack[ScoreOptions]
    ) -> Score | list[Score]:
        """How probable texts are, in numbers that compare across tokenizers: see `evaluate/likelihood.py`.

        Args:
            texts: a list of texts, or a single one.
            sources: what an encoder-decoder reads before each; empty texts by default.
            options: `masking` of a masked language model, whose scores are pseudo-likelihoods: `token`, or `word`;
                `special_tokens`: names of special tokens are the tokens, as in prompts of `generate`, by default where
                the model was made for it; `budget`: tokens of a forward, by default what is fast on the device.

        Raises:
            UsageError: a model without a language modelling head, or sources that do not fit.
            DataError: a text without tokens.
        """
        many = check_texts(texts, "score", single=True, column=self.network.metadata.text_column)
        origins = None if sources is None else check_texts(sources, "score", "source", single=True)
        chosen: ScoreOptions = {"budget": budget_of(self.device)}
        chosen.update(options)
        scores = score(self._fused, self.tokenizer, many, origins, **chosen)
        return scores[0] if isinstance(texts, str) else scores

    def log_prob(self, text: str, source: str | None = None) -> float:
        """The natural logarithm of a text's probability; of a masked language model, its pseudo-likelihood."""
        return self.score(text, source).log_prob

    @overload
    def score_choices(self, contexts: str, choices: Texts, **options: Unpack[ChoiceOptions]) -> list[ChoiceScore]: ...
    @overload
    def score_choices(
        self, contexts: Texts, choices: Sequence[Texts], **options: Unpack[ChoiceOptions]
    ) -> list[list[ChoiceScore]]: ...
    def score_choices(
        self, contexts: str | Texts, choices: Texts | Sequence[Texts], **options: Unpack[ChoiceOptions]
    ) -> list[ChoiceScore] | list[list[ChoiceScore]]:
        """How likely texts are after a context: what is common to contexts and choices is read once.

        Args:
            contexts: a list of them, or a single one; an empty one begins a document.
            choices: for each context, or for the single one; each begins with its space, where it has one.
            options: `delimiter`: what stands between a context and each choice, nothing by default; `special_tokens`:
                as of `score`; `budget`: tokens of a forward.

        Returns:
            the score of each choice, a list for each context.

        Raises:
            UsageError: a model without a language modelling head, or not one list of choices for each context.
            DataError: an empty choice, or one that adds no token to its context or is too long.
        """
        many = check_texts(contexts, "score_choices", "context", single=True)
        rows = [choices] if isinstance(contexts, str) else choices
        checked = [check_texts(row, "score_choices", "choice") for row in rows]
        scores = score_choices(self._fused, self.tokenizer, many, checked, **options)
        return scores[0] if isinstance(contexts, str) else scores
