"""What all families share: the model itself, and how a family file is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from pretune import config as configuration
from pretune.batch import Batch, Layout
from pretune.errors import DataError, UsageError
from pretune.find import find, suggest
from pretune.models.init import initialise
from pretune.models.metadata import Metadata, VariantRecord, absolute, digest
from pretune.models.weight_map import Weight
from pretune.nn.cache import Cache
from pretune.nn.embedding import Embedding
from pretune.nn.heads import Anchor
from pretune.nn.stack import Stack

Pooling = Literal["mean", "cls", "last"]
"""What makes one vector of a sequence's rows: all of them, the first, or the last."""


class Config(configuration.Config):
    """Base of the families' configurations, whose fields have the Hugging Face names."""

    tie_word_embeddings: bool = True


class Family(Protocol):
    """What a file of `models/`, or a user's own, offers.

    A family that no other software knows leaves `PREFIX`, `WEIGHT_MAP` and `ARCHITECTURES` out: its weights are saved
    under our own names. `MODEL_TYPE` is what `config.json` calls it, where that is not the name of its file.
    """

    Config: type[Config]
    SIZES: Mapping[str, Mapping[str, Any]]
    ANCHOR: Anchor
    PREFIX: str
    ATTENTION_DROPOUT: str
    WEIGHT_MAP: Sequence[Weight]
    ARCHITECTURES: Mapping[str, tuple[str, ...]]

    def build(self, config: Any, heads: Sequence[str], labels: Sequence[str] | None = None) -> LanguageModel:
        """The modules, on torch's current default device, with weights not yet set."""


@dataclass
class ModelOutput:
    """What a forward gives.

    Attributes:
        last_hidden_state: (T, width), after the last norm; (M, width) where the last layer gave some rows only.
        layout: of that run.
        rows: (M,) int64, which rows of the batch's run they are; None for all.
        layers: the stack's input and every block's output, each (T, width), where asked for.
        cache: the one that was given, with the new tokens in it.
    """

    last_hidden_state: Tensor
    layout: Layout
    rows: Tensor | None = None
    layers: list[Tensor] | None = None
    cache: Cache | None = None

    def at(self, index: Tensor) -> Tensor:
        """Rows by their place in the batch's run, which must be among those that it `reads`.

        Shape:
            index: (K,) int64; return: (K, width)
        """
        place = index if self.rows is None else torch.searchsorted(self.rows, index)
        return self.last_hidden_state.index_select(0, place)


