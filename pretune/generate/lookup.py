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

_GRAM = 3  # tokens that must have come before in the same order
_FIRST = 4  # tokens of a first guess
_MAX_PAUSE = 64  # steps without a guess after guesses that were wrong


@dataclass
class PromptLookup:
    """The guesses for one text.

    Guesses grow while they are right and shrink while they are wrong; after one of which nothing was right there is
    none for a while, which doubles each time: a text that copies nothing costs a few guesses.

    Attributes:
        tokens: of the prompt and the text so far.
        limit: tokens of a guess at most.
    """

    tokens: list[int]
    limit: int
    _after: dict[tuple[int, ...], int] = field(default_factory=dict)
    _size: int = _FIRST
    _pause: int = 0
    _wait: int = 1

    @classmethod
    def of(cls, tokens: Sequence[int], limit: int) -> PromptLookup:
        """Guesses what follows a prompt."""
        lookup = cls([], limit, _size=min(_FIRST, limit))
        for token in tokens if limit else ():
            lookup.push(token)
        return lookup

    def push(self, token: int) -> None:
        """Adds a token of the text."""
        if len(self.tokens) >= _GRAM:
            self._after[tuple(self.tokens[-_GRAM:])] = len(self.tokens)
        self.tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """The tokens that may come next.

        Args:
            most: how many of them are of use.
        """
        if self._pause:
            self._pause -= 1
            return []
        start = self._after.get(tuple(self.tokens[-_GRAM:]))
        if start is None:
            return []
        period = len(self.tokens) - start
        return [self.tokens[start + n % period] for n in range(min(self._size, most))]

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
        if right == guessed:
            self._size, self._wait = min(2 * self._size, self.limit), 1
        elif right:
            self._size, self._wait = max(right, 1), 1
        else:
            self._size, self._pause, self._wait = min(_FIRST, self.limit), self._wait, min(2 * self._wait, _MAX_PAUSE)
