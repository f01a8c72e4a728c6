"""Builds or reads the model of a run, checks it against the tokenizer and tunes it; loads frozen models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pretune.compress.distillation.layers import keep_student
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.evaluate.read import find_source, read_network
from pretune.interop.fingerprint import body_fingerprint, model_fingerprint
from pretune.interop.model_tokenizer import fit_tokenizer, resolve_token_ids
from pretune.interop.recorded_heads import head_sources
from pretune.interop.run_folder import check_has_model
from pretune.interop.tuned_model import body_of, tune
from pretune.models import build as build_model
from pretune.models.frozen import FrozenModel
from pretune.models.model import LanguageModel, MakeHeads
from pretune.nn.attention import prefer_backend
from pretune.nn.dropout import Dropout
from pretune.nn.model_protocol import TrainableModel
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.recipe import ModelConfig, Recipe
from pretune.train.starting_point import StartingPoint, tuning_method
from pretune.train.task_tokenizer import fit_to_tasks, grow_vocabulary

_SHARED = (
    "both must read the same tokens: start the run from this model (with --student.layers N it becomes smaller), or "
    "use its tokenizer (--tokenizer) for data and model"
)


def build_network(recipe: Recipe, heads: MakeHeads, tokenizer: Tokenizer) -> LanguageModel:
    """The model of a recipe with the heads that are needed, before it is tuned.

    Args:
        heads: makes them, such as the method `heads` of an objective or a task.

    Raises:
        DataError: a tokenizer that does not fit the model, or sequences longer than its positions.
    """
    config = recipe.model
    if config.init is not None:
        model = StartingPoint.of(recipe).read(heads, recipe.seed)
        grow_vocabulary(recipe, model, tokenizer)
    else:
        family, size = family_of(recipe)
        overrides, _ = resolve_token_ids(family, size, config.overrides, tokenizer)
        model = build_model(family, size, heads, overrides, seed=recipe.seed)
    _check_fit(recipe, model, tokenizer)
    apply_model_settings(model, config)
    return model


def make_student(recipe: Recipe, model: LanguageModel) -> tuple[int, ...]:
    """Leaves the layers that `distil.student` names, where it names some.

    Returns:
        The numbers of those that stay; empty where all do.

    Raises:
        UsageError: layers that cannot be left out; or the student would be its own teacher.
    """
    distil, init = recipe.distil, recipe.model.init
    if distil.student.choice is not None:
        return keep_student(model, distil.student.choice)
    if distil.is_on and init is not None and Path(init).resolve() == Path(distil.teacher or "").resolve():
        raise UsageError(
            f"distil.teacher = {distil.teacher}: is the model that the run starts from, which has nothing to learn "
            "from itself; make it smaller with --student.layers N, or start from another model (--model)"
        )
    return ()


def family_of(recipe: Recipe) -> tuple[str, str]:
    """The family and the size of a model that a recipe builds anew."""
    return recipe.model.family or "bert", recipe.model.size or "mini"


def fitted_tokenizer(recipe: Recipe, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of a run, with what its model reads around a text.

    Args:
        tokenizer: of the data. A model that is read brings its own, where the two differ in nothing else.

    Raises:
        PretuneError: a model or a configuration that cannot be had with this tokenizer.
    """
    if recipe.model.init is None:
        return fit_to_tasks(recipe, resolve_token_ids(*family_of(recipe), recipe.model.overrides, tokenizer)[1])
    try:
        own = Tokenizer.load(recipe.model.init)
    except (DataError, MissingInputError):
        own = tokenizer  # a model without a tokenizer
    body = body_of(Path(recipe.model.init), recipe.model.overrides)
    return fit_to_tasks(recipe, fit_tokenizer(own if own.hash == tokenizer.hash else tokenizer, body))


