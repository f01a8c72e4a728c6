"""What is written and said of a run that has just finished: samples, answers on the validation data, the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pretune.model import Model
from pretune.report.report import write_report
from pretune.report.samples import write_samples
from pretune.report.validation import write_validation
from pretune.text.readers.labelled import Data
from pretune.train.recipe import Recipe


def report_finished(
    run: Path, model: Model, recipe: Recipe, train: Data | None = None, validation: Data | None = None
) -> list[str]:
    """Writes the page of a finished run and what it shows of the model.

    Args:
        train, validation: labelled data in memory, instead of the files of the recipe.

    Returns:
        sentences for the user.
    """
    write_samples(run, model, recipe, train if validation is None else validation)
    answers = write_validation(run, model, recipe, train, validation)
    write_report(run)
    return list(comparison(answers))


def comparison(answers: Mapping[str, Any]) -> Iterator[str]:
    """Yields how a classifier compares with what needs no fine-tuning, and a warning where it does not pay.

    Args:
        answers: as `write_validation` returns them.
    """
    if not answers:
        return
    own, others = float(answers["scores"]["accuracy"]), answers["baselines"]["accuracy"]
    majority, probe = float(others["majority"]), others.get("probe")
    if probe is None:
        yield f"validation accuracy {own:.1%}; always answering the commonest label reaches {majority:.1%}"
    else:
        yield (
            f"validation accuracy {own:.1%}; always answering the commonest label reaches {majority:.1%}, logistic "
            f"regression on the model's vectors before training {probe:.1%}"
        )
    best = max(majority, majority if probe is None else float(probe))
    if best - own > math.sqrt(best * (1 - best) / int(answers["examples"])):
        yield "warning: fine-tuning reached less than that; train longer (budget.epochs) or raise optimizer.lr"
