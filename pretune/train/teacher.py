"""What a run does with its teacher beside learning from it: keeps its answers, scores it, trains without it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

from pretune.compress.distil import Distilled
from pretune.compress.distillation.config import DistilConfig
from pretune.disk import replace_file
from pretune.errors import UsageError
from pretune.interop.run_names import FACTS, GROWING
from pretune.models.boundary import Boundary
from pretune.nn.model_protocol import TrainableModel
from pretune.objectives.root_module import RootModule
from pretune.runtime.precision import fingerprint
from pretune.seals import read_facts, sealed_json
from pretune.train.components import TrainComponents
from pretune.train.context import TrainContext
from pretune.train.directory import RunDirectory
from pretune.train.feature_cache import CachedModel, FeatureCache
from pretune.train.feature_plan import bytes_needed, changing_inputs, is_evaluated, no_room, passes, size_text
from pretune.train.recipe import Recipe

ANSWERS = "teacher-answers"
BASELINE = "without-teacher"
_log = logging.getLogger("pretune")


class TeacherAnswers:
    """The teacher's answers on the disk, while a run lasts.

    Args:
        cache: None where they are computed each time.
    """

    def __init__(self, cache: FeatureCache | None = None) -> None:
        self.cache = cache

    def drop(self) -> None:
        """Removes them."""
        if self.cache is not None:
            self.cache.drop()


def plan_answers(recipe: Recipe, components: TrainComponents, context: TrainContext) -> TeacherAnswers:
    """Lets the teacher answer once a sample where that can be, and says what it needs on the disk.

    What is kept is what its heads read, so that answers are exact, whatever the head; heads run each time.

    Raises:
        UsageError: the recipe wants them kept, and they cannot be.
    """
    objective = components.objective
    if not isinstance(objective, Distilled) or recipe.distil.cache == "never":
        return TeacherAnswers()
    teacher = objective.teacher.model
    evaluated = is_evaluated(recipe, components)
    reason = _obstacle(recipe, components, context, is_evaluated=evaluated)
    size = 0.0
    if reason is None:
        place = Boundary("body")
        size = bytes_needed(recipe, components, teacher, place, training=True, evaluation=evaluated)
        reason = no_room(recipe, size)
    if reason is not None:
        if recipe.distil.cache == "always":
            raise UsageError(f"distil.cache = always: {reason}; set it to auto, or change that")
        context.display.note(f"the teacher answers each time: {reason}")
        return TeacherAnswers()
    facts = {**fingerprint(context.device, context.precision, 1), "attention": recipe.model.attention}
    cache = FeatureCache(Path(recipe.output) / ANSWERS, facts, training=False, evaluation=True)
    objective.keep_answers(cast(TrainableModel, CachedModel(teacher, cache)), cache.publish)
    context.display.note(
        f"the teacher answers once a sample; what its heads read is kept in {cache.folder} until the run ends, about "
        f"{size_text(size)} (distil.cache = never: each time)"
    )
    return TeacherAnswers(cache)


def _obstacle(recipe: Recipe, components: TrainComponents, context: TrainContext, *, is_evaluated: bool) -> str | None:
    """Why answers cannot be kept; None where they can."""
    layers = sorted(recipe.distil.weights.keys() - {"soft", "vectors"})
    if layers:
        return f"distil.{layers[0]} compares layers, which are too large to be kept"
    if context.distributed.size > 1:
        return "several ranks train"
    if recipe.data.length_warmup:
        return "data.length_warmup cuts samples anew"
    if (reason := changing_inputs(recipe, components)) is not None:
        return reason
    return None if passes(recipe, components) > 1 or is_evaluated else "the run reads each sample once"


def record_teacher(components: TrainComponents, context: TrainContext, directory: RunDirectory | None) -> None:
    """Scores the teacher on the run's validation data, and keeps that with the student's score."""
    objective, validation = components.objective, context.validation
    if not isinstance(objective, Distilled) or validation is None:
        return
    teacher, inner = objective.teacher.model, objective.objective
    if any(role not in teacher.heads for role in components.model.heads):
        return  # it has another task, and was asked for its layers alone
    root = RootModule(teacher.to(context.device), inner.to(context.device))
    scores = validation.measure(root, inner, context.device, context.precision, context.distributed)
    teacher.eval()
    if directory is None or scores is None:
        return
    metric = validation.metric
    student, value = _score_of(directory.path, metric, context.recipe), scores.get(metric)
    record = {"folder": objective.distil.teacher, "metric": metric, "scores": scores, "student": student}
    directory.write(FACTS, {**directory.facts(), "teacher": record})
    if student is not None and value is not None:
        context.display.note(f"validation {metric}: teacher {value:.4f}, student {student:.4f}")


def _score_of(run: Path, metric: str, recipe: Recipe) -> float | None:
    """The score of the weights that a finished run kept; None where they were not evaluated."""
    if recipe.evaluation.keep != "last":
        finished = read_facts(run / FACTS).get("finished", {})
        value = finished.get("averaged", {}).get(metric, finished.get("best"))
        return value if isinstance(value, float) else None
    with (run / GROWING[0]).open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if f'"eval/{metric}"' in line]
    return float(lines[-1][f"eval/{metric}"]) if lines else None


def baseline_recipe(recipe: Recipe) -> Recipe | None:
    """The same run without its teacher, where the recipe wants one."""
    distil = recipe.distil
    if not distil.is_on or not distil.baseline:
        return None
    plain = DistilConfig(student=distil.student)
    return recipe.model_copy(update={"output": str(Path(recipe.output) / BASELINE), "distil": plain})


def compare_baseline(run: Path, plain: Path, recipe: Recipe) -> None:
    """Says and keeps how good teacher, student and the same student without a teacher are."""
    facts = read_facts(run / FACTS)
    record: Any = facts.get("teacher")
    if not isinstance(record, dict):
        return
    metric = str(record["metric"])
    scores = {
        "teacher": record["scores"].get(metric),
        "student": record["student"],
        "without teacher": _score_of(plain, metric, recipe),
    }
    facts["teacher"] = {**record, "without_teacher": scores["without teacher"]}
    replace_file(run / FACTS, sealed_json(facts))
    _log.info("validation %s: %s", metric, ", ".join(f"{n} {v:.4f}" for n, v in scores.items() if v is not None))
