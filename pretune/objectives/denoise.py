"""Denoising: the encoder reads a corrupted text, the decoder reconstructs it.

Data: windows of whole sentences of one document (the view "sentences"), `[CLS] tokens [SEP]`. What can be done to one,
in this order, each by the sample's key:

1. sentence permutation: its sentences in another order;
2. text infilling: spans of lengths from a Poisson distribution give way to one mask each, spans of length 0 are a mask
   between two tokens, until the fraction of hidden tokens is reached exactly;
3. token masking and token deletion: single tokens give way to a mask, or go without a trace;
4. document rotation: the text begins at another of its tokens.

The default is what BART was trained with: spans over 30%, sentences permuted. Related: `span` for T5.

Source: Lewis et al. 2019 (arXiv 1910.13461), section 2.2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pretune.draw import Draw
from pretune.objectives.objective import MASK_REMEDY, require_token
from pretune.objectives.source_target import Integers, SourceTarget
from pretune.text.samples.rows import Row, names_of

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary

_MASK = -1  # stands for the mask while a text is being damaged


class Denoising(SourceTarget):
    """Write a text again from what is left of it."""

    name: ClassVar[str] = "denoise"
    default_family: ClassVar[str] = "bart"
    view: ClassVar[str] = "sentences"

    class Config(SourceTarget.Config):
        """What is done to a text.

        Attributes:
            infill: fraction of the tokens that spans hide.
            mean_span: mean length of a span.
            mask: fraction of the remaining tokens that a mask stands for.
            delete: fraction of the remaining tokens that are left out.
            permute: fraction of the texts whose sentences are permuted.
            rotate: fraction of the texts that are rotated.
        """

        infill: float = Field(default=0.3, ge=0.0, le=1.0)
        mean_span: float = Field(default=3.0, gt=0.0, le=64.0)
        mask: float = Field(default=0.0, ge=0.0, le=1.0)
        delete: float = Field(default=0.0, ge=0.0, le=1.0)
        permute: float = Field(default=1.0, ge=0.0, le=1.0)
        rotate: float = Field(default=0.0, ge=0.0, le=1.0)

        @model_validator(mode="after")
        def _within_one(self) -> Denoising.Config:
            if self.mask + self.delete > 1.0 + 1e-9:
                raise ValueError(f"mask + delete must be at most 1, got {self.mask} + {self.delete}")
            return self

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self._mask_id = require_token(vocabulary.mask, "denoise", "a mask token", MASK_REMEDY)

    def pairs(self, rows: Sequence[Row], draw: Draw) -> list[tuple[Integers, Integers]]:
        """Damaged texts, and whole ones."""
        keys = draw.at(self.name).keys(names_of(rows)).tolist()
        with_end = self.vocabulary.with_end
        return [
            (with_end(self.damage(row, Draw(key))), with_end(row.tokens)) for row, key in zip(rows, keys, strict=True)
        ]

    def damage(self, row: Row, draw: Draw) -> Integers:
        """What the encoder reads of one text, without special tokens. Shape: (n,) -> (any,)."""
        config = self.config
        tokens = np.asarray(row.tokens, np.int64)
        if row.sentences is not None and _happens(draw.at("permute"), config.permute):
            sentences = np.split(tokens, row.sentences[1:])
            order = np.argsort(draw.at("order").bits(np.arange(len(sentences))), kind="stable")
            tokens = np.concatenate([sentences[n] for n in order])
        tokens = infill(tokens, draw.at("infill"), config.infill, config.mean_span)
        if config.mask or config.delete:
            drawn = draw.at("single").uniform(np.arange(len(tokens)))
            single = (tokens != _MASK) & (drawn < config.mask)
            gone = (tokens != _MASK) & (drawn >= config.mask) & (drawn < config.mask + config.delete)
            tokens = np.where(single, _MASK, tokens)[~gone]
        if len(tokens) > 1 and _happens(draw.at("rotate"), config.rotate):
            tokens = np.roll(tokens, -int(draw.at("first").below(0, len(tokens))))
        return np.where(tokens == _MASK, self._mask_id, tokens)


def infill(tokens: Integers, draw: Draw, fraction: float, mean: float) -> Integers:
    """Spans give way to one `_MASK` each, until a rounded fraction of the tokens is hidden.

    The number of spans follows from their lengths; where they lie is uniform over all arrangements without overlap.

    Shape:
        tokens: (n,); return: (any,)
    """
    hidden = int(fraction * len(tokens) + 0.5)
    if not hidden:
        return tokens
    lengths = _spans(draw.at("lengths"), hidden, mean)
    kept, count = len(tokens) - hidden, len(lengths)
    rank = np.argsort(draw.at("places").bits(np.arange(kept + count)), kind="stable")
    slots = np.sort(rank[:count])  # of kept tokens and spans in a row, those that are spans
    before = slots - np.arange(count)  # kept tokens before each span
    starts = before + np.cumsum(lengths) - lengths
    keep = np.ones(len(tokens), np.bool_)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        keep[start : start + length] = False
    return np.insert(tokens[keep], before, _MASK)


def _spans(draw: Draw, hidden: int, mean: float) -> Integers:
    """Lengths whose sum is `hidden`, the last one cut to fit."""
    table = _poisson(mean)
    wanted = 2 * int(hidden / mean) + 16
    while True:
        lengths = np.searchsorted(table, draw.uniform(np.arange(wanted)), side="right").astype(np.int64)
        total = np.cumsum(lengths)
        if total[-1] >= hidden:
            break
        wanted *= 2
    last = int(np.searchsorted(total, hidden))
    lengths = lengths[: last + 1]
    lengths[-1] -= total[last] - hidden
    return lengths


@lru_cache(maxsize=8)
def _poisson(mean: float) -> NDArray[np.float64]:
    """Cumulative probabilities of 0, 1, 2 ...; the rest beyond the table is below 1e-12."""
    from scipy import stats

    return np.asarray(stats.poisson.cdf(np.arange(int(mean + 12 * mean**0.5 + 24)), mean))


def _happens(draw: Draw, fraction: float) -> bool:
    return bool(draw.uniform(0) < fraction)
