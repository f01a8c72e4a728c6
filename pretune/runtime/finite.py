"""Finds the answers of a model that are no numbers, so that none leaves it unsaid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.errors import NonFiniteError

_EXCERPT = 40  # characters of a text in a message


def first_non_finite(rows: Tensor) -> int | None:
    """The first row that holds a NaN or an infinity; None if there is none.

    One sum tells of most rows that all is well: NaN and infinities stay in it. A row whose sum overflows is looked at.

    Shape:
        rows: (n, ...)
    """
    sums = rows.flatten(1).sum(dim=1).tolist() if rows.dim() > 1 else rows.tolist()
    for number, total in enumerate(sums):
        if not math.isfinite(total) and not bool(rows[number].isfinite().all()):
            return number
    return None


def first_non_finite_row(rows: NDArray[np.floating]) -> int | None:
    """As `first_non_finite`. Shape: rows: (n, width)"""
    with np.errstate(all="ignore"):
        if math.isfinite(float(rows.sum())):
            return None
    bad = ~np.isfinite(rows).all(axis=1)
    return int(bad.argmax()) if bad.any() else None


def is_finite(value: object) -> bool:
    """Whether every floating-point number of a prediction is finite: a number, or fields, items and arrays of them."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str | bytes | int) or value is None:
        return True
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(is_finite, value))
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value).all())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if is_dataclass(value):
        return all(is_finite(getattr(value, field.name)) for field in fields(value))
    return True


def non_finite(what: str, index: int, total: int, text: str | None, name: str = "text") -> NonFiniteError:
    """The error of a text for which a model gives no number.

    Args:
        what: what the model gives, such as "a vector".
        index: of the text among all that were asked for.
        total: how many they are.
        text: itself, of which the message has the beginning; None where it is not at hand.
        name: what a text is called.
    """
    return NonFiniteError.of(f"{name} {index + 1} of {total}", what, index, (text or "")[:_EXCERPT])
