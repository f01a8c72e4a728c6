"""From a recipe to the pieces of a run: stores, tokenizer, model, objective or task, samplers, validation.

Everything that can be wrong with the inputs is found here, before a run directory is written to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.config import validate
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.find import find_class
from pretune.models.model import LanguageModel
from pretune.objectives.mixture import build as build_objective
from pretune.objectives.mixture import members
from pretune.objectives.objective import Objective
from pretune.objectives.source_target import SourceTarget
from pretune.runtime.distributed import Distributed
from pretune.tasks.task import Example, Task, data_stats, read_examples
from pretune.text.readers.labelled import Data
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded
from pretune.text.samples.sampler import Sampler
from pretune.text.samples.views.pairs import TooFewDocumentsError
from pretune.text.samples.views.view import View, build_view
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.metadata import training_metadata
from pretune.train.network import FrozenModels, apply_model_settings, build_network, loading_notes
from pretune.train.recipe import Recipe
from pretune.train.validation import Scoring, Validation, prepare_validation

_ENTROPY_TOKENS = 1 << 24  # tokens from which the unigram entropy is taken


@dataclass
class TrainComponents:
    """What a run is made of.

    Attributes:
        views: for each part of the objective, the training view of each store.
        held_out: the same of the validation data; empty where there is none.
        examples: those of the validation data, for a task.
        data: fingerprints by field of the recipe: what must not change while the run lasts.
        account: tokens and examples in, used, cut.
        notes: what the user should know before it begins.
        facts: for the record.
        tokens: that batches may hold, in any order; None where that is not known.
    """

    model: LanguageModel
    objective: Objective
    tokenizer: Tokenizer
    views: list[list[View]]
    weights: list[list[float]]
    held_out: list[list[View]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tokens: NDArray[np.int64] | None = None

    def samplers(self, recipe: Recipe) -> list[Sampler]:
        """One for each part of the objective."""
        data, draw = recipe.data, Draw(recipe.seed)
        schedule = [(int(start), weights) for start, *weights in data.schedule]
        return [
            Sampler(views, weights, draw, data.batch, data.batch_tokens, data.window, part.overhead, schedule)
            for part, views, weights in zip(self.objective.alternatives, self.views, self.weights, strict=True)
        ]

    def validation(self, recipe: Recipe, world: Distributed) -> Validation | None:
        """What evaluation looks at; None where there is nothing or the recipe wants none."""
        config = recipe.evaluation
        if config.samples == 0 or not self.held_out:
            return None
        draw = Draw(recipe.seed).at("validation")
        data = prepare_validation(self.objective, self.held_out, draw, config.batch_tokens, config.samples, world)
        metric, scoring = config.metric or "loss", None
        if isinstance(self.objective, Task):
            metric = config.metric or self.objective.main_metric
            scoring = Scoring(self.objective, self.examples, data.rows)
        return Validation(data, self.tokenizer, metric, scoring, config.metric is not None)


def pretraining(recipe: Recipe, verify: bool = True) -> TrainComponents:
    """The pieces of a run on token stores.

    Args:
        verify: compare every byte of the stores with their manifests, if the recipe says so too.

    Raises:
        UsageError: fields that do not fit together.
        MissingInputError: a store or model that is not there.
        DataError: a store, tokenizer and model that do not fit together, or are damaged.
    """
    if not recipe.objective:
        raise UsageError("recipe: field 'objective' is missing; name one, such as --objective mlm")
    if not recipe.data.stores:
        raise UsageError("recipe: field 'data.stores' is missing; make a store with `pretune prepare` and name it")
    stores = [TokenStore.open(path) for path in recipe.data.stores]
    if verify and recipe.data.verify:
        for store in stores:
            store.verify()
    tokenizer = Tokenizer.load(recipe.data.tokenizer or stores[0].tokenizer_path)
    for store in stores:
        store.check_tokenizer(tokenizer.hash)
    objective = build_objective(recipe.objective, tokenizer.vocabulary)
    _check_length_warmup(recipe, objective)
    model = build_network(recipe, objective.heads, tokenizer)
    frozen = FrozenModels(tokenizer)
    objective.setup(model, Draw(recipe.seed), frozen.load)
    for companion in objective.auxiliary_models().values():
        assert isinstance(companion, LanguageModel)  # the type of `model.narrower`
        apply_model_settings(companion, recipe.model)
    model.metadata = training_metadata(model.metadata, recipe, members(objective))
    views = [[_view(recipe, store, "train", part) for store in stores] for part in objective.alternatives]
    held, notes = _held_out(recipe, stores, objective) if recipe.evaluation.samples != 0 else ([], [])
    return TrainComponents(
        model,
        objective,
        tokenizer,
        views,
        [list(recipe.data.weights) or [len(v) ** (1 / recipe.data.temperature) for v in found] for found in views],
        held,
        data={f"data.stores[{n}]": store.fingerprint for n, store in enumerate(stores)} | frozen.fingerprints,
        account={
            "stores": {str(store.path): store.manifest.account for store in stores},
            "domains": {str(store.path): store.manifest.domains for store in stores},
            "windows": {
                f"{part.view}:{store.path}": view.account()
                for part, found in zip(objective.alternatives, views, strict=True)
                for store, view in zip(stores, found, strict=True)
            },
        },
        notes=[*loading_notes(model), *notes],
        facts={"unigram_entropy": unigram_entropy(stores)},
    )


def fine_tuning(recipe: Recipe, train_data: Data | None = None, validation_data: Data | None = None) -> TrainComponents:
    """The pieces of a run on labelled data.

    Args:
        train_data: in memory, instead of `data.train`.
        validation_data: in memory, instead of `data.validation`.

    Raises:
        UsageError: fields that do not fit together.
        MissingInputError: a file or model that is not there.
        DataError: a bad record or label, or a tokenizer that does not fit the model.
    """
    if not recipe.task:
        raise UsageError("recipe: field 'task' is missing; name one, such as --task classification")
    if train_data is None and not recipe.data.train:
        raise UsageError("recipe: field 'data.train' is missing; name a CSV, TSV, JSONL or Parquet file")
    tokenizer = Tokenizer.load(_tokenizer_path(recipe))
    task_class, config = _task(recipe)
    reader = task_class(config, tokenizer.vocabulary)
    train = read_examples(reader, recipe.data.train if train_data is None else train_data, task_class.needs_labels)
    held_data = recipe.data.validation if validation_data is None else validation_data
    has_held = validation_data is not None or bool(recipe.data.validation)
    held = read_examples(reader, held_data) if has_held else []
    task = task_class(task_class.resolve_config(config, train), tokenizer.vocabulary)
    model = build_network(recipe, task.heads, tokenizer)
    frozen = FrozenModels(tokenizer)
    task.setup(model, Draw(recipe.seed), frozen.load)
    model.metadata = training_metadata(model.metadata, recipe, [task])
    rows = task.encode(train, tokenizer, recipe.data.length)
    held_rows = task.encode(held, tokenizer, recipe.data.length) if held else []
    stats = {"train": data_stats(rows)} | ({"validation": data_stats(held_rows)} if held else {})
    notes = []
    if cut := stats["train"]["examples_cut"]:
        notes.append(f"{cut} of {len(train)} training texts are longer than {recipe.data.length} tokens and were cut")
    if not held:
        notes.append("no data.validation: nothing is evaluated, the weights of the last step are kept")
    return TrainComponents(
        model,
        task,
        tokenizer,
        [[ExampleView(rows)]],
        [[1.0]],
        [[ExampleView(held_rows)]] if held else [],
        held,
        data={"data.train": _digest(rows)}
        | ({"data.validation": _digest(held_rows)} if held else {})
        | frozen.fingerprints,
        account=dict(stats),
        notes=[*loading_notes(model), *notes],
        facts={"labels": _labels(task)},
        tokens=task.tokens([*rows, *held_rows]),
    )


def unigram_entropy(stores: Sequence[TokenStore]) -> float:
    """Entropy of the tokens' frequencies in the training data, in nats: the loss of a model that knows no context."""
    counts = np.zeros(max(store.vocab_size for store in stores), np.int64)
    for store in stores:
        split = store.split("train")
        counts += np.bincount(split.read(0, min(split.token_count, _ENTROPY_TOKENS)), minlength=len(counts))
    share = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(share * np.log(share)).sum())


