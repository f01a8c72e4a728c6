"""What a family's heads are made of (its poolers, transforms and dropout rates), and how heads are built of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from pretune.nn.activation import Activation
from pretune.nn.embedding import Embedding
from pretune.nn.heads import (
    ChoiceHead,
    PoolPosition,
    ProblemType,
    SequenceHead,
    SpanHead,
    TokenClassificationHead,
    TokenPrediction,
    VocabularyHead,
)


@dataclass(frozen=True)
class HeadParts:
    """What the heads of a family are made of: a family states what differs from a plain linear layer.

    What makes a module is called for each head, so that heads have modules of their own, or gives one module that all
    heads share.

    Attributes:
        width: of the hidden states.
        pool_position: the row that stands for a sequence.
        tied: the vocabulary's weights are the embedding's.
        vocabulary_bias: the vocabulary has a bias.
        vocabulary_transform: makes what stands before the vocabulary.
        activation: of heads that have one.
        pooler: makes what stands before the classes of a sequence.
        model_pooler: makes the pooler that the family's model has without any head; None where it has none.
        choice_pooler: makes what stands before the score of a choice, where that is not `pooler`.
        choice_position: the row that is read for the score of a choice, where that is not `pool_position`.
        row_transform: makes what stands before the scores of single rows.
        dropout: rate before the classes of a sequence.
        choice_dropout, token_dropout: rates before the score of a choice and the classes of a token, where they differ.
        span_dropout: rate before the scores of a span's ends.
        sequence_bias: the classes of a sequence have a bias.
        tokens_read_encoder: of an encoder-decoder, the classes of tokens are read off the encoder.
    """

    width: int
    pool_position: PoolPosition
    tied: bool
    vocabulary_bias: bool = False
    vocabulary_transform: Callable[[], nn.Module] = nn.Identity
    activation: Activation = F.gelu
    pooler: Callable[[], nn.Module] = nn.Identity
    model_pooler: Callable[[], nn.Module] | None = None
    choice_pooler: Callable[[], nn.Module] | None = None
    choice_position: PoolPosition | None = None
    row_transform: Callable[[], nn.Module] = nn.Identity
    dropout: float = 0.0
    choice_dropout: float | None = None
    token_dropout: float | None = None
    span_dropout: float = 0.0
    sequence_bias: bool = True
    tokens_read_encoder: bool = False

    def vocabulary_head(self, embedding: Embedding, predicts: TokenPrediction) -> VocabularyHead:
        """A new head over the vocabulary of an embedding."""
        transform = self.vocabulary_transform()
        return VocabularyHead.of(embedding, predicts, tied=self.tied, transform=transform, bias=self.vocabulary_bias)

    def sequence_head(
        self, labels: Sequence[str], problem_type: ProblemType, dropout: float | None = None
    ) -> SequenceHead:
        """A new head that scores the classes of whole sequences.

        Args:
            dropout: another rate than the family's.
        """
        return SequenceHead(
            self.width,
            labels,
            self.pool_position,
            problem_type,
            pooler=self.pooler(),
            dropout=self.dropout if dropout is None else dropout,
            bias=self.sequence_bias,
        )

    def token_head(self, labels: Sequence[str]) -> TokenClassificationHead:
        """A new head that scores the classes of every token."""
        return TokenClassificationHead(
            self.width,
            labels,
            transform=self.row_transform(),
            dropout=self.dropout if self.token_dropout is None else self.token_dropout,
            reads_encoder=self.tokens_read_encoder,
        )

    def span_head(self) -> SpanHead:
        """A new head that scores every token as the first and the last one of a span."""
        return SpanHead(self.width, transform=self.row_transform(), dropout=self.span_dropout)

    def choice_head(self) -> ChoiceHead:
        """A new head that scores each sequence as one of several choices."""
        return ChoiceHead(
            self.width,
            self.choice_position or self.pool_position,
            pooler=(self.choice_pooler or self.pooler)(),
            dropout=self.dropout if self.choice_dropout is None else self.choice_dropout,
        )
