"""Rounds a model to the nearest when it is read for use, without calibration and without a file."""

from __future__ import annotations

from pretune.compress.method import CompressContext, find_compression
from pretune.draw import Draw
from pretune.models.model import LanguageModel
from pretune.text.tokenizer.tokenizer import Tokenizer


def round_for_use(network: LanguageModel, tokenizer: Tokenizer, format: str) -> LanguageModel:
    """The model with the matrices of its layers and its vocabulary in a format.

    Args:
        network: plain; it is changed.
        format: a file of `nn/formats/`, or a user's own by its path.

    Raises:
        UsageError: no such format; or a model that is rounded already, or under a tuning method.
        DataError: a matrix that the format cannot hold.
    """
    return find_compression("quantize", {"format": format}).apply(network, CompressContext(tokenizer, Draw(0)))
