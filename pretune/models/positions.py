"""How many tokens a text may have: the positions of a model that no prefix and no prompt takes."""

from __future__ import annotations

from dataclasses import dataclass

from pretune.batch import Layout
from pretune.errors import DataError
from pretune.nn.cache import Cache


@dataclass(frozen=True)
class Positions:
    """The positions of a model and who takes them; None where there is no limit.

    Attributes:
        total: of the model.
        prefix: those of a prefix of keys, which stands in no cache.
        prompt: those of vectors in front of a text, which stand in the cache with it.
    """

    total: int | None
    prefix: int = 0
    prompt: int = 0

    @property
    def of_text(self) -> int | None:
        """What is left to a text."""
        return None if self.total is None else self.total - self.prefix - self.prompt

    @property
    def of_cache(self) -> int | None:
        """What a cache holds at most."""
        return None if self.total is None else self.total - self.prefix

    def check(self, layout: Layout, cache: Cache | None = None) -> None:
        """Checks sequences before they are read.

        Args:
            layout: with the vectors of a prompt.
            cache: what comes before them.

        Raises:
            DataError: one is too long.
        """
        length = layout.max_length
        if cache is not None:
            length = max((a + b for a, b in zip(layout.lengths, cache.lengths, strict=False)), default=0)
        if self.of_cache is not None and length > self.of_cache:
            raise DataError(
                f"a sequence of {length - self.prompt} tokens is longer than the model's {self.of_text} positions; "
                "cut it, or build the model with more positions"
            )
