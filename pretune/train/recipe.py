"""The recipe: the whole configuration of a run in one typed tree, which `pretrain` and `finetune` read.

Each section is declared beside the code that it configures. Reading a recipe does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from pretune.compress.distillation.config import DistilConfig
from pretune.config import Choice, Choices, Config, flatten, merge, read_toml, validate
from pretune.find import suggest
from pretune.optim import adamw
from pretune.optim.optimizer import OptimizerTable
from pretune.optim.schedule import ScheduleConfig
from pretune.runtime.parallel import ParallelConfig
from pretune.runtime.precision import Name as PrecisionName
from pretune.text.readers.labelled import LabelledConfig
from pretune.train.budget import BudgetConfig
from pretune.train.checkpoint.store import CheckpointConfig
from pretune.train.evaluation import EvaluationConfig
from pretune.train.feature_config import FeatureConfig
from pretune.train.holdout import HoldoutConfig
from pretune.train.logging.trackers import TrackConfig
from pretune.train.open_fields import FIELDS, default_rate, open_fields
from pretune.train.short_names import FOREIGN_NAMES, SHORT_NAMES, variant_configs
from pretune.train.spike import SpikeConfig
from pretune.train.task_tables import Paths, listed

RENAMED_FIELDS: dict[str, str] = {
    "objective.mlm.whole_words": "objective.mlm.units (= word)",
    "objective.mlm.share": "objective.mlm.rate",
    "objective.mlm.share_start": "objective.mlm.rate_start",
    "objective.mlm.share_steps": "objective.mlm.rate_steps",
    "objective.mlm.longest": "objective.mlm.max_span",
    "objective.plm.share": "objective.plm.rate",
    "objective.plm.longest": "objective.plm.max_span",
    "objective.rtd.share": "objective.rtd.rate",
    "objective.span.share": "objective.span.rate",
    "objective.prefix.least": "objective.prefix.min_fraction",
    "objective.prefix.most": "objective.prefix.max_fraction",
    "data.columns.text_column": "data.columns.text",
    "data.columns.label_column": "data.columns.label",
    "data.columns.second_column": "data.columns.second",
    "data.columns.third_column": "data.columns.third",
}
"""Old dotted names of fields of recipes, and the new ones: an old one is refused with its new name."""

_PRETRAINING: dict[str, Any] = {"budget": {"steps": 1000}}
_FINE_TUNING: dict[str, Any] = {
    "budget": {"epochs": 3.0, "min_steps": 200},
    "optimizer": {"lr": 1e-4},
    "evaluation": {"keep": "best", "samples": None},
}

_BOTH: dict[str, Any] = {"budget": {"steps": 1000}, "evaluation": {"keep": "best"}}


def _full() -> Choice:
    return {"full": {}}


Numbers = Annotated[tuple[float, ...], BeforeValidator(listed)]


class ModelConfig(Config):
    """The network: one of a family's sizes from random weights, or any readable model.

    Attributes:
        family: name of a file in `models/`; `bert` unless the recipe starts from a model.
        size: one of the family's sizes; `mini` unless the recipe starts from a model.
        init: folder of a model to start from, in the Hugging Face layout; or `tfidf`, for logistic regression on
            TF-IDF in place of a network.
        overrides: fields of the family's configuration, by their Hugging Face names.
        dropout: probability for every dropout layer, attention probabilities excepted; by default the model's.
        checkpointing: recompute activations in the backward pass: less memory, a third more time.
        attention: the attention backend to try first: a file of `nn/backends/`, or your own by its path.
    """

    family: str | None = None
    size: str | None = None
    init: str | None = None
    overrides: dict[str, bool | int | float | str] = Field(default_factory=dict)
    dropout: float | None = Field(None, ge=0, lt=1)
    checkpointing: bool = False
    attention: str | None = None

    @property
    def is_tfidf(self) -> bool:
        """Whether no network is trained, but logistic regression on TF-IDF."""
        return self.init == "tfidf"

    @model_validator(mode="after")
    def _one_origin(self) -> ModelConfig:
        if self.init is not None and (self.size or self.family):
            raise ValueError("init brings its own family and size; leave those out")
        return self


class DataConfig(HoldoutConfig):
    """What is read, and how much of it is a step.

    Attributes:
        stores: token stores (`pretune prepare`), for objectives.
        weights: fraction of the samples drawn from each store; by default in proportion to its size.
        temperature: without weights, stores, or the tasks of a run, are sampled in proportion to their number of
            samples to the power of 1 / temperature: 1 keeps the proportions, larger values draw small ones more often.
        schedule: weights that change during the run, each entry after so many samples: [[100000, 1, 3], ...].
        train: labelled files, for a task.
        validation: labelled files; without them some of the training rows are held out (`holdout`).
        columns: how labelled files are read.
        tokenizer: folder or file of a tokenizer; by default that of the store or of the model.
        length: maximal number of tokens of a sequence, special ones included.
        start_length: maximal number of tokens of a sequence at the beginning of a run with `length_warmup`.
        length_warmup: fraction of the run in which windows are cut into shorter sequences, of `start_length` tokens at
            first, doubled at equal intervals until `length` is reached; 0 for none. The tokens per step stay the
            same. Source: Li et al. 2022, arXiv 2108.06084, who drop what we cut off.
        pack: `stream` cuts windows across documents, `document` never crosses them; by default what the objective
            prefers.
        batch: sequences per step, over all ranks and micro-batches; 32 if neither this nor `batch_tokens` is given.
        batch_tokens: tokens per step, instead of `batch`.
        accumulate: number of micro-batches per step on each rank (gradient accumulation): less memory, the same result.
        window: number of samples within which batches are formed of similar lengths; 0 for none.
        verify: check every byte of the stores against their SHA-256 before the first step.
    """

    stores: Paths = ()
    weights: Numbers = ()
    temperature: float = Field(1.0, ge=0.1)
    schedule: tuple[tuple[float, ...], ...] = ()
    train: Paths = ()
    validation: Paths = ()
    columns: LabelledConfig = Field(default_factory=LabelledConfig)
    tokenizer: str | None = None
    length: int = Field(128, ge=4)
    start_length: int = Field(32, ge=4)
    length_warmup: float = Field(0.0, ge=0, lt=1)
    pack: Literal["stream", "document"] | None = None
    batch: int | None = Field(None, ge=1)
    batch_tokens: int | None = Field(None, ge=1)
    accumulate: int = Field(1, ge=1)
    window: int = Field(0, ge=0)
    verify: bool = True

    def length_at(self, fraction: float) -> int:
        """Tokens of a sequence at most, after a fraction of the run."""
        if fraction >= self.length_warmup or self.start_length >= self.length:
            return self.length
        doublings = math.ceil(math.log2(self.length / self.start_length))
        return self.start_length << int(fraction / self.length_warmup * doublings)

    @model_validator(mode="before")
    @classmethod
    def _some_batch(cls, tree: Any) -> Any:
        if isinstance(tree, Mapping) and tree.get("batch") is None and tree.get("batch_tokens") is None:
            return {**tree, "batch": 32}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.batch is not None and self.batch_tokens is not None:
            raise ValueError("give batch (sequences) or batch_tokens (tokens), not both")
        if self.batch is not None and self.batch < self.accumulate:
            raise ValueError(f"a batch of {self.batch} cannot be split into accumulate = {self.accumulate} parts")
        if self.weights and len(self.weights) != len(self.stores):
            raise ValueError(f"{len(self.stores)} stores but {len(self.weights)} weights")
        if self.weights and self.temperature != 1.0:
            raise ValueError("give weights or a temperature, not both")
        if self.validation and (self.holdout or self.folds is not None or self.group is not None):
            raise ValueError("validation names the rows of validation: leave holdout, folds and group out, or it")
        for phase in self.schedule:
            if len(phase) != 1 + len(self.stores):
                raise ValueError(f"a line of schedule has a number of samples and {len(self.stores)} weights: {phase}")
        return self


class Recipe(Config):
    """A training run.

    Attributes:
        output: the run directory.
        seed: seeds every random decision.
        seeds: number of runs with seeds from `seed` on, each in a folder of `output`, to see how far chance moves the
            scores.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: dtype of matmuls; weights stay in fp32.
        threads: number of CPU threads; a run keeps the number that it began with.
        resume: resume from the newest intact checkpoint of the run directory, if there is one.
        nonfinite: number of consecutive steps with a non-finite loss or gradient after which training stops.
        max_skipped: fraction of a run's steps that may be skipped, as not finite or as spikes; with more it fails.
        objective: objectives with their weights or settings: `{mlm = 1.0, nsp = 1.0}`.
        task: the task with its settings: `{classification = {}}`. Objectives beside it ride with it: each step trains
            the task or the objectives, drawn in proportion to their weights. Of several tasks each has a table, a name
            and a head: `[task.intent]`, with `task = "classification"` where the name is no task's, and its own `data`
            (train, validation, columns, holdout, group) where they are not those of the run. Each step trains one of
            them, drawn in proportion to its examples to the power of 1 / data.temperature, times its weight.
        tune: the tuning method with its settings.
        adapter_per_task: each of several tasks has an adapter of its own, trained as if alone: each step trains all
            tasks, with `data.batch` sequences of each, in one forward of the frozen base. The result is a folder for
            each task in `output`.
        distil: a teacher to learn from beside labels; none by default.
        automatic: fields that `finetune` chooses from the training data, for a model that it starts from: those that
            are not given, where no budget is given; `[]` chooses none.
        search: minutes in which short runs on a part of the training data look for better values of these.
    """

    SHORT_NAMES: ClassVar[Mapping[str, str]] = SHORT_NAMES
    FOREIGN_NAMES: ClassVar[Mapping[str, str]] = FOREIGN_NAMES

    output: str = "run"
    seed: int = Field(0, ge=0, lt=2**63)
    seeds: int | None = Field(None, ge=2)
    device: str = "auto"
    precision: PrecisionName = "auto"
    threads: int | None = Field(None, ge=1)
    resume: bool = True
    nonfinite: int = Field(5, ge=1)
    max_skipped: float = Field(0.1, ge=0, le=1)
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    objective: Choices = Field(default_factory=dict)
    task: Choices = Field(default_factory=dict)
    tune: Choices = Field(default_factory=_full)
    adapter_per_task: bool = False
    distil: DistilConfig = Field(default_factory=DistilConfig)
    automatic: tuple[str, ...] = ()
    search: float | None = Field(None, gt=0, allow_inf_nan=False)
    optimizer: OptimizerTable = Field(default_factory=adamw.Config)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    spike: SpikeConfig = Field(default_factory=SpikeConfig)
    budget: BudgetConfig
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    features: FeatureConfig = Field(default_factory=FeatureConfig)
    track: TrackConfig = Field(default_factory=TrackConfig)
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)

    @classmethod
    def variant_configs(cls, tree: Mapping[str, Any]) -> Mapping[str, type[BaseModel]]:
        """The configurations of the variants that a recipe chooses, by the table that they are in."""
        return variant_configs(tree)

    @field_validator("objective", mode="after")
    @classmethod
    def _weights_in_tables(cls, chosen: Choice) -> Choice:
        """Write `mlm = 1.0` as `mlm = {weight = 1.0}`: TOML has numbers before tables, and the order counts."""
        return {name: value if isinstance(value, Mapping) else {"weight": value} for name, value in chosen.items()}

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, tree: Any) -> Any:
        """Lay the user's values over those that suit pretraining or fine-tuning."""
        if not isinstance(tree, Mapping):
            return tree
        _refuse_renamed(tree)
        base = _FINE_TUNING if tree.get("task") else _PRETRAINING
        if tree.get("task") and tree.get("objective"):
            base = {**base, **_BOTH}
        if tree.get("task") and (rate := default_rate(tree)) is not None:
            base = {**base, "optimizer": {"lr": rate}}
        if (is_open := open_fields(tree)) and "automatic" not in tree:
            base = {**base, "automatic": is_open}
        if tree.get("budget") is not None:
            base = {name: value for name, value in base.items() if name != "budget"}
        return merge(dict(base), tree)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if len(self.tune) != 1:
            named = " and ".join(self.tune) or "no method"
            raise ValueError(f"tune names {named}; a run has one tuning method: give one, such as --tune lora")
        if self.data.stores and self.task and not self.objective:
            raise ValueError("a task reads labelled files (data.train), not token stores (data.stores)")
        if self.data.train and self.objective and not self.task:
            raise ValueError("an objective reads token stores (data.stores), not labelled files (data.train)")
        if self.task and self.objective and self.budget.epochs is not None:
            raise ValueError("a task beside an objective has two kinds of epochs: give budget.steps or budget.tokens")
        if not self.task and (self.data.folds is not None or self.data.group is not None or self.data.holdout):
            raise ValueError("data.holdout, data.group and data.folds part labelled files, which a task reads")
        if self.task and self.data.length_warmup:
            raise ValueError("a task reads whole texts: data.length_warmup is for objectives")
        if unknown := [field for field in self.automatic if field not in FIELDS]:
            raise ValueError(f"automatic: {unknown[0]!r} is not chosen from the data; {suggest(unknown[0], [*FIELDS])}")
        if self.search is not None and not self.task:
            raise ValueError("search: it looks for settings of a task; leave it out")
        if self.search is not None and self.data.folds is not None:
            raise ValueError(
                "search: it would choose by the rows that score each fold; search without data.folds, then give its "
                "recipe.toml the folds"
            )
        if self.evaluation.keep != "last" and not self.checkpoint.best:
            raise ValueError(f"evaluation.keep = {self.evaluation.keep} needs checkpoint.best")
        if self.evaluation.patience and self.evaluation.samples == 0:
            raise ValueError("evaluation.patience needs evaluation.samples")
        return self


