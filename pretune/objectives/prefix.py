"""Prefix language modelling: the encoder reads the beginning of a text, the decoder continues it.

Data: windows of a stream, cut in two at a place drawn by the sample's key; both are whole texts, which end with
the end token.
Related: `clm` for decoders alone, `span`.

Source: Raffel et al. 2019 (arXiv 1910.10683), section 3.2.3; Liu et al. 2018, arXiv 1801.10198.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from pretune.draw import Draw, bounded
from pretune.objectives.source_target import Integers, SourceTarget
from pretune.text.samples.rows import Row, names_of


class PrefixLanguageModelling(SourceTarget):
    """Go on from the beginning of a text."""

    name: ClassVar[str] = "prefix"
    default_family: ClassVar[str] = "t5"
    view: ClassVar[str] = "stream"

    class Config(SourceTarget.Config):
        """Where a text is cut.

        Attributes:
            min_fraction, max_fraction: bounds of the fraction of the text that the encoder reads, drawn uniformly.
        """

        min_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
        max_fraction: float = Field(default=1.0, ge=0.0, le=1.0)

        @model_validator(mode="after")
        def _in_order(self) -> PrefixLanguageModelling.Config:
            if self.min_fraction > self.max_fraction:
                raise ValueError(f"min_fraction {self.min_fraction} is above max_fraction {self.max_fraction}")
            return self

    config: Config

    def pairs(self, rows: Sequence[Row], draw: Draw) -> list[tuple[Integers, Integers]]:
        """Beginnings, and the rest; each has a token at least."""
        with_end, config = self.vocabulary.with_end, self.config
        sizes = np.array([len(row.tokens) for row in rows], np.int64)
        first = np.clip(np.floor(sizes * config.min_fraction).astype(np.int64), 1, np.maximum(sizes - 1, 1))
        last = np.clip(np.ceil(sizes * config.max_fraction).astype(np.int64), first, np.maximum(sizes - 1, first))
        edges = first + bounded(draw.at(self.name).keys(names_of(rows)), last - first + 1)
        return [
            (with_end(row.tokens[:edge]), with_end(row.tokens[edge:]))
            for row, edge in zip(rows, edges.tolist(), strict=True)
        ]
