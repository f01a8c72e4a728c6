"""A model's matmuls in bf16 for use: which weights are cast once, and which stay in fp32."""

from __future__ import annotations

import torch
from torch import nn

from pretune.nn.crf import CRF
from pretune.nn.heads import VocabularyHead
from pretune.nn.projection import ProjectionBrick, named_bricks
from pretune.nn.vocabulary import VocabularyBrick


def cast_to_bf16(model: nn.Module) -> None:
    """Casts what matmuls multiply by to bf16, once and in place, with the biases of projections.

    Norms and positions stay in fp32, and with them the residual run, and so do the scores of a CRF; a vocabulary that
    is tied to its head becomes bf16 and stays tied.
    """
    for _, brick in named_bricks(model):
        if isinstance(brick, ProjectionBrick | nn.Linear):
            brick.to(torch.bfloat16)
        elif isinstance(brick, VocabularyHead):
            for parameter in _vectors(brick):
                parameter.data = parameter.data.bfloat16()
        elif not isinstance(brick, nn.Embedding | VocabularyBrick | CRF):
            for parameter in brick.parameters(recurse=False):
                if parameter.dim() > 1:
                    parameter.data = parameter.data.bfloat16()


def _vectors(head: VocabularyHead) -> list[nn.Parameter]:
    """Parameters of the vocabulary that a head multiplies by."""
    vocabulary = head.vocabulary
    assert isinstance(vocabulary, nn.Module)
    return list(vocabulary.parameters())