@dataclass
class Loaded:
    """What reading a model's files found.

    Attributes:
        initialised: our names of weights that the files lack and that got initial values.
        unexpected: names in the files that the model has no place for.
        notes: sentences for the log.
    """

    initialised: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class LanguageModel(nn.Module):
    """Embedding, stack and heads of one family.

    Args:
        family: name of its file in `models/`.
        config: sizes and rates, by their Hugging Face names.
        heads: by role: `mlm`, `nsp`, `clm`, `classification`, `pooler`.
        std: of initial weights.
        residual_std: of the initial weights of projections that end a residual branch, where it differs.
        positions: tokens of the longest sequence, where no table of positions says it; None for no limit.

    Attributes:
        extras: fields of a foreign `config.json` that pretune does not use and hands on.
        loaded: what reading the files found, or None for a model built anew.
        metadata: what the files say of the model beyond its configuration: objectives, task, heads.
        extra_weights: what an objective or a task has learned beside the model, by its name in the files
            (`objective.<name>.…`), saved with it.
        pooling: what makes a text's vector of its rows, where the files or the training say it: `mean`, `cls`, `last`.
    """

    def __init__(
        self,
        family: str,
        config: Config,
        embedding: Embedding,
        stack: Stack,
        heads: Mapping[str, nn.Module],
        *,
        std: float = 0.02,
        residual_std: float | None = None,
        positions: int | None = None,
    ) -> None:
        super().__init__()
        self.family = family
        self.config = config
        self.embedding = embedding
        self.stack = stack
        self.heads = nn.ModuleDict(dict(heads))
        self.std = std
        self.residual_std = std if residual_std is None else residual_std
        self.positions = positions if embedding.position is None else embedding.position.longest
        self.extras: dict[str, Any] = {}
        self.loaded: Loaded | None = None
        self.pooling: Pooling | None = None
        self.metadata = Metadata()
        self.extra_weights: dict[str, Tensor] = {}

    def forward(self, batch: Batch, *, cache: Cache | None = None, layers: bool = False) -> ModelOutput:
        """The hidden run of a batch; heads are called on it by whoever needs them.

        The last layer gives the rows that the batch `reads` alone, where its attention can leave queries out.

        Args:
            cache: earlier tokens of the same sequences; `batch.layout` then comes from `cache.layout`.
            layers: also return every layer's run.

        Raises:
            DataError: a sequence is longer than the model's positions.
        """
        if not torch.compiler.is_compiling():
            self._check_length(batch, cache)
        kept: list[Tensor] | None = [] if layers else None
        hidden = self.embedding(batch.tokens, batch.layout, batch.segments)
        some = batch.output_rows is not None and cache is None and not layers and self.supports_output_rows
        reads = batch.output_rows if some else None
        hidden = self.stack(hidden, batch.layout, cache, kept, reads)
        if reads is None:
            return ModelOutput(hidden, batch.layout, None, kept, cache)
        return ModelOutput(hidden, reads.layout, reads.index)

    @property
    def supports_output_rows(self) -> bool:
        """Whether the last layer gives only the rows that a batch reads."""
        return self.stack.supports_output_rows and not any(
            getattr(head, "needs_all_rows", False) for head in self.heads.values()
        )

    @property
    def vocab_size(self) -> int:
        """Tokens of the embedding."""
        return self.embedding.word.size

    @property
    def width(self) -> int:
        """Of the hidden run."""
        return self.embedding.width

    @property
    def max_length(self) -> int | None:
        """Positions: tokens of the longest sequence; None where there is no limit."""
        return self.positions

    def context(self, settings: Mapping[str, Any]) -> int:
        """Tokens that a sequence may have: the positions, or fewer where training saw only shorter texts.

        Args:
            settings: of the tokenizer, whose `model_max_length` says what training saw.
        """
        limits = (self.max_length, settings.get("model_max_length"), 1 << 20)
        return min(int(limit) for limit in limits if isinstance(limit, int | float) and limit > 0)

    @property
    def labels(self) -> list[str]:
        """Names of the classes of the classification head.

        Raises:
            UsageError: the model has no such head.
        """
        if "classification" not in self.heads:
            raise UsageError(f"this {self.family} has no classification head; fine-tune it first (pretune finetune)")
        return cast(list[str], self.heads["classification"].labels)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def narrower(self, share: float, heads: Sequence[str], seed: int) -> LanguageModel:
        """A model of the same family whose layers have a share of this one's width, with initial weights.

        Raises:
            UsageError: the family does not say how it is made narrower.
        """
        family = get_family(self.family)
        if not hasattr(family, "narrower"):
            raise UsageError(f"{self.family} does not say how it is made narrower; take electra")
        model = construct(self.family, family.narrower(self.config, share), heads)
        initialise(model, seed)
        return model

    def new_cache(self, sequences: int, capacity: int = 128) -> Cache:
        """An empty key/value cache for this model."""
        return Cache(len(self.stack.order), sequences, capacity, self.max_length)

    def _check_length(self, batch: Batch, cache: Cache | None) -> None:
        longest = batch.layout.longest
        if cache is not None:
            longest = max((a + b for a, b in zip(batch.layout.lengths, cache.lengths, strict=False)), default=0)
        if self.max_length is not None and longest > self.max_length:
            raise DataError(
                f"a sequence of {longest} tokens is longer than the model's {self.max_length} positions; "
                "cut it, or build the model with more positions"
            )


def get_family(name: str) -> Family:
    """The file of a family.

    Raises:
        UsageError: no such family; the nearest name is given.
    """
    return cast(Family, find("models", name))


def weight_map_of(family: str) -> Sequence[Weight] | None:
    """The weight map of a family; None for a user's family that no other software knows."""
    return cast(Sequence[Weight] | None, getattr(get_family(family), "WEIGHT_MAP", None))


def prefix_of(family: str) -> str:
    """What the names of a family's body begin with in its files, where heads stand beside it."""
    return str(getattr(get_family(family), "PREFIX", ""))


def configure(family: Family, size: str, overrides: Mapping[str, Any]) -> Config:
    """The configuration of a named size with some fields replaced.

    Raises:
        UsageError: an unknown size or field, or a value out of range.
    """
    if size not in family.SIZES:
        raise UsageError(f"model.size: no size {size!r}; {suggest(size, list(family.SIZES))}")
    return configuration.validate(family.Config, {**family.SIZES[size], **overrides}, "model")


def construct(family: str, config: Config, heads: Sequence[str], labels: Sequence[str] | None = None) -> LanguageModel:
    """The model without memory for its parameters (device `meta`).

    Raises:
        UsageError: a head that the family does not have, or a classification head without labels.
    """
    module = get_family(family)
    known = sorted({role for roles in module.ARCHITECTURES.values() for role in roles})
    for role in heads:
        if role not in known:
            raise UsageError(f"{family} has no head {role!r}; {suggest(role, known)}")
    if "classification" in heads and not labels:
        raise UsageError("a classification head needs the names of its labels")
    with torch.device("meta"):
        model = module.build(config, heads, labels)
    if digest(family) is not None:  # a user's file, which may build on a family of ours
        model.metadata = Metadata(family=VariantRecord.of(family))
        model.family = absolute(family)
    return model