def _view(recipe: Recipe, store: TokenStore, split: str, part: Objective) -> View:
    width = recipe.data.length - part.overhead
    pack = recipe.data.pack or part.pack
    return build_view(store.split(split), part.view, width, part.lookahead, pack, part.words)


def _check_length_warmup(recipe: Recipe, objective: Objective) -> None:
    for part in objective.alternatives:
        if recipe.data.length_warmup and (part.view != "stream" or isinstance(part, SourceTarget)):
            raise UsageError(
                f"recipe: field 'data.length_warmup' = {recipe.data.length_warmup}: it cuts sequences, and this "
                f"objective on {part.view} decides for whole ones or pairs them with a source; leave it out, or name "
                "objectives on plain text alone"
            )


def _held_out(recipe: Recipe, stores: Sequence[TokenStore], objective: Objective) -> tuple[list[list[View]], list[str]]:
    """For each part of the objective, the validation view of each store that has one, and notes on those left out."""
    notes: list[str] = []

    def views(part: Objective) -> Iterator[View]:
        for store in stores:
            if not store.split("validation").document_count:
                continue
            try:
                view = _view(recipe, store, "validation", part)
            except TooFewDocumentsError as error:
                notes.append(f"{store.path}: its validation text is left out: {error}")
                continue
            if len(view):
                yield view

    found = [list(views(part)) for part in objective.alternatives]
    return (found if any(found) else []), notes


