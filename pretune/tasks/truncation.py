"""Which tokens of texts that are too long stay, as `task.NAME.truncate` says."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from pretune.errors import DataError, UsageError
from pretune.text.readers.records import Origin
from pretune.text.samples.rows import Ints

Truncate = Literal["head", "tail", "head+tail", "windows", "error"]


class HasOrigin(Protocol):
    """What messages name."""

    @property
    def origin(self) -> Origin:
        """Where it comes from."""


def truncate_pair(
    first: Ints, second: Ints | None, max_tokens: int, truncate: Truncate, example: HasOrigin
) -> tuple[Ints, Ints | None]:
    """Which tokens of a text, or of a pair whose longer text is truncated first, stay if only `max_tokens` may.

    Of two that are both too long, each keeps half, as by `longest_first` of tokenizers.

    Source: head + tail with a quarter for the head is the best of Sun et al. 2019, "How to fine-tune BERT for text
    classification" (arXiv 1905.05583), table 3.

    Raises:
        DataError: too long and `truncate = "error"`, or no token may stay.
    """
    size = len(first) + (0 if second is None else len(second))
    if size <= max_tokens:
        return first, second
    if truncate == "error":
        raise DataError(
            f"{example.origin}: more than the {max_tokens} tokens that fit; raise the length, or set truncate to head, "
            "tail, head+tail or windows"
        )
    if max_tokens < (1 if second is None else 2):
        raise DataError(
            f"{example.origin}: a length that leaves {max_tokens} tokens for text is too short; raise the length"
        )
    if second is None:
        return truncate_run(first, max_tokens, truncate), None
    half = max_tokens // 2
    share = half if len(first) <= len(second) else max_tokens - half  # the longer one has the odd token
    of_first = max(max_tokens - len(second), min(len(first), share))
    of_second = max_tokens - min(len(first), of_first)
    return truncate_run(first, of_first, truncate), truncate_run(second, of_second, truncate)


def truncate_run(tokens: Ints, max_tokens: int, truncate: Truncate) -> Ints:
    """At most `max_tokens` tokens of a run, from the places that `truncate` names.

    Raises:
        UsageError: it is too long and `truncate` is `windows`, which `windowed.cut_text` cuts for tasks that have them.

    Shape:
        tokens: (n, ...); return: (at most max_tokens, ...)
    """
    if len(tokens) <= max_tokens:
        return tokens
    if truncate == "windows":
        raise UsageError("truncate windows: this task reads one part of a text; use head, tail or head+tail")
    if truncate == "head":
        return tokens[:max_tokens]
    if truncate == "tail":
        return tokens[len(tokens) - max_tokens :]
    head = max_tokens // 4
    return np.concatenate([tokens[:head], tokens[len(tokens) - (max_tokens - head) :]])
