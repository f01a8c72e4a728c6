"""Span corruption: the encoder reads a text with gaps, the decoder predicts what was in them.

Data: windows of a stream. An exact fraction of the tokens is hidden in spans whose lengths are a random partition; each
gives way to a sentinel of its own. The target names each sentinel and what it stands for; both are whole texts, which
end with the end token:

    source  Thank you <extra_id_0> me to your party <extra_id_1> week </s>
    target  <extra_id_0> for inviting <extra_id_1> last </s>

A window begins with a kept token and ends with a hidden one, as in the authors' code. Related: `denoise`, `prefix`.

Source: Raffel et al. 2019 (arXiv 1910.10683), section 3.1.4; `random_spans_noise_mask` of google-research/t5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.objectives.objective import require_token
from pretune.objectives.source_target import Integers, SourceTarget
from pretune.text.samples.rows import Row, names_of

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary


class SpanCorruption(SourceTarget):
    """Write what is missing from a text."""

    name: ClassVar[str] = "span"
    default_family: ClassVar[str] = "t5"
    view: ClassVar[str] = "stream"

    class Config(SourceTarget.Config):
        """How much is hidden.

        Attributes:
            rate: fraction of the tokens that are hidden, rounded; at least one of them hidden and one kept.
            mean_span: mean length of a span.
        """

        rate: float = Field(default=0.15, gt=0.0, lt=1.0)
        mean_span: float = Field(default=3.0, ge=1.0, le=64.0)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        remedy = "train one with sentinels = 100, or use the objective denoise"
        sentinels = require_token(vocabulary.sentinels, "span", "sentinels (<extra_id_0>, ...)", remedy)
        self._sentinels = np.array(sentinels, np.int64)

    def pairs(self, rows: Sequence[Row], draw: Draw) -> list[tuple[Integers, Integers]]:
        """Texts with gaps, and what fills them."""
        keys = draw.at(self.name).keys(names_of(rows)).tolist()
        return [
            self.corrupted(np.asarray(row.tokens, np.int64), Draw(key)) for row, key in zip(rows, keys, strict=True)
        ]

    def corrupted(self, tokens: Integers, draw: Draw) -> tuple[Integers, Integers]:
        """Source and target of one text, end tokens included. Shape: (n,) -> (any,), (any,)."""
        lengths = spans(len(tokens), draw, self.config.rate, self.config.mean_span)
        if len(lengths) // 2 > len(self._sentinels):
            raise UsageError(
                f"a text of {len(tokens)} tokens has {len(lengths) // 2} gaps, the tokenizer {len(self._sentinels)} "
                "sentinels; make data.length smaller, mean_span larger, or train a tokenizer with more"
            )
        runs = np.split(tokens, np.cumsum(lengths)[:-1]) if len(lengths) else [tokens]
        source, filling = [], []
        for n in range(0, len(runs) - 1, 2):
            sentinel = self._sentinels[n // 2 : n // 2 + 1]
            source += [runs[n], sentinel]
            filling += [sentinel, runs[n + 1]]
        source += [runs[-1]] if len(runs) % 2 else []
        with_end = self.vocabulary.with_end
        return with_end(np.concatenate([*source, tokens[:0]])), with_end(np.concatenate([*filling, tokens[:0]]))


def spans(length: int, draw: Draw, rate: float, mean: float) -> Integers:
    """Lengths of kept and hidden runs in turn, the first one kept; empty where there is no room for both.

    Shape:
        return: (2 * spans,), their sum is `length`
    """
    if length < 2:
        return np.zeros(0, np.int64)
    hidden = min(max(round(length * rate), 1), length - 1)
    count = min(max(round(hidden / mean), 1), length - hidden)
    out = np.empty(2 * count, np.int64)
    out[0::2] = _partition(length - hidden, count, draw.at("kept"))
    out[1::2] = _partition(hidden, count, draw.at("hidden"))
    return out


def _partition(total: int, parts: int, draw: Draw) -> Integers:
    """A uniformly drawn way to write `total` as a sum of `alternatives` positive numbers. Shape: return: (parts,)."""
    cuts = np.sort(np.argsort(draw.bits(np.arange(total - 1)), kind="stable")[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