def _task(recipe: Recipe) -> tuple[type[Task[Any, Any, Any]], Task.Config]:
    """The class of a recipe's task, and what the recipe says of it."""
    name, tree = next(iter(recipe.task.items()))
    task_class: type[Task[Any, Any, Any]] = find_class("tasks", name, Task)  # type: ignore[type-abstract]
    fields = dict(tree) if isinstance(tree, Mapping) else {"weight": tree}
    if "columns" in fields:
        raise UsageError(f"recipe: field 'task.{name}.columns': columns are named in data.columns; move them there")
    config = validate(task_class.Config, fields, f"task.{name}")
    return task_class, config.model_copy(update={"columns": recipe.data.columns})


def _labels(task: Task[Any, Any, Any]) -> list[str] | None:
    """The names of a task's classes, if it has any."""
    found = getattr(task, "labels", None)
    return list(found) if isinstance(found, list) else None


def _tokenizer_path(recipe: Recipe) -> str:
    path = recipe.data.tokenizer or recipe.model.init
    if path is None:
        raise UsageError("recipe: a model from random weights needs a tokenizer; name one as data.tokenizer")
    return path


def _digest(rows: Sequence[Encoded]) -> str:
    """SHA-256 of all that training reads of rows: tokens and targets, and which example they are of."""
    digest = hashlib.sha256()
    for row in rows:
        targets = np.zeros(0) if row.targets is None else row.targets
        runs = [row.tokens, row.second, row.third]
        sizes = [row.example, *(-1 if run is None else len(run) for run in runs), *targets.shape]
        digest.update(np.array(sizes).tobytes() + f"{targets.dtype.str}{row.targets is None}".encode())
        for run in runs:
            digest.update(b"" if run is None else run.astype("<i8", copy=False).tobytes())
        digest.update(np.ascontiguousarray(targets).tobytes())
    return digest.hexdigest()
