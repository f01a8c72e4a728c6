"""Guesses the next tokens of a text from what stands before: a run that came before may go on as it did then.

Guesses are fed together with the newest token, and each is kept only where it is what the model chooses itself:
greedily, or by the number that is drawn for its place. So the text is the same as without guesses; a wrong guess costs
time alone.

Source: Saxena 2023, "Prompt lookup decoding"; Leviathan et al. 2023 (arXiv 2211.17192) for verified guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LOOKUP = 16
"""How many tokens are guessed at most, unless the user says otherwise."""

_FIRST = {3: 4, 2: 2, 1: 1}
"""Tokens of a first guess, by how many tokens must have come before in the same order; the longest is looked at first.

Shorter runs let a copy go on at once behind a word that differs (`python -m benchmarks lookup/passages`).
"""
_MAX_PAUSE = 63  # steps without a guess after guesses that were wrong


@dataclass
class _Trust:
    """How far guesses by runs of one length are followed.

    Attributes:
        size: tokens of the next guess.
        pause: steps without one.
        wait: steps of the next pause.
    """

    size: int
    pause: int = 0
    wait: int = 0


@dataclass
class PromptLookup:
    """The guesses for one text.

    Guesses grow while they are right and shrink while they are wrong; after one of which nothing was right there is
    none for a while, which doubles each time: a text that copies nothing costs a few guesses. Each length of run has
    its own measure, as three tokens that come again say more than one.

    Attributes:
        tokens: of the prompt and the text so far.
        limit: tokens of a guess at most.
    """

    tokens: list[int]
    limit: int
    _after: dict[tuple[int, ...], int] = field(default_factory=dict)
    _trust: dict[int, _Trust] = field(default_factory=dict)
    _gram: int = 0  # of the last guess

    @classmethod
    def of(cls, tokens: Sequence[int], limit: int) -> PromptLookup:
        """Guesses what follows a prompt."""
        lookup = cls([], limit, _trust={gram: _Trust(min(first, limit)) for gram, first in _FIRST.items()})
        for token in tokens if limit else ():
            lookup.push(token)
        return lookup

    def push(self, token: int) -> None:
        """Adds a token of the text."""
        for gram in _FIRST:
            if len(self.tokens) >= gram:
                self._after[tuple(self.tokens[-gram:])] = len(self.tokens)
        self.tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """The tokens that may come next.

        Args:
            most: how many of them are of use.
        """
        for gram in _FIRST:
            start = self._after.get(tuple(self.tokens[-gram:]))
            if start is None:
                continue
            trust = self._trust[gram]
            if trust.pause:
                trust.pause -= 1
                return []
            self._gram, period = gram, len(self.tokens) - start
            return [self.tokens[start + n % period] for n in range(min(trust.size, most))]
        return []

    def learn(self, guessed: int, text: Sequence[int], right: int) -> None:
        """Hears what was written, and how many of the guessed tokens were right.

        Args:
            text: all tokens that were generated; the last `right + 1` are new.
        """
        if self.limit:
            for token in text[len(text) - right - 1 :]:
                self.push(token)
        if not guessed:
            return
        trust, first = self._trust[self._gram], min(_FIRST[self._gram], self.limit)
        if right == guessed:
            trust.size, trust.wait = min(2 * trust.size, self.limit), 0
        elif right:
            trust.size, trust.wait = max(right, first), 0
        else:
            trust.size, trust.pause, trust.wait = first, trust.wait, min(2 * trust.wait + 1, _MAX_PAUSE)


def guess_for_all(lookups: Sequence[PromptLookup], useful: Sequence[int]) -> list[list[int]]:
    """The guesses of a step: as many tokens for all texts together as for one alone.

    Args:
        lookups: of the texts.
        useful: tokens that each text may still get from guesses.
    """
    left = max((lookup.limit for lookup in lookups), default=0)
    guesses: list[list[int]] = []
    for lookup, most in zip(lookups, useful, strict=True):
        guesses.append(lookup.guess(min(most, left // (len(lookups) - len(guesses)))))
        left -= len(guesses[-1])
    return guesses