def _refuse_renamed(tree: Mapping[str, Any]) -> None:
    """Refuse fields that have another name now.

    Raises:
        ValueError: each such field with its value and its new name.
    """
    problems = [
        f"field {name!r} = {value!r} has a new name: use {RENAMED_FIELDS[old] + name.removeprefix(old)}"
        for name, value in flatten(tree).items()
        for old in RENAMED_FIELDS
        if name == old or name.startswith(f"{old}.")
    ]
    if problems:
        raise ValueError("; ".join(problems))


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as flat plain values, fields that are None left out.

    The variants of an axis stand in it by their names too, in their order: one without settings has no values.
    """
    chosen = {axis: list(getattr(recipe, axis)) for axis in ("objective", "task", "tune")}
    return flatten(recipe.model_dump(mode="json", exclude_none=True)) | chosen


def own_names(recipe: Recipe) -> set[str]:
    """Every name in a recipe that may be one of a user's own files."""
    values = plain(recipe).values()
    return {each for value in values for each in (value if isinstance(value, list) else [value]) if type(each) is str}


def read_recorded(path: Path) -> Recipe:
    """The recipe that a run recorded, whatever the fields of its columns were called when it was begun.

    Raises:
        UsageError: it is no recipe.
    """
    tree = read_toml(path)
    data = tree.get("data")
    if isinstance(data, dict) and isinstance(columns := data.get("columns"), dict):
        dotted = {f"data.columns.{name}": value for name, value in columns.items()}
        data["columns"] = {RENAMED_FIELDS.get(name, name).rpartition(".")[2]: value for name, value in dotted.items()}
    return validate(Recipe, tree, str(path))