def tune_network(recipe: Recipe, model: LanguageModel) -> tuple[LanguageModel, frozenset[str]]:
    """The model after the recipe's tuning method has changed it and chosen which parameters train.

    Args:
        model: with the metadata that its files will have; surgery adds the fingerprint of its weights.

    Returns:
        the model, and the names of the parameters that surgery added.
    """
    method = tuning_method(recipe)
    record = {"base": body_fingerprint(model), "heads": head_sources(model)} if method.may_be_surgery else {}
    before = dict(model.named_parameters())
    model = tune(model, method, recipe.seed)
    known = set(map(id, before.values()))
    added = frozenset(name for name, parameter in model.named_parameters() if id(parameter) not in known)
    changed = before.keys() != {name for name, _ in model.named_parameters()} or method.is_difference
    if changed and recipe.model.init is None and not method.can_merge:
        raise UsageError(
            f"tune.{method.name}: what it learns is kept as the difference to a model that has files, and this one is "
            "built from random weights; save that first (pretune pretrain), and name it with --model (model.init)"
        )
    model.metadata = model.metadata.model_copy(update=record if changed else {"base": None})
    if recipe.model.init is not None and model.loaded is not None:
        start = StartingPoint.of(recipe)
        model.loaded.training_notes += [*start.notes, *start.fill(model, method)]
    if model.max_length is not None and recipe.data.length > model.max_length:
        raise UsageError(
            f"recipe: field 'data.length' = {recipe.data.length}: tune.{method.name} leaves {model.max_length} of the "
            "model's positions to a text; make the length that or less"
        )
    return model, added


def apply_model_settings(model: LanguageModel, config: ModelConfig) -> None:
    """Set dropout, activation checkpointing and the attention backend as the recipe says."""
    model.stack.checkpointing = config.checkpointing
    if config.attention is not None:
        prefer_backend(model, config.attention)
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, Dropout):
                module.p = config.dropout


def check_tokenizer(
    origin: str,
    model: LanguageModel,
    tokenizer: Tokenizer,
    remedy: str = "prepare the store with the model's tokenizer",
) -> None:
    """Compare a model's vocabulary, and its own tokenizer where it has one, with the tokenizer of the data.

    Args:
        origin: folder of the model.
        remedy: what to do where they differ.

    Raises:
        DataError: they differ.
    """
    _check_vocabulary(origin, model, tokenizer)
    try:
        own = Tokenizer.load(origin)
    except (DataError, MissingInputError):
        return  # a model without a tokenizer: its size is all there is to compare
    if own.hash != tokenizer.hash:
        raise DataError(
            f"{origin}: its tokenizer ({own.hash[:12]}) is not that of the data ({tokenizer.hash[:12]}); {remedy}"
        )


def _check_vocabulary(origin: str, model: LanguageModel, tokenizer: Tokenizer) -> None:
    size = tokenizer.vocabulary.size
    if size > model.vocab_size:
        raise DataError(f"{origin}: a vocabulary of {model.vocab_size} is too small for a tokenizer of {size} tokens")


def _check_fit(recipe: Recipe, model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Check that a model fits the tokenizer and the length of the data."""
    origin = recipe.model.init or "the model"
    if recipe.model.init is None or (recipe.task and recipe.data.tokenizer is None):
        _check_vocabulary(origin, model, tokenizer)  # there is no other tokenizer than this one
    else:
        check_tokenizer(origin, model, tokenizer)
    if model.max_length is not None and recipe.data.length > model.max_length:
        raise UsageError(
            f"recipe: field 'data.length' = {recipe.data.length}: {origin} has {model.max_length} positions; "
            f"make it {model.max_length} or less"
        )


def loading_notes(model: LanguageModel) -> list[str]:
    """What the user should know of how the model's files were read."""
    return [] if model.loaded is None else model.loaded.messages(training=True)


@dataclass
class FrozenModels:
    """Reads the frozen companions of an objective, such as its teacher.

    Attributes:
        tokenizer: of the run's data, which companions must share.
        fingerprints: of the weights of each, by field-like name: what must not change while the run lasts.
        notes: what the user should know of how they were read.
    """

    tokenizer: Tokenizer
    fingerprints: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def load(self, path: str) -> TrainableModel:
        """Read the folder of a companion.

        Raises:
            MissingInputError: there is no model.
            DataError: it has another tokenizer than the data.
        """
        check_has_model(Path(path))
        model = read_network(find_source(Path(path)), self.tokenizer)
        check_tokenizer(path, model, self.tokenizer, _SHARED)
        self.notes += [f"frozen model {path}: {note}" for note in model.loaded.messages()] if model.loaded else []
        self.fingerprints[f"frozen model {path}"] = model_fingerprint(model)
        return cast(TrainableModel, FrozenModel(model))  # it hands on what it does not have itself
