"""The language model that all families build, and how a family's file is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from pretune import config as configuration
from pretune.batch import Batch
from pretune.errors import UsageError
from pretune.field_table import CarriedFiles
from pretune.find import find
from pretune.models.generation_fields import GenerationFields
from pretune.models.init import initialise
from pretune.models.metadata import Loaded, Metadata, VariantRecord, absolute, digest
from pretune.models.positions import Positions
from pretune.models.standard_heads import standard_heads
from pretune.models.text_vectors import TextVectors
from pretune.models.weight_map import Weight
from pretune.nn.activation import Activation
from pretune.nn.attention import Attention
from pretune.nn.cache import Cache
from pretune.nn.embedding import Embedding
from pretune.nn.head_parts import HeadParts
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
from pretune.nn.model_protocol import GenerationConstraints, ModelOutput, TrainableModel
from pretune.nn.stack import Stack
from pretune.nn.vector_head import VectorHead
from pretune.nn.vectors import PoolingMode


class Config(configuration.Config):
    """Base of the families' configurations, whose fields have the Hugging Face names.

    Attributes:
        OLDER_FIELDS: what older files say instead, which a validator of the family says in today's fields.
    """

    OLDER_FIELDS: ClassVar[frozenset[str]] = frozenset()
    tie_word_embeddings: bool = True


class Family(Protocol):
    """What a file of `models/`, or a user's own, offers.

    A family that no other software knows leaves `PREFIX`, `WEIGHT_MAP` and `ARCHITECTURES` out: its weights are saved
    under our own names. Optional are `MODEL_TYPE`, what `config.json` calls the family where that is not the name of
    its file; `HEAD_NAMES`, names of last layers that are not those of `head_table`; `PREFIXES` of single classes;
    `FILE_FIELDS`, what becomes of fields of `config.json` that its `Config` does not have; and `with_pad(config, pad)`,
    the configuration of the same positions where these begin behind the pad token.
    """

    Config: type[Config]
    SIZES: Mapping[str, Mapping[str, Any]]
    PREFIX: str
    ATTENTION_DROPOUT: str
    WEIGHT_MAP: Sequence[Weight]
    ARCHITECTURES: Mapping[str, tuple[str, ...]]

    def build(self, config: configuration.Config) -> LanguageModel:
        """The modules without heads, on torch's current default device, with weights not yet set."""


MakeHeads = Callable[["LanguageModel"], Mapping[str, nn.Module]]
"""Makes the heads that somebody needs of a model, by role, such as the method `heads` of an objective or a task."""


