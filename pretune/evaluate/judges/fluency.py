"""Fluency: how probable a language model finds the hypotheses; lower is better.

- `bits_per_byte`: compares across judges of any tokenizer, as the texts are the same.
- `perplexity`: of a token of the judge, over all texts; of a masked language model a pseudo-perplexity.

Empty texts have none and are left out. A model finds repeated text very probable: read `repetition` beside it.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from pretune import config as configuration
from pretune.errors import NonFiniteError
from pretune.evaluate.judges.judge import Judge
from pretune.metrics.metric import Judgement, Scores, Statistics, Texts, Values, signature_of
from pretune.wording import counted


class Fluency(Judge):
    """Bits per byte and perplexity."""

    main: ClassVar[str] = "bits_per_byte"
    is_better: ClassVar[str] = "lower"

    class Config(configuration.Config):
        """Nothing is to choose."""

    def judge(self, texts: Texts) -> Judgement:
        """Scores of all texts that are not empty.

        Raises:
            NonFiniteError: the judge gives a log probability that is not finite; it names the text.
        """
        index = [n for n, text in enumerate(texts.hypotheses) if text.strip()]
        try:
            scores = self.model.score([texts.hypotheses[n] for n in index]) if index else []
        except NonFiniteError as error:
            position = index[error.index]
            raise NonFiniteError.of(f"hypothesis {position + 1}", error.what, position, error.excerpt) from None
        rows = np.zeros((len(texts.hypotheses), 3))
        for n, score in zip(index, scores, strict=True):
            rows[n] = -score.log_prob, score.bytes, score.tokens
        measure = scores[0].kind if scores else "likelihood"
        unknown = sum(score.unknown for score in scores)
        notes = []
        if len(index) < len(texts.hypotheses):
            notes.append(f"fluency: {counted(len(texts.hypotheses) - len(index), 'empty text')} left out")
        if unknown:
            tokens = sum(score.tokens for score in scores)
            notes.append(
                f"fluency: {unknown:,} of {counted(tokens, 'token')} are unknown to the judge, which finds them too "
                "probable; use a judge whose tokenizer has all bytes"
            )
        each = [_scores(row) for row in rows]
        per_text = {name: np.array([scores[name] for scores in each]) for name in each[0]}
        signature = signature_of(self.config, measure=measure)
        return Judgement(_scores(rows.sum(0)), per_text, signature, Statistics(rows, _scores), notes=tuple(notes))


def _scores(total: Values) -> Scores:
    """Scores of (nats, bytes, tokens); NaN of no text."""
    nats, size, tokens = (float(value) for value in total)
    if not tokens:
        return {"bits_per_byte": math.nan, "perplexity": math.nan}
    return {"bits_per_byte": nats / math.log(2) / size, "perplexity": math.exp(min(nats / tokens, 700.0))}
