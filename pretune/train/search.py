"""Looks for good settings of fine-tuning by short runs on a part of the training data: successive halving.

All candidates train for a part of their steps and are scored on rows that are held out; the better half goes on with
twice as many, and the best one's settings make the run. What was chosen becomes part of the run's recipe, so that this
recipe repeats the run without another search.

Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification" (arXiv 1502.07943).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pretune.config import validate
from pretune.errors import DivergenceError, UsageError
from pretune.evaluate.labelled import evaluate_examples
from pretune.evaluate.read import find_source, read_with_tokenizer
from pretune.evaluate.recorded import trained_task
from pretune.interop.run_names import FACTS
from pretune.scratch import ScratchFolder
from pretune.seals import read_facts
from pretune.text.readers.labelled import NamedData
from pretune.train.automatic import SLOWER, Automatic, Choice, apply_choice, choose, facts_of_run
from pretune.train.labelled import LabelledData
from pretune.train.recipe import Recipe
from pretune.train.task_tables import are_named
from pretune.wording import counted

_log = logging.getLogger("pretune")
_HELD_OUT = 0.25  # of the training rows, where the recipe names no others
_WORST = -1.0  # of main metrics: of a run that diverged, or whose predictions are all the same
_ROUNDS = (0.25, 0.5, 1.0)  # of the steps of a candidate

Run = Callable[[Recipe, NamedData | None, NamedData | None], Path]


@dataclass(frozen=True)
class Trial:
    """A candidate and how it did.

    Attributes:
        choice: its settings.
        score: on the held-out rows, by the task's main metric; after the longest of its runs.
    """

    choice: Choice
    score: float


def candidates(choice: Choice) -> list[Choice]:
    """What the rule says first, then what differs from it in one setting."""
    others = [
        replace(choice, rate=choice.rate * 2),
        replace(choice, rate=choice.rate / 2),
        replace(choice, steps=choice.steps * 2),
    ]
    if choice.head is not None:
        standard = replace(choice, head=None, contrast=False, apart=False, steps=choice.steps * 2, keep_initial=0.0)
        others.insert(0, replace(standard, rate=choice.rate / SLOWER) if choice.apart else standard)
    if choice.head is not None and not choice.apart:  # pairs of one label have nothing in common by which to come close
        others.append(replace(choice, contrast=not choice.contrast))
    return [choice, *others]


def search(recipe: Recipe, train_data: NamedData | None, validation_data: NamedData | None, run: Run) -> Automatic:
    """The recipe with the best settings that short runs find within its minutes.

    Args:
        run: trains a recipe, and returns the folder of the model.

    Raises:
        UsageError: nothing is open in the recipe, it has several tasks, or there are several processes.
    """
    assert recipe.search is not None  # it asks for a search
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "recipe: field 'search': it runs in one process; leave torchrun out, and give the recipe.toml "
            "that it writes to torchrun"
        )
    if not recipe.automatic or recipe.model.init is None:
        raise UsageError(
            "recipe: field 'search': nothing is left to choose; leave the budget out (epochs, steps), and start from a "
            "model with --model"
        )
    if are_named(recipe.task):
        raise UsageError("recipe: field 'search': it is for a single task; leave search out, or train one task")
    facts_file = Path(recipe.output) / FACTS
    known = read_facts(facts_file).get("chosen") if recipe.resume and facts_file.is_file() else None
    if isinstance(known, dict) and isinstance(fields := known.get("fields"), dict):
        return Automatic(apply_choice(recipe, fields), [], {"chosen": known})  # of a run that goes on
    facts, record = facts_of_run(recipe, train_data, validation_data)
    trials = _halve(recipe, candidates(choose(facts[0])), train_data, validation_data, run)
    best = trials[0]
    note = f"search: best of {counted(len(trials), 'candidate')} is {best.score:.4f}: {best.choice.describe()}"
    chosen = {field: value for field, value in best.choice.fields().items() if field in recipe.automatic}
    record = {"from": record, "search": [[trial.score, trial.choice.fields()] for trial in trials], "fields": chosen}
    return Automatic(apply_choice(recipe, chosen), [note], {"chosen": record})


def _halve(
    recipe: Recipe, choices: list[Choice], train_data: NamedData | None, validation_data: NamedData | None, run: Run
) -> list[Trial]:
    """The candidates of the last round that the minutes allowed, the best first."""
    deadline = time.monotonic() + 60 * (recipe.search or 0)
    survivors, result, whole = choices, list[Trial](), 0.0  # seconds that all steps of a candidate take
    for fraction in _ROUNDS:
        trials: list[Trial] = []
        for choice in survivors:
            begin = time.monotonic()
            if (trials or result) and begin + whole * fraction > deadline:
                break
            part = replace(choice, steps=max(1, round(choice.steps * fraction)))
            score = _score(recipe, part, train_data, validation_data, run)
            trials.append(Trial(choice, score))
            _log.info("search: %.4f after %s", score, part.describe())
            whole = (time.monotonic() - begin) / fraction
        trials.sort(key=lambda trial: -trial.score)
        is_whole = len(trials) == len(survivors)
        result = trials if is_whole or not result else result
        if not is_whole or len(trials) == 1:
            break
        survivors = [trial.choice for trial in trials[: (len(trials) + 1) // 2]]
    return result


def _score(
    recipe: Recipe, choice: Choice, train_data: NamedData | None, validation_data: NamedData | None, run: Run
) -> float:
    """The score of a candidate on rows that it was not trained on."""
    with ScratchFolder("search") as folder, _quiet():
        trial = _trial_recipe(apply_choice(recipe, choice.fields()), folder / "run", validation_data)
        try:
            path = run(trial, train_data, validation_data)
        except DivergenceError:
            return _WORST
        source = find_source(path)
        network, tokenizer = read_with_tokenizer(source, None)
        task = trained_task(network.eval(), tokenizer.vocabulary, path)
        data = LabelledData(trial, tokenizer, train_data, validation_data)  # type: ignore[arg-type]  # of one task
        scores = evaluate_examples(network, tokenizer, task, data.validation, trial.data.length)
        score = float(scores[task.metric_of(data.validation)])
        return score if math.isfinite(score) else _WORST


def _trial_recipe(recipe: Recipe, output: Path, validation_data: NamedData | None) -> Recipe:
    """A recipe whose run is short, silent and held to rows that are not its own."""
    tree = recipe.model_dump(mode="json")
    tree |= {"output": str(output), "automatic": (), "search": None, "seeds": None}
    tree["track"] |= {"progress": "quiet", "report": False}
    tree["evaluation"] |= {"every": 10**9, "keep": "last"}
    named = bool(recipe.data.validation) or validation_data is not None
    if not named and recipe.data.folds is None and not recipe.data.holdout:
        tree["data"] |= {"holdout": _HELD_OUT}
    return validate(Recipe, tree, "recipe")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what short runs say out of the log."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    _log.addFilter(is_error)
    try:
        yield
    finally:
        _log.removeFilter(is_error)
