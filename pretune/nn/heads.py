"""Heads, which score hidden states: tokens of the vocabulary, classes of sequences or of tokens, spans, choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout, RowKeys, bucket_remainder
from pretune.nn.activation import Activation
from pretune.nn.dropout import Dropout
from pretune.nn.embedding import Embedding
from pretune.nn.projection import Projection
from pretune.nn.tuned import with_keys
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick

PoolPosition = Literal["first", "last", "mean"]
"""The row that stands for a sequence, or the mean of its rows."""
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What the scores of a sequence are, in the words of `config.json`."""
ScoreOutput = Literal["softmax", "sigmoid", "value"]
"""What is said of a sequence's scores: probabilities that exclude each other, independent ones, or the scores."""
SINGLE_LABEL: ProblemType = "single_label_classification"
TokenPrediction = Literal["next", "masked", "permuted"]
"""Which token a row of a language model predicts: the one after it, the one hidden in it, or any in a given order."""
NSP_LABELS = ("next", "random")
SOP_LABELS = ("ordered", "swapped")


class Transform(nn.Module):
    """A dense layer, an activation and a norm, which BERT puts before its vocabulary, and ModernBERT before every head.

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

    def forward(self, rows: Tensor, keys: RowKeys | None = None) -> Tensor:
        """Shape: (K, width) -> (K, out)."""
        return self.norm(self.activation(with_keys(self.dense, rows, keys)))  # type: ignore[no-any-return]


class VocabularyHead(nn.Module):
    """Scores all tokens of the vocabulary, for selected rows only.

    A plain vocabulary's vectors stand under the head's own name, whether they are its own or the embedding's. Another
    brick at their place stands under `replacement`, and serves the embedding too where both are tied.

    Args:
        vocabulary: what the rows are multiplied by.
        transform: applied to the rows before.
        bias: (V,) or None.
        predicts: which token a row predicts.
    """

    weight: nn.Parameter | None

    def __init__(
        self,
        vocabulary: VocabularyBrick,
        transform: nn.Module | None = None,
        bias: nn.Parameter | None = None,
        *,
        predicts: TokenPrediction,
    ) -> None:
        super().__init__()
        self.predicts = predicts
        self.transform = transform or nn.Identity()
        self.replacement: nn.Module | None = None
        self._plain: tuple[Vocabulary] | None = None  # in a tuple, which registers no second name for its weight
        self.register_parameter("weight", None)
        self.bias = bias
        self.tie(vocabulary)

    @classmethod
    def of(
        cls,
        embedding: Embedding,
        predicts: TokenPrediction,
        *,
        tied: bool,
        transform: nn.Module | None = None,
        bias: bool = False,
    ) -> VocabularyHead:
        """Builds a head over an embedding's vocabulary, tied to its vectors or with vectors of its own."""
        word = embedding.word
        vocabulary = word if tied else Vocabulary(word.size, word.width)
        values = nn.Parameter(torch.empty(word.size)) if bias else None
        return cls(vocabulary, transform, values, predicts=predicts)

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
        """Multiplies by this vocabulary from now on, which may be the embedding's."""
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

    def states(self, rows: Tensor, keys: RowKeys | None = None) -> Tensor:
        """Rows as the vocabulary is multiplied by them. Shape: (K, width) -> (K, width of the vocabulary)."""
        return _before(self.transform, rows, keys)

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, V)."""
        return self.vocabulary.scores(self.transform(rows), self.bias)

    def loss(
        self, rows: Tensor, labels: Tensor, smoothing: float = 0.0, *, keys: RowKeys | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gives the summed cross-entropy, without ever holding all scores.

        Args:
            smoothing: fraction of each target that is spread over all tokens.
            keys: of the rows.

        Shape:
            rows: (K, width); labels: (K,) int64; return: loss () fp32, number of correct predictions () int64
        """
        hidden = self._padded(rows, keys)
        if not smoothing:  # which a user's own vocabulary may not know
            return self.vocabulary.loss(hidden, labels, self.bias)
        return self.vocabulary.loss(hidden, labels, self.bias, smoothing)

    def sampled_loss(
        self, rows: Tensor, labels: Tensor, drawn: Tensor, *, keys: RowKeys | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Does as `loss`, with a token drawn from the distribution of each row.

        Shape:
            drawn: (K,) fp64, uniform in [0, 1); return: loss, correct, (K,) int64
        """
        return self.vocabulary.sampled_loss(self._padded(rows, keys), labels, drawn, self.bias)

    def _padded(self, rows: Tensor, keys: RowKeys | None) -> Tensor:
        if rows.device.type == "cpu" and len(rows):  # fewer different shapes
            more = bucket_remainder(len(rows))
            rows, keys = F.pad(rows, (0, 0, 0, more)), None if keys is None else keys.padded(more)
        return self.states(rows, keys)


class Pooler(nn.Module):
    """A dense layer and an activation over one row of each sequence.

    Args:
        dropout: rate before the dense layer.
    """

    def __init__(self, width: int, activation: Activation = torch.tanh, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.dense = Projection(width, width)
        self.activation = activation

    def forward(self, rows: Tensor, keys: RowKeys | None = None) -> Tensor:
        """Shape: (N, width) -> (N, width)."""
        return self.activation(with_keys(self.dense, self.dropout(rows, keys), keys))


class Activate(nn.Module):
    """Applies an activation and nothing else.

    Args:
        activation: by its name in `nn.activation`.
    """

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (N, width) -> (N, width)."""
        return self.activation(rows)


class SequenceHead(nn.Module):
    """Scores the classes of whole sequences, from one row of each or from the mean of its rows.

    Args:
        labels: names of the classes, in the order of the logits.
        pool_position: which row is read, or the mean of all.
        problem_type: what the scores are: logits of one class or of independent ones, or values.
        pooler: applied to the row, or None; it may be shared with other heads.
        dropout: rate at which the pooled row is dropped.

    Attributes:
        needs_all_rows: it reads every row of a sequence, not its ends alone.
        output: what is said of the scores.
        states_problem_type: the model's files say it; where they are silent, other readers may take it as they like.
        scores_pairs: its one score says how a pair of texts fits, as a cross-encoder's.
    """

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        pool_position: PoolPosition,
        problem_type: ProblemType = "single_label_classification",
        *,
        pooler: nn.Module | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.labels = list(labels)
        self.problem_type = problem_type
        self.output: ScoreOutput = score_output(problem_type, len(self.labels))
        self.states_problem_type = True
        self.scores_pairs = False
        self.pool_position = pool_position
        self.needs_all_rows = pool_position == "mean"
        self.pooler = pooler or nn.Identity()
        self.dropout = Dropout(dropout)
        self.linear = Projection(width, len(self.labels), bias=bias)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, width) -> (N, classes)."""
        pooled = pool(hidden, layout, self.pool_position)  # (N, width)
        keys = None if layout.keys is None else layout.keys.at(layout.first.clamp(max=len(hidden) - 1))
        pooled = _before(self.pooler, pooled, keys)
        return with_keys(self.linear, self.dropout(pooled, keys), keys)


def _before(module: nn.Module, rows: Tensor, keys: RowKeys | None) -> Tensor:
    """What stands before a head's last layer makes of rows, with their keys where it may draw. Shape: (K, any)."""
    return module(rows, keys) if isinstance(module, Pooler | Transform) else module(rows)  # type: ignore[no-any-return]


