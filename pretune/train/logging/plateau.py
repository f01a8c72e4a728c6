"""Detects a loss that plateaus, or stays at the entropy of single tokens, where no context is learned."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

_LINE = 0.02  # fraction of the unigram entropy around it that is the line
_EARLY, _LATE = 0.1, 0.9  # fractions of a run between which a loss is expected to move
_PART = 0.1  # fraction of a run whose metrics are compared with those of the part before: what a batch draws evens out
_LINES = 10  # of metrics in a part, at least
_STILL = 0.005  # fraction of the loss by which it must fall from part to part
_SURE = 1.5  # standard errors by which it must have missed that


class Plateau:
    """Watches the metrics of a run, and speaks once of each kind of standstill.

    Args:
        entropy: of the tokens' frequencies, in nats; None where it is not known.
        token_terms: terms whose loss is that of predicted tokens of the text.
    """

    def __init__(self, entropy: float | None = None, token_terms: Sequence[str] = ()) -> None:
        self._token_terms = token_terms
        self._entropy = entropy
        self._losses: deque[tuple[float, float]] = deque()  # fraction of the run, loss; of the last two parts
        self._terms: deque[float] = deque(maxlen=_LINES)
        self._reported: set[str] = set()

    def check(self, metrics: dict[str, float], fraction: float, lr: float, peak: float) -> str | None:
        """Returns a warning about one more line of metrics, or None.

        Args:
            metrics: with `loss` and `loss/<term>`.
            fraction: of the run that is over.
            lr, peak: learning rate now, and at the schedule's peak: a rate that has fallen explains a standstill.
        """
        loss = metrics.get("loss", math.nan)
        if not math.isfinite(loss):
            return None
        self._append(fraction, loss)
        term = next((name for name in self._token_terms if f"loss/{name}" in metrics), None)
        if term is not None:
            self._terms.append(metrics[f"loss/{term}"])
        if not _EARLY <= fraction <= _LATE or len(self._losses) < 2 * _LINES:
            return None
        return (self._at_entropy(term) if term is not None else None) or self._still(fraction, lr, peak)

    def _at_entropy(self, term: str) -> str | None:
        if self._entropy is None or "entropy" in self._reported or len(self._terms) < _LINES:
            return None
        if any(abs(loss - self._entropy) > _LINE * self._entropy for loss in self._terms):
            return None
        self._reported.add("entropy")
        return (
            f"the loss of {term}, {self._terms[-1]:.3f}, stays at the entropy of the token frequencies "
            f"({self._entropy:.3f}): the model has learned which tokens are frequent and nothing of context yet. "
            "Many runs leave this line after some thousand steps; if this one does not, raise optimizer.lr or "
            "data.batch, or put norms before the branches (model.family = modernbert)"
        )

    def _append(self, fraction: float, loss: float) -> None:
        losses = self._losses
        losses.append((fraction, loss))
        while len(losses) > 2 * _LINES and losses[0][0] <= fraction - 2 * _PART:
            losses.popleft()

    def _still(self, fraction: float, lr: float, peak: float) -> str | None:
        """Said if the loss fell by less than it must, and not by what batches draw alone."""
        if "still" in self._reported:
            return None
        count = max(sum(1 for at, _ in self._losses if at > fraction - _PART), _LINES)
        losses = np.array(self._losses)[:, 1]
        before, now = losses[:-count], losses[-count:]
        if len(before) < _LINES:
            return None
        fall = before.mean() - now.mean()
        error = math.sqrt(before.var(ddof=1) / len(before) + now.var(ddof=1) / len(now))
        if fall + _SURE * error >= _STILL * abs(before.mean()):
            return None
        self._reported.add("still")
        if lr < 0.5 * peak:
            remedy = "the learning rate has fallen already; end the run, or begin another with a larger optimizer.lr"
        else:
            remedy = "lower optimizer.lr if it rose, raise it if it never fell, or add data"
        means = f"{now.mean():.4f} in the last {count} lines of metrics after {before.mean():.4f}"
        return f"the loss plateaus: {means}, at {fraction:.0%} of the run; {remedy}"