class LanguageModel(nn.Module):
    """The embedding, the stack and the heads of one family; a `TrainableModel`.

    Args:
        family: name of its file in `models/`.
        config: sizes and rates, by their Hugging Face names.
        parts: what its heads are made of.
        std: of initial weights.
        place_stds: of those that differ, by the end of their path, such as `attention.output`.
        positions: tokens of the longest sequence, where no table of positions says it; None for no limit.

    Attributes:
        heads: by role, such as `mlm` or `classification`; empty until `add_heads`.
        extras: fields of a foreign `config.json` that pretune does not use and hands on.
        carried: files of a foreign folder that are handed on, such as `chat_template.jinja`.
        generation: what the files say of how it writes; None for a model built anew.
        loaded: what reading the files found, or None for a model built anew.
        metadata: what the files say of the model beyond its configuration: objectives, task, heads.
        extra_weights: what an objective or a task has learned beside the model, by its name (`objective.<name>.…`).
        constraints: what the files demand of the texts that it writes.
        vectors: how texts become vectors, where the files or the training say it.
        default_pooling: how they do where nothing says it.
        products: what a form for use (`models.fuse`), whose weights do not change, multiplies by; None in other models.
    """

    def __init__(
        self,
        family: str,
        config: Config,
        embedding: Embedding,
        stack: Stack,
        parts: HeadParts,
        *,
        std: float = 0.02,
        place_stds: Mapping[str, float] | None = None,
        positions: int | None = None,
    ) -> None:
        super().__init__()
        self.family = family
        self.config = config
        self.embedding = embedding
        self.stack = stack
        self.heads = nn.ModuleDict()
        self.parts = parts
        self.std = std
        self.place_stds = dict(place_stds or {})
        self.positions = positions if embedding.position is None else embedding.position.max_length
        self.extras: dict[str, Any] = {}
        self.carried = CarriedFiles()
        self.generation: GenerationFields | None = None
        self.loaded: Loaded | None = None
        self.vectors: TextVectors | None = None
        self.default_pooling: PoolingMode = "mean"
        self.constraints = GenerationConstraints()
        self.metadata = Metadata()
        self.extra_weights: dict[str, Tensor] = {}
        self.products: tuple[Callable[[Tensor], Tensor], ...] | None = None
        self.kept: frozenset[str] = frozenset()  # frozen weights that are in no file, so that deltas hold them

    def forward(self, batch: Batch, *, cache: Cache | None = None, layers: bool = False) -> ModelOutput:
        """Gives the last hidden states of a batch; heads are called on them by whoever needs them.

        The last layer gives only the `output_rows` of the batch, where its attention can leave queries out.

        Args:
            cache: earlier tokens of the same sequences; `batch.layout` then comes from `cache.layout`.
            layers: also return every layer's run.

        Raises:
            DataError: a sequence is longer than the model's positions.
        """
        longer = self.embedding.prompt.place(batch.layout, None if cache is None else cache.lengths)
        if not torch.compiler.is_compiling():
            self.places.check(longer.layout, cache)
        kept: list[Tensor] | None = [] if layers else None
        hidden = self.embedding(batch.tokens, batch.layout, batch.segments, longer)
        some = batch.output_rows is not None and cache is None and not layers and self.supports_output_rows
        rows = batch.output_rows if some else None
        hidden = self.stack(hidden, longer.layout, cache, kept, longer.rows(rows))
        if rows is None:
            kept = None if kept is None else [longer.cut(run) for run in kept]
            return ModelOutput(longer.cut(hidden), batch.layout, None, kept, cache)
        return ModelOutput(hidden, rows.layout, rows.index)

    @property
    def supports_output_rows(self) -> bool:
        """Whether the last layer gives only the rows that a batch reads."""
        return self.stack.supports_output_rows and not any(
            getattr(head, "needs_all_rows", False) for head in self.heads.values()
        )

    def std_of(self, path: str) -> float:
        """The standard deviation of the initial weights of the module at a path."""
        own = (std for place, std in self.place_stds.items() if f".{path}".endswith(f".{place}"))
        return next(own, self.std)

    @property
    def vocab_size(self) -> int:
        """Number of rows of the word embedding."""
        return self.embedding.word.size

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.embedding.width

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest sequence: the positions that no prefix takes; None where there is no limit."""
        return self.places.of_text

    @property
    def places(self) -> Positions:
        """The positions, and what of them a tuning method's prefix or prompt takes."""
        return Positions(self.positions, self.embedding.behind.length, self.embedding.prompt.length)

    def context(self, settings: Mapping[str, Any]) -> int:
        """Tokens that a sequence may have: the positions, or fewer where training saw only shorter texts.

        Args:
            settings: of the tokenizer, whose `model_max_length` says what training saw.
        """
        limits = (self.max_length, settings.get("model_max_length"), 1 << 20)
        return min(int(limit) for limit in limits if isinstance(limit, int | float) and limit > 0)

    @property
    def segments(self) -> int:
        """Number of segments that it tells apart; 0 for none."""
        return 0 if self.embedding.segment is None else self.embedding.segment.num_embeddings

    @property
    def labels(self) -> list[str]:
        """Names of the classes of the classification head, or of one on vectors of texts.

        Raises:
            UsageError: the model has no such head.
        """
        if "classification" not in self.heads:
            if (on_vectors := next((h for h in self.heads.values() if isinstance(h, VectorHead)), None)) is not None:
                return on_vectors.labels
            heads = f" (its heads: {', '.join(self.heads)})" if self.heads else ""
            writes = any(isinstance(head, VocabularyHead) for head in self.heads.values())
            asked = ", or ask it as it is for labels (--labels good,bad)" if writes else ""
            raise UsageError(
                f"this {self.family} has no classification head{heads}; fine-tune it (pretune finetune){asked}"
            )
        return cast(list[str], self.heads["classification"].labels)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def is_causal(self) -> bool:
        """Whether each row sees only itself and the rows before it."""
        attentions = [block.attention for block in self.stack.blocks]
        return all(isinstance(attention, Attention) and attention.structure.is_causal for attention in attentions)

    @property
    def has_encoder(self) -> bool:
        """Whether a batch has a source, which an encoder reads."""
        return False

    @property
    def decoder_start(self) -> int | None:
        """The token with which the decoder of an encoder-decoder begins; None for other models."""
        return None

    @property
    def supports_permutation(self) -> bool:
        """Whether it reads a batch with an `order`."""
        return False

    @property
    def pool_position(self) -> PoolPosition:
        """The row that stands for a sequence."""
        return self.parts.pool_position

    @property
    def head_activation(self) -> Activation:
        """The activation that the family uses in its heads."""
        return self.parts.activation

    def vocabulary_head(self, predicts: TokenPrediction | None = None) -> VocabularyHead:
        """A new head over the vocabulary, tied to the embedding where the configuration says so.

        Args:
            predicts: which token a row predicts; by default what the model sees decides.
        """
        usual: TokenPrediction = "permuted" if self.supports_permutation else "next" if self.is_causal else "masked"
        return self.parts.vocabulary_head(self.embedding, predicts or usual)

    def sequence_head(
        self,
        labels: Sequence[str],
        problem_type: ProblemType = "single_label_classification",
        *,
        dropout: float | None = None,
    ) -> SequenceHead:
        """A new head that scores the classes of whole sequences, with the family's pooler.

        Args:
            labels: names of the classes, in the order of the logits.
            dropout: rate before the classes, where it is not the family's.
        """
        return self.parts.sequence_head(labels, problem_type, dropout)

    def token_head(self, labels: Sequence[str]) -> TokenClassificationHead:
        """A new head that scores the classes of every token."""
        return self.parts.token_head(labels)

    def span_head(self) -> SpanHead:
        """A new head that scores every token as the first and the last one of a span."""
        return self.parts.span_head()

    def choice_head(self) -> ChoiceHead:
        """A new head that scores each sequence as one of several choices."""
        return self.parts.choice_head()

    def add_heads(self, heads: Mapping[str, nn.Module], seed: int | None = None) -> None:
        """Adds heads to the model, by role.

        Args:
            seed: of the initial values of their new parameters; None leaves these to `initialise` or to files.

        Raises:
            UsageError: the model has a head of that role already.
        """
        before = {name for name, _ in self.named_parameters()}
        for role, head in heads.items():
            if role in self.heads:
                raise UsageError(f"this {self.family} has a head {role!r} already")
            self.heads[role] = head
        if seed is not None:
            initialise(self, seed, only=lambda name: name not in before)

    def own_pooler(self) -> nn.Module:
        """A new pooler as the family's model has one without any head.

        Raises:
            UsageError: the family has none.
        """
        if self.parts.model_pooler is None:
            raise UsageError(f"{self.family} has no pooler of its own")
        return self.parts.model_pooler()

    def narrower(
        self, ratio: float, heads: Callable[[TrainableModel], Mapping[str, nn.Module]], seed: int
    ) -> LanguageModel:
        """A model of the same family whose layers have a fraction of this one's width, with initial weights.

        Raises:
            UsageError: the family does not say how it is made narrower.
        """
        family = get_family(self.family)
        if not hasattr(family, "narrower"):
            raise UsageError(f"{self.family} does not say how it is made narrower; use --family electra")
        model = construct(self.family, family.narrower(self.config, ratio), heads)
        initialise(model, seed)
        return model

    def share_embedding(self, other: TrainableModel) -> None:
        """Use the embedding tables of another model of the same family instead of its own; projections stay its own."""
        if not isinstance(other, LanguageModel):
            raise TypeError(f"the embedding of a {type(other).__name__} cannot serve a {self.family}")
        shared, own = other.embedding, self.embedding
        own.word, own.position, own.segment, own.norm = shared.word, shared.position, shared.segment, shared.norm
        for head in self.heads.values():
            if isinstance(head, VocabularyHead):
                head.tie(shared.word)

    def new_cache(self, sequences: int, capacity: int = 128) -> Cache:
        """An empty key/value cache for this model."""
        places = self.places
        return Cache(len(self.stack.order), sequences, capacity + places.prompt, places.of_cache)


def get_family(name: str) -> Family:
    """Gives the file of a family.

    Raises:
        UsageError: no such family; the message suggests the nearest name.
    """
    return cast(Family, find("models", name))


def construct(
    family: str,
    config: Config,
    heads: Sequence[str] | MakeHeads = (),
    labels: Sequence[str] | None = None,
    problem_type: ProblemType = "single_label_classification",
) -> LanguageModel:
    """The model with its heads, without memory for the parameters of its body (device `meta`).

    Args:
        heads: roles of standard heads, or what makes them.
        labels: names of the classes of standard heads.
        problem_type: of the standard head `classification`.

    Raises:
        UsageError: a standard head that the family does not have, or one that decides among labels without them.
    """
    with torch.device("meta"):
        model = get_family(family).build(config)
    if digest(family) is not None:  # a user's file, which may build on a family of ours
        model.metadata = Metadata(family=VariantRecord.of(family))
        model.family = absolute(family)
    if callable(heads):  # with memory: their buffers keep their values
        model.add_heads(heads(model))
    else:
        with torch.device("meta"):
            model.add_heads(standard_heads(heads, labels, problem_type)(model))
    return model
