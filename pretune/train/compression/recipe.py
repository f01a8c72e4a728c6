"""The recipe of a compression: a model, steps in order, and the data on which it is calibrated and measured.

model = "bert"
output = "small"

[calibration]
data = ["labels.csv"]

[[compress]]
method = "prune"
layers = 0.33

[compress.training]        # fields of a recipe: the pruned model is trained again
task = "classification"
data = {train = ["labels.csv"]}

[[compress]]
method = "quantize"
format = "q4_0"
values = "gptq"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from pretune import config
from pretune.compress.calibration import CalibrationConfig, Paths
from pretune.config.field_names import FieldNames
from pretune.errors import UsageError
from pretune.find import find
from pretune.models.model import LanguageModel
from pretune.train.recipe import Recipe


class EvaluationTable(config.Config):
    """On which data the model is measured before and after.

    Attributes:
        data: held-out text files, labelled files of the model's task, or a token store, whose validation split is read;
            by default that of the calibration store.
        speed: whether the speed of both is compared, which takes some seconds.
    """

    data: Paths = ()
    speed: bool = True


class CompressRecipe(config.Config):
    """A compression.

    Attributes:
        model: folder of the model.
        output: folder of the result: a new or an empty one.
        compress: steps in order: each a table with method, fields of that method, and perhaps training, fields of the
            recipe of a run that follows.
        teacher: folder of a model to learn from, for methods that have one.
        seed: seeds every random decision.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: dtype of matmuls.
        threads: number of CPU threads.
    """

    SHORT_NAMES: ClassVar[Mapping[str, str]] = {"calibration": "calibration.data", "evaluate": "evaluation.data"}
    FOREIGN_NAMES: ClassVar[Mapping[str, str]] = {"output_dir": "output", "out": "output", "eval": "evaluate"}

    model: str
    output: str
    compress: tuple[dict[str, Any], ...] = Field(min_length=1)
    teacher: str | None = None
    seed: int = Field(0, ge=0, lt=2**63)
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = Field(None, ge=1)
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig)
    evaluation: EvaluationTable = Field(default_factory=EvaluationTable)

    @property
    def steps(self) -> list[Step]:
        """The steps, with the method's fields apart from those of a training run.

        Raises:
            UsageError: a step without a method, or whose training is no table.
        """
        return [_step(table, number) for number, table in enumerate(self.compress, 1)]


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        method: file name of the method, or path of a user's own file.
        settings: fields of its configuration.
        training: fields of a recipe; none where nothing is trained.
    """

    method: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any]


def _step(table: Mapping[str, Any], number: int) -> Step:
    method, training = table.get("method"), table.get("training", {})
    if not isinstance(method, str) or not method:
        raise UsageError(f"compress[{number}]: field 'method' is missing; name one, such as quantize")
    if not isinstance(training, Mapping):
        raise UsageError(f"compress[{number}]: field 'training' = {training!r}: expected a table of a recipe's fields")
    settings = {name: value for name, value in table.items() if name not in ("method", "training")}
    return Step(method, settings, training)


def split_words(method: str, words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Sorts the flags of a command line: those of a compression, of a method, and of a training run after it.

    Raises:
        UsageError: no such method, or a word before the first flag.
        MissingInputError: a path to a user's own file that does not exist.
    """
    own = config.names_of(CompressRecipe)
    fields = config.names_of(find("compress", method).Config)
    sorted_words: tuple[list[str], list[str], list[str]] = ([], [], [])
    target: list[str] | None = None
    for written in words:
        word = written.replace(f"--{method}.", "--", 1) if written.startswith(f"--{method}.") else written
        if word.startswith("--") and len(word) > 2:
            name = word[2:].partition("=")[0].replace("-", "_")
            target = sorted_words[0 if _has(own, name) else 1 if _has(fields, name) else 2]
        if target is None:
            raise UsageError(f"{word!r}: expected pretune compress METHOD MODEL --flag value")
        target.append(word)
    return sorted_words


def _has(names: FieldNames, name: str) -> bool:
    plain = [name, name.removeprefix("no_")]
    return any(each in names.short or each in names.fields or each.split(".")[0] in _tables(names) for each in plain)


def _tables(names: FieldNames) -> set[str]:
    return {name.split(".")[0] for name in names.sections | names.tables}


def read_words(method: str, model: str, words: Sequence[str]) -> CompressRecipe:
    """Makes a recipe of a command line.

    Raises:
        UsageError: an unknown flag, with the nearest one, or a value that does not fit.
        MissingInputError: a path to a user's own method that does not exist.
    """
    own, of_method, of_training = split_words(method, words)
    step: dict[str, Any] = {"method": method}
    step |= config.parse_overrides(of_method, config.names_of(find("compress", method).Config))
    if of_training:
        try:
            step["training"] = config.parse_overrides(of_training, config.names_of(Recipe))
        except UsageError as error:
            raise UsageError(f"{error} (as a field of compress, of {method}, or of a training run)") from None
    return config.load(CompressRecipe, None, own, {"model": model, "compress": [step]}, "compress")


def recipe_of_call(
    model: str,
    steps: Sequence[str | Mapping[str, Any]],
    output: str,
    common: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> CompressRecipe:
    """Makes a recipe of a Python call.

    Args:
        common: calibration and evaluation data.
        fields: of the compression by their dotted names, or of the method of the only step.

    Raises:
        UsageError: no step, fields beside several steps, or a field that nothing has.
    """
    tables = [dict(step) if isinstance(step, Mapping) else {"method": step} for step in steps]
    own = config.names_of(CompressRecipe)
    tree: dict[str, Any] = {"model": model, "output": output}
    for name in ("calibration", "evaluation"):
        value = common[name]
        tree[name] = {"data": [str(value)] if isinstance(value, str | Path) else [str(each) for each in value]}
    for name, value in fields.items():
        if name in own.fields:
            branch: dict[str, Any] = {name.rpartition(".")[2]: value}
            for parent in reversed(name.split(".")[:-1]):
                branch = {parent: branch}
            tree = config.merge(tree, branch)
        elif len(tables) == 1:
            tables[0][name] = value
        else:
            raise UsageError(f"compress: field {name!r}: of which step? write it into the table of that step")
    return config.validate(CompressRecipe, {**tree, "compress": tables}, "compress")


def whole_recipe(step: Step, more: Mapping[str, object], model: Path, output: Path, base: CompressRecipe) -> Recipe:
    """The recipe of the training run of a step.

    Args:
        more: fields that the method gives.
        model: folder of the model after surgery.
        output: the run directory.

    Raises:
        UsageError: fields that do not fit.
    """
    tree = config.merge(dict(step.training), more)
    tree = config.merge(tree, {"model": {"init": str(model)}, "output": str(output)})
    defaults = {"seed": base.seed, "device": base.device, "precision": base.precision, "threads": base.threads}
    tree = {**{name: value for name, value in defaults.items() if value is not None}, **tree}
    return config.validate(Recipe, tree, f"compress.{step.method}.training")


def with_task(model: LanguageModel, step: Step, more: dict[str, Any]) -> dict[str, Any]:
    """Fields of a training run, with the task that the model was trained for where none is named."""
    named = {*step.training, *more}
    recorded = model.metadata.task
    if "task" in named or "objective" in named or recorded is None or model.metadata.tasks:
        return more
    columns = {name: value for name, value in recorded.columns.items() if value is not None}
    own = {"columns": columns} | ({} if recorded.length is None else {"length": recorded.length})
    data = {name: value for name, value in own.items() if name not in step.training.get("data", {})}
    return config.merge({"data": data, "task": {recorded.name: {}}}, more)