def score_output(problem_type: ProblemType, labels: int) -> ScoreOutput:
    """What is said of scores of a problem type; a single label is there or not, which is no choice among labels."""
    if problem_type == "regression":
        return "value"
    return "softmax" if problem_type == "single_label_classification" and labels > 1 else "sigmoid"


class ChoiceHead(SequenceHead):
    """Scores each sequence as one of several choices; those of an example are sequences that follow each other."""

    def __init__(
        self, width: int, pool_position: PoolPosition, *, pooler: nn.Module | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__(width, ("choice",), pool_position, pooler=pooler, dropout=dropout)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Shape: (T, width) -> (N,)."""
        return super().forward(hidden, layout).squeeze(1)


class RowHead(nn.Module):
    """Scores every row for itself.

    Args:
        size: scores of a row.
        transform: applied to the rows before, or None; it may be shared with other heads.
        dropout: rate at which the rows are dropped.
        reads_encoder: of an encoder-decoder, the encoder's rows are read, and no decoder is needed.
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        transform: nn.Module | None = None,
        dropout: float = 0.0,
        reads_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.transform = transform or nn.Identity()
        self.dropout = Dropout(dropout)
        self.linear = Projection(width, size)
        self.reads_encoder = reads_encoder

    def forward(self, rows: Tensor, keys: RowKeys | None = None) -> Tensor:
        """Shape: (K, width) -> (K, size)."""
        return with_keys(self.linear, self.dropout(_before(self.transform, rows, keys), keys), keys)


class TokenClassificationHead(RowHead):
    """Scores the classes of every token.

    Args:
        labels: names of the classes, in the order of the logits.
        transform, dropout, reads_encoder: as of every `RowHead`.
    """

    def __init__(
        self,
        width: int,
        labels: Sequence[str],
        *,
        transform: nn.Module | None = None,
        dropout: float = 0.0,
        reads_encoder: bool = False,
    ) -> None:
        super().__init__(width, len(labels), transform=transform, dropout=dropout, reads_encoder=reads_encoder)
        self.labels = list(labels)


class SpanHead(RowHead):
    """Scores every token as the first and as the last one of a span: columns start and end.

    Args:
        transform, dropout: as of every `RowHead`.
    """

    def __init__(self, width: int, *, transform: nn.Module | None = None, dropout: float = 0.0) -> None:
        super().__init__(width, 2, transform=transform, dropout=dropout)


def reads_rows(head: nn.Module) -> bool:
    """Whether a head scores rows, each for itself, and not whole sequences."""
    return isinstance(head, VocabularyHead | DetectionHead | RowHead)


def pool(hidden: Tensor, layout: Layout, position: PoolPosition) -> Tensor:
    """Pools each sequence to one row. Shape: (T, width) -> (N, width)."""
    if position != "mean":
        return hidden[layout.first if position == "first" else layout.last]
    lengths = layout.offsets.diff().long()
    owner = torch.arange(layout.count, device=hidden.device).repeat_interleave(lengths, output_size=layout.total)
    total = hidden.new_zeros(layout.count, hidden.shape[1], dtype=torch.float32).index_add(0, owner, hidden.float())
    return (total / lengths.clamp(min=1)[:, None]).to(hidden.dtype)


class DetectionHead(nn.Module):
    """Tells for each selected row whether its token was replaced: ELECTRA's discriminator.

    Source: Clark et al. 2020 (arXiv 2003.10555), the discriminator's head.
    """

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Projection(width, width)
        self.activation = activation
        self.linear = Projection(width, 1)

    def forward(self, rows: Tensor, keys: RowKeys | None = None) -> Tensor:
        """Shape: (K, width) -> (K,), above 0 for yes."""
        return with_keys(self.linear, self.activation(with_keys(self.dense, rows, keys)), keys).squeeze(1)
