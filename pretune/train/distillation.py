"""Puts a teacher into a run: wraps the objective of labels, says so, and tries it on some samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from pretune.compress.distil import Distilled
from pretune.compress.distillation.config import DistilConfig
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.objective import Objective
from pretune.text.samples.views.view import View
from pretune.train.recipe import Recipe

_TRIED = 2  # samples of each part on which the terms are computed before a run begins


def with_teacher(recipe: Recipe, objective: Objective, chosen: Sequence[int]) -> Objective:
    """The objective of a run, with its teacher where it has one.

    Args:
        chosen: layers of the teacher that the student was made of; empty where it was not.
    """
    return Distilled(objective, recipe.distil, chosen) if recipe.distil.is_on else objective


def teacher_notes(objective: Objective, chosen: Sequence[int]) -> list[str]:
    """What the user should know of the student's layers and of the teacher."""
    layers = [f"the student has layers {', '.join(map(str, chosen))} of the model"] if chosen else []
    return [*layers, *(objective.notes if isinstance(objective, Distilled) else [])]


def check_baseline(config: DistilConfig, held_out: Sequence[Sequence[View]]) -> None:
    """Checks that there is something on which teacher, student and baseline are compared.

    Raises:
        UsageError: there is nothing.
    """
    if config.is_on and config.baseline and not any(held_out):
        raise UsageError(
            "distil.baseline: no data are held out on which the scores could be compared; name a file with "
            "--validation, or hold rows out with --holdout 0.1"
        )


@torch.no_grad()
def try_teacher(model: LanguageModel, objective: Objective, views: Sequence[Sequence[View]], draw: Draw) -> None:
    """Computes the terms of some samples, so that what cannot be compared is found before a run begins.

    Raises:
        UsageError: a term that cannot be had.
        DataError: the teacher's answers are not numbers.
    """
    if not isinstance(objective, Distilled):
        return
    modes = model.training, objective.training
    model.eval()
    objective.eval()
    for part, stores in zip(objective.alternatives, views, strict=True):
        for store, view in enumerate(stores[:1]):
            index = np.arange(min(len(view), _TRIED))
            batch = part.build_batch(view.read(index, store, 0, draw), draw, 0)
            terms = objective(cast(TrainableModel, model), batch) if len(index) else []
            taught = [term for term in terms if term.name.startswith(("soft_", "distil_"))]
            if taught and objective.distil.unlabelled and not any(term.count for term in taught):
                raise UsageError(
                    f"distil.unlabelled: {part.name} compares answers only where there are labels; set distil.hidden, "
                    "distil.relations or distil.vectors, or label the texts"
                )
            for term in taught:
                if not bool(term.sum.isfinite()):
                    raise DataError(
                        f"distil.teacher = {objective.distil.teacher}: {term.name} of the first samples is not a "
                        "number; name a teacher that predicts these texts well"
                    )
    model.train(modes[0])
    objective.train(modes[1])
