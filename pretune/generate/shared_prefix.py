"""Reads prompts that begin alike once: what they share is read for one row, which the others go on from.

Only where the logits of a row do not depend on what is fed with it, bit for bit: then a text is the same as alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tokens = NDArray[np.int64]
_WORTH = 8  # tokens that are not read again, for which a second step pays


class PromptSession(Protocol):
    """A decoding session that has read nothing yet.

    Attributes:
        start: the token with which a decoder begins, where an encoder reads the prompts.
    """

    start: int | None

    @property
    def is_exact(self) -> bool:
        """Whether the logits of a row are the same whatever is fed with it."""

    def read(self, prompts: Sequence[Tokens]) -> Tensor:
        """Reads the prompts. Shape: return: (N, V)."""

    def select(self, rows: Tensor) -> None:
        """Keeps, repeats and reorders rows. Shape: rows: (M,)."""

    def extend(self, runs: Sequence[Sequence[int]]) -> Tensor:
        """Feeds several more tokens for each row. Shape: return: (N, V)."""


class SharedPrefix(NamedTuple):
    """Some prompts, by their numbers, and how many tokens they have in common that are read once."""

    members: tuple[int, ...]
    length: int


def read_prompts(session: PromptSession, prompts: Sequence[Tokens]) -> Tensor:
    """Reads prompts, a row for each, what is common once. Shape: return: (N, V) logits of the token after each."""
    if not session.is_exact or session.start is not None or min(map(len, prompts)) < 2:
        return session.read(prompts)
    groups = shared_prefixes(prompts)
    if sum(group.length * (len(group.members) - 1) for group in groups) < _WORTH:
        return session.read(prompts)
    session.read([prompts[group.members[0]][: group.length] for group in groups])
    origin = {n: row for row, group in enumerate(groups) for n in group.members}
    rows = [origin[n] for n in range(len(prompts))]
    session.select(torch.tensor(rows))
    return session.extend([prompt[groups[row].length :].tolist() for prompt, row in zip(prompts, rows, strict=True)])


def shared_prefixes(prompts: Sequence[Tokens]) -> list[SharedPrefix]:
    """Puts prompts together so that the fewest tokens are read; of each at least the last token is left."""
    runs = [prompt.tolist() for prompt in prompts]
    order = sorted(range(len(runs)), key=lambda n: (runs[n], n))
    common = [_common(runs[a], runs[b]) for a, b in pairwise(order)]
    _, cuts = _split(common, [len(runs[n]) - 1 for n in order], 0, len(order))
    return [SharedPrefix(tuple(order[first:last]), length) for first, last, length in cuts]


def _split(common: list[int], longest: list[int], first: int, last: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Cuts sorted prompts in two wherever that saves more.

    Args:
        common: first tokens that each has in common with the next.
        longest: tokens of each that may be shared.

    Returns:
        tokens that are not read again, and (first, last, shared tokens) of each part.
    """
    if last - first == 1:
        return 0, [(first, last, longest[first])]
    between = common[first : last - 1]
    length = min(*between, *longest[first:last])
    cut = first + 1 + between.index(min(between))
    left, right = _split(common, longest, first, cut), _split(common, longest, cut, last)
    whole = length * (last - first - 1)
    if whole >= max(1, left[0] + right[0]):
        return whole, [(first, last, length)]
    return left[0] + right[0], left[1] + right[1]


def _common(one: list[int], other: list[int]) -> int:
    """How many first tokens are the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
