"""What is read off the hidden run: a token of the vocabulary for chosen rows, or a class for each sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout, bucket_remainder
from pretune.nn.activation import Activation
from pretune.nn.dropout import Dropout
from pretune.nn.embedding import Embedding
from pretune.nn.projection import Projection
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick

PoolPosition = Literal["first", "last"]
"""The row that stands for a sequence."""
NSP_LABELS = ("next", "random")
SOP_LABELS = ("ordered", "swapped")


class Transform(nn.Module):
    """Dense, activation, norm: what BERT puts before its vocabulary, and ModernBERT before every head.

    Args:
        out: width of the norm and of the result, where it is another.
    """

    def __init__(
        self, width: int, activation: Activation, norm: nn.Module, *, bias: bool = True, out: int | None = None
    ) -> None:
        super().__init__()
        self.dense = Projection(width, out or width, bias=bias)
        self.activation = activation
        self.norm = norm

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, out)."""
        return self.norm(self.activation(self.dense(rows)))  # type: ignore[no-any-return]


class VocabularyHead(nn.Module):
    """Scores of all tokens for the rows that are asked for, never for all.

    A plain vocabulary's vectors stand under the head's own name, whether they are its own or the embedding's. Another
    brick at their place stands under `replacement`, and serves the embedding too where both are tied.

    Args:
        vocabulary: what the rows are multiplied by.
        transform: applied to the rows before.
        bias: (V,) or None.
    """

    weight: nn.Parameter | None

    def __init__(
        self, vocabulary: VocabularyBrick, transform: nn.Module | None = None, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.transform = transform or nn.Identity()
        self.replacement: nn.Module | None = None
        self._plain: tuple[Vocabulary] | None = None  # in a tuple, which registers no second name for its weight
        self.register_parameter("weight", None)
        self.bias = bias
        self.tie(vocabulary)

    @classmethod
    def of(
        cls, embedding: Embedding, *, tied: bool, transform: nn.Module | None = None, bias: bool = False
    ) -> VocabularyHead:
        """A head over an embedding's vocabulary: by its own vectors, or by as many others."""
        word = embedding.word
        vocabulary = word if tied else Vocabulary(word.size, word.width)
        return cls(vocabulary, transform, nn.Parameter(torch.empty(word.size)) if bias else None)

    @property
    def vocabulary(self) -> VocabularyBrick:
        """What the rows are multiplied by."""
        if self._plain is None:
            return cast(VocabularyBrick, self.replacement)
        (plain,) = self._plain
        if plain.weight is not self.weight:  # the registered one is what loading and moving replace
            plain.weight = cast(nn.Parameter, self.weight)
        return plain

    def tie(self, vocabulary: VocabularyBrick) -> None:
        """Multiply by this vocabulary from now on, which may be the embedding's."""
        if isinstance(vocabulary, Vocabulary):
            self._plain = (Vocabulary.of(vocabulary.weight),)
            self.weight, self.replacement = vocabulary.weight, None
        else:
            self._plain, self.weight, self.replacement = None, None, cast(nn.Module, vocabulary)

    def is_tied(self, vocabulary: VocabularyBrick) -> bool:
        """Whether it multiplies by the vectors of this vocabulary."""
        if isinstance(vocabulary, Vocabulary):
            return self.weight is vocabulary.weight
        return self.vocabulary is vocabulary

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, V)."""
        return self.vocabulary.scores(self.transform(rows), self.bias)

    def loss(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy, without ever holding all scores.

        Shape:
            rows: (K, width); labels: (K,) int64; return: loss () fp32, number of correct predictions () int64
        """
        return self.vocabulary.loss(self._padded(rows), labels, self.bias)

    def sampled_loss(self, rows: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `loss`, with a token drawn from the distribution of each row.

        Shape:
            drawn: (K,) fp64, uniform in [0, 1); return: loss, correct, (K,) int64
        """
        return self.vocabulary.sampled_loss(self._padded(rows), labels, drawn, self.bias)

    def _padded(self, rows: Tensor) -> Tensor:
        if rows.device.type == "cpu" and len(rows):  # fewer different shapes
            rows = F.pad(rows, (0, 0, 0, bucket_remainder(len(rows))))
        out: Tensor = self.transform(rows)
        return out


class Pooler(nn.Module):
    """Dense and an activation over one row of each sequence.

    Args:
        dropout: share of the row dropped before, while training.
    """

    def __init__(self, width: int, activation: Activation = torch.tanh, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout) if dropout else nn.Identity()
        self.dense = Projection(width, width)
        self.activation = activation

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (N, width) -> (N, width)."""
        return self.activation(self.dense(self.dropout(rows)))


class SequenceHead(nn.Module):
    """One decision a sequence, read at its first or last token.

    Args:
        labels: names of the classes, in the order of the logits.
        pool_position: which token is read.
        pooler: applied to the row, or None; it may be shared with other heads.
        dropout: share of the pooled row dropped while training.

    Attributes:
        needs_all_rows: it needs every row of a sequence, not its ends alone.
    """

    needs_all_rows: ClassVar[bool] = False

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        pool_position: PoolPosition,
        *,
        pooler: nn.Module | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.labels = list(labels)
        self.pool_position = pool_position
        self.pooler = pooler or nn.Identity()
        self.dropout = Dropout(dropout)
        self.linear = Projection(width, len(self.labels), bias=bias)

    def rows(self, layout: Layout) -> Tensor:
        """(N,) int64: the row of the hidden run that decides for each sequence."""
        return layout.first if self.pool_position == "first" else layout.last

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, width) -> (N, classes)."""
        return self.linear(self.dropout(self.pooler(hidden[self.rows(layout)])))  # type: ignore[no-any-return]


class DetectionHead(nn.Module):
    """One yes or no for each row that is asked for: was this token replaced?

    Source: Clark et al. 2020 (arXiv 2003.10555), the discriminator's head.
    """

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Projection(width, width)
        self.activation = activation
        self.linear = Projection(width, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K,), above 0 for yes."""
        return self.linear(self.activation(self.dense(rows))).squeeze(1)  # type: ignore[no-any-return]


