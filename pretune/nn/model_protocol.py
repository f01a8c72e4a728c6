"""What objectives and tasks may use of a model: the protocol that every language model fulfils, and its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from pretune.batch import Batch, Layout, RowKeys
from pretune.errors import UsageError
from pretune.nn.activation import Activation
from pretune.nn.cache import Cache
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

Brick = TypeVar("Brick", bound=nn.Module)


@dataclass
class ModelOutput:
    """Holds the last hidden states of a forward, and what else was asked for.

    Attributes:
        last_hidden_state: (T, width), after the last norm; (M, width) where the last layer gave some rows only.
        layout: of that run.
        rows: (M,) int64, which rows of the batch's run they are; None for all.
        layers: the stack's input and every block's output, each (T, width), where asked for.
        cache: the cache of the call, with the new tokens in it.
    """

    last_hidden_state: Tensor
    layout: Layout
    rows: Tensor | None = None
    layers: list[Tensor] | None = None
    cache: Cache | None = None

    def at(self, index: Tensor) -> Tensor:
        """The hidden states of some rows of the batch, which must be among its `output_rows`.

        Shape:
            index: (K,) int64; return: (K, width)
        """
        return self.last_hidden_state.index_select(0, self._own(index))

    def keys_at(self, index: Tensor) -> RowKeys | None:
        """The keys of these rows, by which heads drop values; None where nothing is drawn. Shape: index: (K,) int64."""
        return None if self.layout.keys is None else self.layout.keys.at(self._own(index))

    def _own(self, index: Tensor) -> Tensor:
        return index if self.rows is None else torch.searchsorted(self.rows, index)


@dataclass(frozen=True)
class GenerationConstraints:
    """What a model's files require of the texts that it generates.

    Attributes:
        first: the token with which a text begins, whatever the scores say.
        last: tokens, with one of which a text ends that is as long as it may be.
        bad_words: words, each of one token or more, that a text must not contain.
        suppressed: tokens that a text must not contain.
        suppressed_first: tokens with which a text must not begin, or go on after `first`.
    """

    first: int | None = None
    last: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()


class TrainableModel(Protocol):
    """A language model as objectives, tasks, generation and evaluation see it."""

    @property
    def family(self) -> str:
        """Name of the family, for messages."""

    @property
    def heads(self) -> nn.ModuleDict:
        """The heads by role, such as `mlm` or `classification`."""

    @property
    def width(self) -> int:
        """Width of the hidden states."""

    @property
    def vocab_size(self) -> int:
        """Number of rows of the word embedding."""

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest sequence; None where there is no limit."""

    @property
    def is_causal(self) -> bool:
        """Whether each row sees only itself and the rows before it; true of the decoder of an encoder-decoder."""

    @property
    def has_encoder(self) -> bool:
        """Whether a batch has a source, which an encoder reads."""

    @property
    def decoder_start(self) -> int | None:
        """The token with which the decoder of an encoder-decoder begins; None for other models."""

    @property
    def pool_position(self) -> PoolPosition:
        """The row that stands for a sequence, or the mean of its rows."""

    @property
    def std(self) -> float:
        """Standard deviation of initial weights."""

    def std_of(self, path: str) -> float:
        """That of the initial weights of the module at a path."""
        ...

    @property
    def supports_permutation(self) -> bool:
        """Whether it reads a batch with an `order`: each row then sees those that come before it in that order."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def head_activation(self) -> Activation:
        """The activation that the family uses in its heads."""

    @property
    def constraints(self) -> GenerationConstraints:
        """What the model's files require of the texts that it generates."""

    def vocabulary_head(self, predicts: TokenPrediction | None = None) -> VocabularyHead:
        """A new head over the vocabulary, tied to the embedding where the configuration says so.

        Args:
            predicts: which token a row predicts; by default what the model sees decides.
        """

    def sequence_head(
        self,
        labels: Sequence[str],
        problem_type: ProblemType = "single_label_classification",
        *,
        dropout: float | None = None,
    ) -> SequenceHead:
        """A new head that scores the classes of whole sequences, with the family's pooler."""

    def token_head(self, labels: Sequence[str]) -> TokenClassificationHead:
        """A new head that scores the classes of every token."""

    def span_head(self) -> SpanHead:
        """A new head that scores every token as the first and the last one of a span."""

    def choice_head(self) -> ChoiceHead:
        """A new head that scores each sequence as one of several choices."""

    def own_pooler(self) -> nn.Module:
        """A new pooler as the family's model has one without any head."""

    def narrower(
        self, ratio: float, heads: Callable[[TrainableModel], Mapping[str, nn.Module]], seed: int
    ) -> TrainableModel:
        """A newly initialized model of the same family with narrower layers."""

    def share_embedding(self, other: TrainableModel) -> None:
        """Use the embedding tables of another model of the same family instead of its own."""

    def new_cache(self, sequences: int, capacity: int = 128) -> Cache:
        """An empty key/value cache."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All parameters, heads included."""

    def __call__(self, batch: Batch, *, cache: Cache | None = None, layers: bool = False) -> ModelOutput:
        """The hidden states of a batch."""


Memory = TypeVar("Memory")


@runtime_checkable
class RecurrentModel(TrainableModel, Protocol[Memory]):
    """A model that can read a text as the continuation of an earlier one."""

    def read_segment(self, batch: Batch, max_length: int) -> Memory:
        """A memory of some texts, for those that go on from them."""

    def __call__(
        self, batch: Batch, *, cache: Cache | None = None, layers: bool = False, memory: Memory | None = None
    ) -> ModelOutput:
        """The hidden states of a batch, read after its memory."""


def get_head(model: TrainableModel, role: str, brick: type[Brick]) -> Brick:
    """Gives a model's head, typed as its brick.

    Args:
        brick: for the type checker; a head that stands in for one, such as a fused one, passes too.

    Raises:
        UsageError: the model has no such head.
    """
    if role not in model.heads:
        raise UsageError(f"this {model.family} has no head {role!r}; its heads: {', '.join(model.heads) or 'none'}")
    return cast(Brick, model.heads[role])


def find_language_head(model: TrainableModel, *predicts: TokenPrediction) -> VocabularyHead | None:
    """Finds the head that predicts tokens in one of some ways, the first way that the model has; None without any."""
    heads = [head for head in model.heads.values() if isinstance(head, VocabularyHead)]
    return next((head for wanted in predicts for head in heads if head.predicts == wanted), None)
