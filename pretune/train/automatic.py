"""Chooses from the training data what a recipe of `finetune` leaves open: steps, rate, warm-up, batch, head.

The rule was learned from `benchmarks/defaults`: many public sets, at 8 examples a class to all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretune.config import validate
from pretune.interop.sentence_transformers import read_vectors
from pretune.interop.tuned_model import body_of, plain_folder
from pretune.nn.heads import PoolPosition
from pretune.nn.vectors import Pooling
from pretune.tasks.shared.sequence_task import SequenceTask
from pretune.tasks.shared.vector_task import VectorTask
from pretune.tasks.task import AnyTask
from pretune.text.readers.labelled import NamedData
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.labelled import LabelledData, read_labelled
from pretune.train.network import fitted_tokenizer
from pretune.train.open_fields import place_of
from pretune.train.recipe import Recipe
from pretune.train.tokens_read import tokens_per_parameter
from pretune.wording import counted

_SAMPLE = 200  # examples whose tokens are counted
_MANY = 2000  # examples from which the standard head learns as well as one on vectors
_MANY_PAIRS = 6000  # pairs from which reading both texts at once is learned
_FEWEST_PAIRS = 300  # that a run reads, again and again where there are fewer
SLOWER = 0.3  # what the rate is multiplied by where the texts of a pair are read apart
_VERY_FEW = 100  # examples that may mislead training, so that the weights before it count too
_SEVERAL = 32  # labels of which a batch of 32 seldom has two texts of one
_ENOUGH = 200  # validation examples by which the best weights are chosen
_TRAINED = 20.0  # tokens for each parameter, the best use of computation: Hoffmann et al. 2022, arXiv 2203.15556
_FASTER, _FASTEST = 4.0, 1e-3  # what the rate is multiplied by for weights that have read fewer, and its limit
_POSITIONS: Mapping[str, PoolPosition] = {"mean": "mean", "cls": "first", "last": "last"}


@dataclass(frozen=True)
class RunFacts:
    """What the rule looks at.

    Attributes:
        examples: for training.
        validation: examples that are held out or named.
        labels: among which a classifier decides; 0 for another task.
        tokens: of an example, on average, special ones left out.
        of_texts: the task answers for whole texts; another answers for tokens or spans.
        fits_head: it can fit a head to vectors of texts in closed form.
        is_paired: examples have a second text.
        width: of the model's hidden states.
        vectors: the row, or mean of rows, that the model's files say is the vector of a text; None where they say none.
        is_frozen: the head alone trains.
        window: tokens that a task reads at once which reads long texts in windows; 0 for another task.
        is_undertrained: the weights are of our own runs, which have read few tokens for each parameter.
    """

    examples: int
    validation: int
    labels: int
    tokens: float
    of_texts: bool
    fits_head: bool
    is_paired: bool
    width: int
    vectors: PoolPosition | None
    is_frozen: bool
    window: int = 0
    is_undertrained: bool = False

    def describe(self) -> str:
        """The examples in words, and what is known of the model."""
        labels = f" of {self.labels:,} labels" if self.labels else ""
        undertrained = " for a model that has read little text" if self.is_undertrained else ""
        return f"{counted(self.examples, 'example')}{labels}, {self.tokens:.0f} tokens each{undertrained}"


@dataclass(frozen=True)
class Choice:
    """Settings for a recipe.

    Attributes:
        steps, batch, rate, warmup: of training.
        keep: which weights the finished model has.
        head: of a task that scores whole texts, fitted to their vectors; None for the standard head.
        contrast: the vectors are trained by contrast.
        keep_initial: how much the weights before training count.
        window: tokens that are read at once; 0 leaves that to the recipe.
        apart: the texts of a pair are read apart.
    """

    steps: int
    batch: int
    rate: float
    warmup: float
    keep: str
    head: PoolPosition | None = None
    contrast: bool = False
    keep_initial: float = 0.0
    window: int = 0
    apart: bool = False

    def describe(self) -> str:
        """The settings in words."""
        steps = f"{counted(self.steps, 'step')} of {self.batch:,} examples each"
        parts = [steps, f"rate {self.rate:.2g}", f"warm-up {self.warmup:g}"]
        if self.head is not None:
            parts.append(f"{'contrast, then ' if self.contrast else ''}a head fitted to {self.head} vectors")
        parts += ["the texts of a pair read apart"] if self.apart else []
        parts += [f"{self.keep_initial:.0%} of the weights before training"] if self.keep_initial else []
        parts += [f"windows of {self.window} tokens"] if self.window else []
        return ", ".join(parts)

    def fields(self) -> dict[str, Any]:
        """The settings by the names that recipes have for them; those of the task without its name."""
        values: dict[str, Any] = {
            "budget": {"steps": self.steps},
            "optimizer.lr": self.rate,
            "schedule.warmup": self.warmup,
            "data.batch": self.batch,
            "evaluation.keep": self.keep,
            "evaluation.keep_initial": self.keep_initial,
        }
        if self.head is not None:
            values |= {"task.head": self.head, "task.fit_head": True, "task.contrast": self.contrast}
            values |= {"task.apart": self.apart}
            values |= {"evaluation.every": self.steps}  # the head is fitted at the end
        return values | ({"data.length": self.window} if self.window else {})


def choose(facts: RunFacts) -> Choice:
    """The settings for a run."""
    rate = _rounded(_rate(facts))
    few_pairs = facts.is_paired and (facts.is_frozen or facts.examples < _MANY_PAIRS)
    if facts.fits_head and few_pairs and facts.vectors is not None:
        return _choose_for_pairs(facts, facts.vectors, rate)
    if facts.fits_head and not facts.is_paired and facts.vectors is not None:
        if facts.is_frozen:
            return Choice(1, min(16, facts.examples), 1e-3, 0.0, "last", facts.vectors)
        if facts.labels > _SEVERAL:  # a large batch has texts of the same label, and the vectors are good already
            batch = min(64, facts.examples)
            steps = math.ceil(min(10.0, max(4.0, 15_000 / facts.examples)) * facts.examples / batch)
            return Choice(steps, batch, rate, 0.1, "last", facts.vectors, contrast=True, keep_initial=0.3)
        if facts.examples < _MANY:
            batch = min(16 if facts.labels <= 16 else 32, facts.examples)
            steps = math.ceil(32 / math.pow(facts.examples, 0.25) * facts.examples / batch)
            mixed = 0.3 if facts.examples < _VERY_FEW else 0.0
            return Choice(steps, batch, rate, 0.1, "last", facts.vectors, contrast=True, keep_initial=mixed)
    batch = min(16 if facts.examples < _MANY else 32, facts.examples)
    steps = math.ceil(_epochs(facts) * facts.examples / batch)
    keep = "best" if facts.validation >= _ENOUGH else "last"
    return Choice(steps, batch, 1e-2 if facts.is_frozen else rate, 0.1, keep, window=facts.window)


def _choose_for_pairs(facts: RunFacts, position: PoolPosition, rate: float) -> Choice:
    """The settings for pairs of texts: their vectors say much already, and change slowly, so that they go on saying it.

    A model that never read two texts at once learns from thousands of pairs what one says of the other; until then it
    is no better than chance where the texts alone mean little.
    """
    batch = min(16, facts.examples)
    if facts.is_frozen:
        return Choice(1, batch, 1e-3, 0.0, "last", position, apart=True)
    steps = math.ceil(max(2 * facts.examples, _FEWEST_PAIRS) / batch)
    return Choice(steps, batch, _rounded(SLOWER * rate), 0.1, "last", position, apart=True)


def _rate(facts: RunFacts) -> float:
    """The learning rate: lower, the wider a model is; higher where there is little to lose, as it has read little."""
    rate = (1e-4 if facts.of_texts else 3e-4) * 384 / facts.width
    return max(rate, min(_FASTER * rate, _FASTEST)) if facts.is_undertrained else rate


def _epochs(facts: RunFacts) -> float:
    """Passes over the examples: fewer, the more there are."""
    if facts.of_texts:
        return max(4.0, 3200 / math.sqrt(300 * facts.examples))
    return min(max(12 * math.pow(1000 / facts.examples, 0.45), 3.0), 30.0)


def _rounded(rate: float) -> float:
    """Two digits of it."""
    return float(f"{rate:.2g}")


def choose_for_several(facts: Sequence[RunFacts], *, have_adapters: bool = False) -> Choice:
    """The settings for a run of several tasks: all the steps that each would have alone, with standard heads.

    Args:
        have_adapters: each step trains all tasks, so that they are the most that any of them would have.
    """
    alone = [choose(replace(each, vectors=None)) for each in facts]
    keep = "best" if sum(each.validation for each in facts) >= _ENOUGH else "last"
    steps = (max if have_adapters else sum)(choice.steps for choice in alone)
    batch = max(choice.batch for choice in alone)
    rate, window = min(choice.rate for choice in alone), max(choice.window for choice in alone)
    return Choice(steps, batch, rate, alone[0].warmup, keep, window=window)


@dataclass(frozen=True)
class Automatic:
    """A recipe without open fields.

    Attributes:
        recipe: with what was chosen.
        notes: that say what was chosen, and from what.
        facts: the same, for the record.
    """

    recipe: Recipe
    notes: list[str]
    facts: dict[str, Any]


def resolve_automatic(
    recipe: Recipe, train_data: NamedData | None = None, validation_data: NamedData | None = None
) -> Automatic:
    """Fills in what a recipe leaves to the training data; explicit fields stay as they are.

    Args:
        train_data, validation_data: labelled data in memory, instead of files.

    Raises:
        PretuneError: data or a model that cannot be read, as `assemble` raises it.
    """
    if not recipe.automatic or recipe.model.init is None:
        return Automatic(recipe, [], {})
    facts, record = facts_of_run(recipe, train_data, validation_data)
    is_single, have_adapters = len(facts) == 1, recipe.adapter_per_task
    choice = choose(facts[0]) if is_single else choose_for_several(facts, have_adapters=have_adapters)
    note = f"chosen from {' and '.join(each.describe() for each in facts)}: {choice.describe()}"
    chosen = {field: value for field, value in choice.fields().items() if field in recipe.automatic}
    return Automatic(apply_choice(recipe, chosen), [note], {"chosen": {"from": record, "fields": chosen}})


def apply_choice(recipe: Recipe, fields: Mapping[str, Any]) -> Recipe:
    """A recipe with values for those of its open fields that these name, and none open.

    Args:
        fields: as `Choice.fields` gives them.
    """
    name = next(iter(recipe.task))
    tree = recipe.model_dump(mode="json") | {"automatic": (), "search": None}
    for field, value in fields.items():
        if field in recipe.automatic:
            tree = _with(tree, place_of(field, name), value)
    return validate(Recipe, tree, "recipe")


def _with(tree: Any, path: list[str], value: object) -> dict[str, Any]:
    """A tree with another value at a path."""
    name, rest = path[0], path[1:]
    inner = tree.get(name) or {}
    inner = inner if isinstance(inner, Mapping) else {"weight": inner}  # of a task, whose table may be its weight
    below = _with(inner, rest, value) if rest else value
    return {**tree, name: below}


def facts_of_run(
    recipe: Recipe, train_data: NamedData | None, validation_data: NamedData | None
) -> tuple[list[RunFacts], dict[str, Any]]:
    """What the rule looks at of each task, and the same for the record.

    Raises:
        PretuneError: data or a model that cannot be read.
    """
    assert recipe.model.init is not None
    tokenizer = fitted_tokenizer(recipe, Tokenizer.load(recipe.data.tokenizer or Path(recipe.model.init)))
    tasks = read_labelled(recipe, tokenizer, train_data, validation_data)
    facts = [_facts_of(recipe, data, tokenizer) for data in tasks]
    records = [{name: value for name, value in vars(each).items() if value not in (None, False)} for each in facts]
    if not tasks[0].name:
        return facts, records[0]
    return facts, {data.name: record for data, record in zip(tasks, records, strict=True)}


def _may_fit_head(recipe: Recipe, task: AnyTask) -> bool:
    """Whether a head may be fitted to vectors: nothing that the recipe gives speaks against it."""
    config = task.config
    if not isinstance(config, SequenceTask.Config):
        return False
    has_standard = config.head == "standard" and "task.head" not in recipe.automatic
    return not has_standard and (config.fit_head or "task.fit_head" in recipe.automatic)


def _facts_of(recipe: Recipe, data: LabelledData, tokenizer: Tokenizer) -> RunFacts:
    """What the rule looks at of a task."""
    folder = Path(recipe.model.init or "")
    sample = data.train[:: max(1, len(data.train) // _SAMPLE)][:_SAMPLE]
    body = body_of(folder, recipe.model.overrides)
    has_windows = data.task.config.truncate == "windows" and "data.length" in recipe.automatic
    window = min(data.task.window, body.max_length or data.task.window) if has_windows else 0
    rows = data.task.encode(sample, tokenizer, window or recipe.data.length)
    vectors = read_vectors(plain_folder(folder), body.width, [])
    first = vectors.bricks[0] if vectors is not None else None
    mode = first.modes[0] if isinstance(first, Pooling) and len(first.modes) == 1 else None
    tokens = tokens_per_parameter(folder)
    return RunFacts(
        examples=len(data.train),
        validation=len(data.validation),
        labels=len(data.labels or ()),
        tokens=sum(row.size for row in rows) / max(1, len(rows)),
        of_texts=isinstance(data.task, SequenceTask | VectorTask),
        fits_head=isinstance(data.task, SequenceTask) and data.task.fits_head,
        is_paired=any(getattr(example, "second", None) is not None for example in sample),
        width=body.width,
        vectors=_POSITIONS.get(mode) if mode is not None and _may_fit_head(recipe, data.task) else None,
        is_frozen=next(iter(recipe.tune)) == "frozen",
        window=window,
        is_undertrained=tokens is not None and tokens < _TRAINED,
    )
