"""The base of objectives and tasks: rows in, a batch with targets out, and a loss as sums and counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from pretune import config as configuration
from pretune.batch import Batch, Layout, OutputRows, in_group, ragged
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.loss import Term
from pretune.nn.heads import TokenPrediction
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.nn.vectors import PoolingMode
from pretune.text.samples.rows import Row, Text, flags_of, join_flags, names_of, run_of

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary

Token = TypeVar("Token", int, tuple[int, ...])
MASK_REMEDY = "train one of kind wordpiece, or bpe with --special_tokens roberta, or use the objective clm"
Ability = Literal["fill", "generate", "classify", "write", "chat"]
"""What a model can do that has learned something, as a user would try it."""

ModelLoader = Callable[[str], TrainableModel]
"""Reads the folder of a model that is used and never trained."""


def refuse_to_load(path: str) -> TrainableModel:
    """The loader of a use that has no companions.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"{path}: this use loads no further models; only training does")


class Objective(nn.Module):
    """Base of the objectives.

    Before the first step, `heads(model)` is called while the model is put together, then `setup(model, draw, load)`
    once. A training step calls, on the host, `build_batch(rows, draw)`, which is `corrupt(prepare(rows, draw), draw)`,
    and `counts(batch)`, then `forward(model, batch)`. Randomness comes from `draw` and each row's sample alone, so a
    batch's content does not depend on how samples are grouped.

    Attributes:
        name: of its term, its target and its metric; the file's name.
        role: name of its head on the model, where it has one; a variant that inherits it shares the head of its base.
        default_family: the family that it was published with.
        view: what text/ must deliver: "stream", "pairs", "examples".
        pack: how documents are cut where the recipe does not say: "stream" or "document".
        compatible_views: other views on which it can ride in a mixture, by corrupting what another objective prepared.
        predicts: how it predicts the tokens of running text, where it does: a model that knows no context then has a
            loss of the entropy of their frequencies.
        overhead: special tokens that `prepare` adds to a sample at most.
        lookahead: tokens past a window's end that it reads as targets.
        words: it wants to know where words begin (`Row.word_flags`, `Batch.continues_word`).
        transient: names of its own parts that serve training alone: their parameters are not saved with the model.
        dropout: without dropout in the model there is nothing to learn.
        is_sparse: it trains vectors of the vocabulary's size, most of whose numbers are 0.
        has_own_samples: no other objective reads its samples, so that of a mixture it is a part for itself.
        repeats_in_step: a step may take a sample of one epoch and the same one of the next, as where it is corrupted
            anew each time; else a step ends with the epoch.
        shares_head: its head is one that the model has anyway, so that several tasks may train the same.
        adapter: number of the adapter that reads its sequences, of a model that has several; None of any other.
        trains_all: each step trains all of `alternatives`, whose batches have a forward in common; else one of them.
    """

    name: ClassVar[str] = ""
    role: ClassVar[str] = ""
    default_family: ClassVar[str] = ""
    view: ClassVar[str]
    pack: ClassVar[str] = "stream"
    compatible_views: ClassVar[tuple[str, ...]] = ()
    transient: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[TokenPrediction | None] = None
    dropout: ClassVar[bool] = False
    is_sparse: ClassVar[bool] = False
    has_own_samples: ClassVar[bool] = False
    repeats_in_step: ClassVar[bool] = True
    shares_head: ClassVar[bool] = False
    adapter: ClassVar[int | None] = None
    trains_all: ClassVar[bool] = False
    overhead: int = 0
    lookahead: int = 0
    words: bool = False

    class Config(configuration.Config):
        """What all objectives share.

        Attributes:
            weight: weight of this objective's mean loss in the total loss.
            weight_start: weight at the first step, in a mixture; by default `weight` throughout.
            weight_steps: number of steps after which `weight` is reached, linearly.
        """

        weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
        weight_start: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
        weight_steps: int = Field(default=0, ge=0)

        @model_validator(mode="after")
        def _weights_together(self) -> Objective.Config:
            if (self.weight_start is None) != (not self.weight_steps):
                raise ValueError("weight_start and weight_steps belong together: give both or none")
            return self

        def weight_at(self, step: int | None) -> float:
            """The factor at a step; of evaluation where there is none."""
            return ramp(self.weight_start, self.weight, self.weight_steps, step)

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The heads that it needs on the model, by role; by default none.

        They are made of the bricks of `nn/heads.py`, or by the model where its family has a habit of its own. Whoever
        assembles a model hangs them on it and sets their weights: each is a function of the seed and its own name.

        Raises:
            UsageError: the model is of a sort that it cannot train.
        """
        return {}

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Learn what it must know of the model that it will train; by default nothing.

        Args:
            load: reads a frozen companion from its folder, such as a teacher: a model in evaluation mode, without
                gradients, that is no part of checkpoints or of the finished model. Keep it as an attribute.
        """

    @property
    def pooling(self) -> PoolingMode | None:
        """What makes a text's vector of its rows, where it trains vectors."""
        return None

    @property
    def token_terms(self) -> tuple[str, ...]:
        """Terms whose loss is that of predicted tokens of running text."""
        return () if self.predicts is None else (self.name,)

    @property
    def abilities(self) -> dict[str, Ability]:
        """What a model can do that it has trained, by the name of the objective or task that taught it."""
        taught: dict[TokenPrediction, Ability] = {"masked": "fill", "next": "generate"}
        return {self.name: taught[self.predicts]} if self.predicts in taught else {}

    def auxiliary_models(self) -> dict[str, TrainableModel]:
        """Models of its own that are trained along, by the names of their folders in the run directory."""
        return {}

    @property
    def alternatives(self) -> tuple[Objective, ...]:
        """The objectives of which a step trains one; each has its own view and sampler. See `Mixture`."""
        return (self,)

    def choose(self, draw: Draw, step: int) -> int:
        """Which of `alternatives` a step trains."""
        return 0

    @abstractmethod
    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Lay rows out as a batch. Shape: N rows -> N sequences."""

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Change tokens and say what is to be predicted; by default nothing."""
        return batch

    def output_rows(self, batch: Batch) -> NDArray[np.int64] | None:
        """Rows of the last hidden run that `loss` looks at, in any order; None, the default, for all of them."""
        return None

    def build_batch(self, rows: Sequence[Row], draw: Draw, step: int | None = None) -> Batch:
        """What a forward takes: prepared, corrupted, and with the rows named that the last layer must give.

        Args:
            step: for which it is made, where what is hidden changes over a run; None for evaluation.
        """
        batch = self.corrupt(replace(self.prepare(rows, draw), step=step), draw)
        batch = batch if self.adapter is None else in_group(batch, self.adapter)
        read = self.output_rows(batch)
        return batch if read is None else replace(batch, output_rows=OutputRows.of(read, batch.layout))

    def step_data_stats(self, parts: Sequence[Sequence[Row]]) -> dict[str, int]:
        """Counts of what a step leaves out that only all its micro-batches together show; by default nothing.

        Args:
            parts: the rows of each micro-batch of every rank.
        """
        return {}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Number of predictions of each term, known before any forward."""
        return {self.name: len(batch.targets[self.name][1]) if self.name in batch.targets else 0}

    def passes(self, model: TrainableModel, batch: Batch) -> list[tuple[TrainableModel, Batch]]:
        """The forwards that `forward` runs, with targets named by the heads that see them: for counting operations."""
        return [(model, batch)]

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> Tensor | None:
        """What all micro-batches of a step must know of this one; called without gradients, before the first of them.

        Args:
            parts: micro-batches of the step, over all ranks.

        Shape:
            return: (any, ...), or None, the default, for nothing; the same on all micro-batches of a step.
        """
        return None

    def model_for(self, model: TrainableModel, batch: Batch) -> TrainableModel:
        """The model as whoever a batch is for sees it; by default the model itself."""
        return model

    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """Parameters whose gradients are clipped by a norm of their own; by default none: all are clipped by one."""
        return ()

    def after_step(self, model: TrainableModel, shared: Tensor | None) -> None:
        """Called when the optimizer has changed the weights; by default nothing.

        Args:
            shared: what `exchange` gave, of all micro-batches of the step.
        """

    @abstractmethod
    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """The terms of a batch whose forward gave `output`."""

    def forward(self, model: TrainableModel, batch: Batch) -> list[Term]:
        """One pass of the model and its terms."""
        return self.loss(model, model(batch), batch)

    def soft_scores(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor | None:
        """The scores of choices that exclude each other, where a head does not say by itself which do.

        A teacher's are compared with them. None, the default, where each row of what a head gives is such a choice.

        Shape:
            return: (n, choices), or (n, choices, decisions); -inf where there is no choice
        """
        return None

    def soft_count(self, batch: Batch) -> int:
        """How many rows of `soft_scores` are of the batch's own sequences; by default one a sequence."""
        return batch.layout.count - batch.dummies

    def zero_terms(self, model: TrainableModel, output: ModelOutput) -> list[Term]:
        """The term of a batch that is not this objective's: 0 of 0, with gradients of zero for the heads.

        Every rank and step then gives every parameter a gradient, as DDP wants.
        """
        touched: Tensor = output.last_hidden_state[:0].float().sum()
        for head in model.heads.values():
            for parameter in head.parameters():
                touched = touched + parameter.flatten()[:0].float().sum()
        for parameter in self.parameters():
            touched = touched + parameter.flatten()[:0].float().sum()
        return [Term(self.name, touched, 0, self.config.weight)]


