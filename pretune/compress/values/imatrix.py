"""Rounds to the nearest with the scale of each group that makes the least error, weighted by the inputs' squares.

Source: llama.cpp's importance matrix, `quantize_row_q4_0_impl` of ggml-quants.c.
"""

from __future__ import annotations

from torch import Tensor

from pretune import config
from pretune.compress.values.inputs import Inputs
from pretune.compress.values.method import inputs_of, levels_of
from pretune.compress.values.scales import search_scales, spread, to_levels
from pretune.nn.formats.format import Format

NEEDS_INPUTS = True


class Config(config.Config):
    """There is nothing to set."""


def choose(weight: Tensor, format: Format, inputs: Inputs | None, config: Config) -> dict[str, Tensor]:
    """Searches the scales. Shape: (out, in) fp32 -> (out, ...) of each."""
    chosen = levels_of(format, "imatrix")
    scales = search_scales(weight, chosen, llama_importance(weight, inputs_of(inputs, "imatrix").squares))
    return chosen.assemble(to_levels(weight, spread(scales, chosen, weight.shape[1]), chosen), scales)


def llama_importance(weight: Tensor, squares: Tensor) -> Tensor:
    """Weights of squared errors: large weights count more. Shape: (out, in), (in,) -> (out, in)."""
    return squares * (weight.square().mean(1, keepdim=True) + weight.square()).sqrt()