class MeanHead(SequenceHead):
    """One decision a sequence, read off the mean of its rows."""

    needs_all_rows: ClassVar[bool] = True

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, width) -> (N, classes)."""
        lengths = layout.offsets.diff().long()
        owner = torch.arange(layout.count, device=hidden.device).repeat_interleave(lengths, output_size=layout.total)
        total = hidden.new_zeros(layout.count, hidden.shape[1], dtype=torch.float32).index_add(0, owner, hidden.float())
        mean = (total / lengths.clamp(min=1)[:, None]).to(hidden.dtype)
        return self.linear(self.dropout(self.pooler(mean)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class HeadParts:
    """What the heads of a family are made of: a family states what differs from a plain linear layer.

    Attributes:
        width: of the hidden states.
        pool_position: the row that stands for a sequence.
        tied: the vocabulary's weights are the embedding's.
        vocabulary_bias: the vocabulary has a bias.
        vocabulary_transform: makes what stands before the vocabulary.
        activation: of heads that have one.
        pooler: makes what stands before the classes of a sequence, or gives one that all heads share.
        model_pooler: the same for the pooler that the family's model has without any head; None where it has none.
        sequence: the head that decides for a sequence.
        dropout: rate before the classes of a sequence.
        bias: the classes of a sequence have a bias.
    """

    width: int
    pool_position: PoolPosition
    tied: bool
    vocabulary_bias: bool = False
    vocabulary_transform: Callable[[], nn.Module] = nn.Identity
    activation: Activation = F.gelu
    pooler: Callable[[], nn.Module] = nn.Identity
    model_pooler: Callable[[], nn.Module] | None = None
    sequence: type[SequenceHead] = SequenceHead
    dropout: float = 0.0
    bias: bool = True

    def vocabulary_head(self, embedding: Embedding) -> VocabularyHead:
        """A new head over the vocabulary of an embedding."""
        transform = self.vocabulary_transform()
        return VocabularyHead.of(embedding, tied=self.tied, transform=transform, bias=self.vocabulary_bias)

    def sequence_head(self, labels: Sequence[str], dropout: float | None = None) -> SequenceHead:
        """A new head that decides for whole sequences.

        Args:
            dropout: another rate than the family's.
        """
        return self.sequence(
            self.width,
            labels,
            self.pool_position,
            pooler=self.pooler(),
            dropout=self.dropout if dropout is None else dropout,
            bias=self.bias,
        )
