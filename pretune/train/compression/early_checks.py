"""What is wrong with a compression is said before its first step, which may take hours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pretune.compress.method import CompressionMethod
from pretune.errors import UsageError
from pretune.missing_paths import no_such_file
from pretune.models.model import LanguageModel
from pretune.train.compression.recipe import CompressRecipe, Step, whole_recipe, with_task

_INHERITED = ("task", "objective")


def check_needs(recipe: CompressRecipe, methods: Sequence[CompressionMethod]) -> None:
    """Refuses what is missing before any model is read."""
    for method in methods:
        wanted = method.needs()
        if wanted & {"calibration", "loss"} and not recipe.calibration.data:
            method.refuse("loss" if "loss" in wanted else "calibration")
        if "teacher" in wanted and recipe.teacher is None:
            method.refuse("teacher")
    _check_files((*recipe.calibration.data, *recipe.evaluation.data))


def check_order(methods: Sequence[CompressionMethod]) -> None:
    """Refuses a step that wants plain weights after one that rounds them.

    Raises:
        UsageError: there is such a step.
    """
    rounding: tuple[int, CompressionMethod] | None = None
    for number, method in enumerate(methods, 1):
        if rounding is not None and getattr(method.module, "WANTS_PLAIN", False):
            raise UsageError(
                f"compress[{number}]: {method.name} wants plain weights, and step {rounding[0]}, {rounding[1].name}, "
                f"rounds them; put {rounding[1].name} last, once"
            )
        if getattr(method.module, "ROUNDS", False):
            rounding = number, method


def check_training(
    recipe: CompressRecipe,
    steps: Sequence[Step],
    methods: Sequence[CompressionMethod],
    model: LanguageModel,
    folder: Path,
) -> None:
    """Refuses training runs whose fields do not fit, or whose files are not there.

    Those of a method that adds fields of its own are checked when it has given them.

    Args:
        folder: of the model.

    Raises:
        UsageError: a field does not fit.
        MissingInputError: a file that is not there.
    """
    inherited: dict[str, Any] = {}
    for step, method in zip(steps, methods, strict=True):
        named = {name: step.training[name] for name in _INHERITED if name in step.training}
        if step.training and not hasattr(method.module, "training"):
            fields = with_task(model, step, {} if named else inherited)
            whole = whole_recipe(step, fields, folder, Path(recipe.output), recipe)
            if not whole.task and not whole.objective:
                raise UsageError(
                    f"compress.{method.name}.training: fields 'objective' and 'task' are missing, and the model's "
                    "files name no task; name one, such as --objective mlm"
                )
            _check_files((*whole.data.train, *whole.data.validation, *whole.data.stores))
        inherited = named or inherited


def _check_files(names: Iterable[str]) -> None:
    for name in names:
        if not any(letter in name for letter in "*?[") and not Path(name).exists():
            raise no_such_file(name)
