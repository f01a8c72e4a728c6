"""What is written and said of a run that has just finished: samples, answers on the validation data, the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretune.errors import PretuneError
from pretune.model import Model
from pretune.report.report import write_report
from pretune.report.samples import Examples, write_samples
from pretune.report.validation import write_validation
from pretune.tasks.classification import ClassificationExample
from pretune.tasks.shared.written_texts import GenerationExample
from pretune.tasks.task import Example
from pretune.text.readers.labelled import NamedData
from pretune.train.labelled import read_labelled
from pretune.train.recipe import Recipe
from pretune.train.task_tables import are_named


def report_finished(
    run: Path, model: Model, recipe: Recipe, train: NamedData | None = None, validation: NamedData | None = None
) -> list[str]:
    """Writes the page of a finished run and what it shows of the model.

    Args:
        train, validation: labelled data in memory, instead of the files of the recipe.

    Returns:
        sentences for the user.
    """
    notes = []
    learned: Examples = []
    held_out: Examples = []
    try:
        learned, held_out = _examples(model, recipe, train, validation)
    except PretuneError as error:  # the model is finished and saved: its data may be gone or changed by now
        notes.append(f"warning: the report shows no samples and no mistakes: {error}")
    write_samples(run, model, recipe, held_out or learned)
    known, judged = _labelled(learned), _labelled(held_out)
    answers = write_validation(run, model, recipe.seed, known, judged) if judged else {}
    write_report(run)
    return [*notes, *comparison(answers)]


def _examples(
    model: Model, recipe: Recipe, train: NamedData | None, validation: NamedData | None
) -> tuple[Examples, Examples]:
    """Examples of training and validation of a run that learned to label or to write texts; of any other none."""
    if not recipe.task or are_named(recipe.task) or not {"classify", "generate"} & model.abilities:
        return [], []
    (data,) = read_labelled(recipe, model.tokenizer, train, validation)
    if "write" in data.task.abilities.values():
        learned, held_out = (
            [example for example in examples if isinstance(example, GenerationExample)]
            for examples in (data.train, data.validation)
        )
        return learned, held_out
    return _labelled(data.train), _labelled(data.validation)


def _labelled(examples: Sequence[Example] | Examples) -> list[ClassificationExample]:
    """Texts with labels; none of a user's own task that has other examples."""
    return [example for example in examples if isinstance(example, ClassificationExample)]


def comparison(answers: Mapping[str, Any]) -> Iterator[str]:
    """Yields how a classifier compares with what needs no fine-tuning, and a warning where it does not pay.

    Args:
        answers: as `write_validation` returns them.
    """
    if not answers:
        return
    own, others = float(answers["scores"]["accuracy"]), answers["baselines"]["accuracy"]
    majority, probe, tfidf = (others.get(name) for name in ("majority", "probe", "tfidf"))
    yield f"validation accuracy {own:.1%}; always answering the commonest label reaches {majority:.1%}"
    if tfidf is not None:
        yield f"logistic regression on TF-IDF reaches {tfidf:.1%}"
    if probe is not None:
        yield f"logistic regression on the model's vectors before training reaches {probe:.1%}"
    best = max(value for value in (majority, probe, tfidf) if value is not None)
    if best - own <= math.sqrt(best * (1 - best) / int(answers["examples"])):
        return
    if best == tfidf:
        command = "--model tfidf --task classification"
        yield f"TF-IDF does better than fine-tuning here; the same command with {command} trains it in a second"
    elif best == probe:
        yield "vectors before training do better than fine-tuning here; the same command with --tune frozen keeps them"
    else:
        yield "warning: fine-tuning reached less than that; train longer (budget.epochs) or raise optimizer.lr"