def ramp(start: float | None, end: float, steps: int, step: int | None) -> float:
    """What goes from `start` to `end` in equal steps, at one of them; `end` where there is no start or no step."""
    if start is None or step is None or step >= steps:
        return end
    return start + (end - start) * step / steps


def require_token(token: Token | None, objective: str, name: str, remedy: str) -> Token:
    """A special token that an objective cannot do without.

    Raises:
        DataError: the tokenizer has none.
    """
    if token is None or token == ():
        raise DataError(f"objective {objective!r} needs a tokenizer with {name}, and this one has none; {remedy}")
    return token


def wrap(rows: Sequence[Row], vocabulary: Vocabulary) -> Batch:
    """One sequence a row: its tokens between the special tokens of the vocabulary."""
    run, sizes = run_of(rows)
    tokens, lengths = vocabulary.add_special_tokens_to_runs(run, sizes)
    segments = torch.from_numpy(vocabulary.segments_of_runs(lengths))
    flags = flags_of(rows, run, vocabulary.continuation)
    return Batch(
        torch.from_numpy(tokens),
        Layout.of(lengths),
        segments,
        samples=names_of(rows),
        continues_word=None if flags is None else vocabulary.spread_flags(flags, sizes),
    )


def wrap_texts(texts: Sequence[tuple[Text, ...]], vocabulary: Vocabulary) -> Batch:
    """One sequence a sample: a text or a pair of texts, with the special tokens of the vocabulary."""
    wrapped = [vocabulary.add_special_tokens(*(text.tokens for text in sample)) for sample in texts]
    batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
    flags = join_flags([text for sample in texts for text in sample], vocabulary.continuation)
    if flags is None:
        return batch
    continues_word = np.concatenate([vocabulary.text_mask(*map(len, sample)) for sample in texts])
    continues_word[continues_word] = flags
    return replace(batch, continues_word=continues_word)


def name_samples(batch: Batch, rows: Sequence[Row], data_stats: dict[str, int] | None = None) -> Batch:
    """The batch with the names of its samples, and what was lost while it was built."""
    return replace(batch, samples=names_of(rows), data_stats=data_stats or {})


def ends(layout: Layout) -> NDArray[np.int64]:
    """First and last row of each sequence that is not empty: what a head reads that decides for a sequence.

    Shape:
        return: (any,) not ascending.
    """
    bounds, lengths = np.array(layout.bounds), np.array(layout.lengths)
    return np.concatenate([bounds[:-1][lengths > 0], bounds[1:][lengths > 0] - 1])


def target(index: NDArray[np.generic], label: NDArray[np.generic]) -> tuple[Tensor, Tensor]:
    """A target of a batch. Shape: (K,), (K,) -> the same as int64 tensors."""
    return torch.from_numpy(index.astype(np.int64)), torch.from_numpy(label.astype(np.int64))
