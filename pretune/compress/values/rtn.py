"""Rounds every weight to the nearest value of the format, with the format's own scales: no data are needed."""

from __future__ import annotations

from torch import Tensor

from pretune import config
from pretune.compress.values.inputs import Inputs
from pretune.nn.formats.format import Format, pack

NEEDS_INPUTS = False


class Config(config.Config):
    """There is nothing to set."""


def choose(weight: Tensor, format: Format, inputs: Inputs | None, config: Config) -> dict[str, Tensor]:
    """Packs the matrix as it is. Shape: (out, in) fp32 -> (out, ...) of each."""
    return pack(format, weight)
