"""BERT with its norms before each branch instead of after it: trains at higher rates, needs a last norm.

No other software knows it, so that its weights are saved under our own names.

Source: Xiong et al. 2020, "On layer normalization in the transformer architecture" (arXiv 2002.04745).
"""

from torch import nn

from pretune.models import bert
from pretune.models.bert import SIZES, Config
from pretune.models.model import LanguageModel
from pretune.nn.block import Norms

__all__ = ["SIZES", "Config", "build"]


def build(config: Config) -> LanguageModel:
    """The modules of a pre-norm BERT."""
    model = bert.build(config)
    for block in model.stack.blocks:
        norms = block.norms
        block.norms = Norms(before_attention=norms.after_attention, before_feedforward=norms.after_feedforward)
    model.stack.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    return model
