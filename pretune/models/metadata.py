"""Records what a saved model says of itself beyond its weights: family, objectives, task and heads.

A record names a variant of an axis by its name in the tree, or a user's own by the absolute path of its file or by its
module, together with the digest of that file. `pretune.interop.metadata` writes records into `config.json` and reads
them back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, field_validator

from pretune.config import Config
from pretune.disk import sha256
from pretune.errors import MissingInputError
from pretune.wording import counted, listed

VERSION = 1
ROLE = r"[A-Za-z][A-Za-z0-9_]{0,63}"
HeadSource = Literal["standard", "task", "objectives", "unknown"]
"""Who makes a head: the table of standard heads, the recorded task or objectives, or code that is not recorded."""
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass
class Loaded:
    """What happened when a model's files were read.

    Attributes:
        initialised: our names of weights that the files lack and that got initial values.
        unexpected: names in the files that the model has no place for.
        notes: sentences for the log.
        training_notes: sentences for the log of training alone.
    """

    initialised: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    training_notes: list[str] = field(default_factory=list)

    def messages(self, *, training: bool = False) -> list[str]:
        """All that the user should know, in sentences.

        Args:
            training: the model will be trained.
        """
        out = [*self.notes, *(self.training_notes if training else ())]
        if self.initialised:
            out.append(f"newly initialized, not in the model's files: {describe_weights(self.initialised)}")
        if self.unexpected:
            out.append(f"not used of the model's files: {describe_weights(self.unexpected)}")
        return out

    def record(self) -> dict[str, list[str]]:
        """The names of the weights that messages only count, for the facts of a run."""
        names = {"newly_initialized": self.initialised, "not_used": self.unexpected}
        return {name: list(weights) for name, weights in names.items() if weights}


def describe_weights(names: Sequence[str]) -> str:
    """How many weights these are and of which parts of the model; a single one by its name.

    Args:
        names: such as `heads.classification.linear.weight`, whose part is `heads.classification`.
    """
    if len(names) == 1:
        return f"1 weight ({names[0]})"
    parts = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
    return f"{counted(len(names), 'weight')} ({listed(parts, 3)})"


class VariantRecord(Config):
    """Records a variant of an axis, and how it was configured.

    Attributes:
        name: of a file in the tree; the absolute path of a user's file; or a module, such as `package.module`. The
            last two may end with `:Class`.
        sha256: of the user's file.
        config: its settings.
    """

    name: str = Field(min_length=1, max_length=4096)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    config: dict[str, JsonValue] = Field(default_factory=dict)

    @classmethod
    def of(cls, name: str, config: Mapping[str, JsonValue] | None = None) -> Self:
        """Records a variant that is named as `pretune.find.find` takes it.

        Raises:
            MissingInputError: a user's file or module that does not exist.
        """
        return cls.model_validate({"name": absolute(name), "sha256": digest(name), "config": dict(config or {})})


class RoundedPlaces(VariantRecord):
    """Records which matrices of a model are rounded to a format of `nn/formats/`.

    Attributes:
        layout: version of how the format's tensors are laid out in the files.
        inputs: whether these matrices read their rows as they are, or rounded to 8 or 7 bits by 32.
        places: paths of the matrices in the model.
    """

    layout: int = Field(1, ge=1)
    inputs: Literal["exact", "int8", "int7"] = "exact"
    places: tuple[str, ...] = Field((), max_length=1 << 16)


class TaskRecord(VariantRecord):
    """Records the task that a model was trained for.

    Attributes:
        columns: how a labelled file was read.
        length: tokens that an example may have, special ones included.
    """

    columns: dict[str, JsonValue] = Field(default_factory=dict)
    length: int | None = Field(None, ge=1, le=2**24)

    @field_validator("columns", mode="before")
    @classmethod
    def _new_names(cls, columns: object) -> object:
        """Reads models whose columns were recorded as `text_column` and so on."""
        if not isinstance(columns, Mapping):
            return columns
        return {name.removesuffix("_column") if isinstance(name, str) else name: columns[name] for name in columns}


class Metadata(Config):
    """Holds what a model says of itself.

    Attributes:
        version: of this form.
        family: None for the one that `model_type` says.
        objectives: on which it was pretrained, in the order of the recipe.
        task: for which it was fine-tuned; of several, the one whose head has the names that others know.
        tasks: by name, where it was fine-tuned for tasks that have names.
        heads: role to who makes that head; filled in when the model is saved.
        base: fingerprint of the weights that the files' deltas belong to.
        rounded: which matrices are rounded, None where none is; filled in when the model is saved.
    """

    version: int = Field(VERSION, ge=1)
    family: VariantRecord | None = None
    objectives: tuple[VariantRecord, ...] = Field((), max_length=64)
    task: TaskRecord | None = None
    tasks: dict[str, TaskRecord] | None = Field(None, max_length=256)
    heads: dict[str, HeadSource] = Field(default_factory=dict, max_length=256)
    base: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    rounded: tuple[RoundedPlaces, ...] | None = Field(None, max_length=256)

    def task_of(self, name: str | None) -> TaskRecord | None:
        """The record of the task of this name; of the only one, or the first, where there is none of it."""
        return (self.tasks or {}).get(name or "", self.task)

    def with_settings(self, name: str, settings: Mapping[str, JsonValue]) -> Metadata:
        """The same with other settings of a task: of the one of this name, or of the only one that there is."""
        record = self.task_of(name)
        if record is None:
            return self
        changed = record.model_copy(update={"config": {**record.config, **settings}})
        tasks = self.tasks and {**self.tasks, name: changed}
        return self.model_copy(update={"task": changed if record is self.task else self.task, "tasks": tasks})

    @property
    def text_column(self) -> str:
        """The column of the texts in the task's training, else "text"."""
        return str(self.task.columns.get("text", "text")) if self.task else "text"


def absolute(name: str) -> str:
    """Returns the name of a variant, with the path of a user's file made absolute."""
    path, colon, wanted = name.partition(":")
    return f"{Path(path).resolve()}{colon}{wanted}" if path.endswith(".py") else name


def digest(name: str) -> str | None:
    """Returns the SHA-256 of a user's file; None for a variant in the tree.

    Raises:
        MissingInputError: no such file or module.
    """
    path = source_file(name)
    return None if path is None else sha256(path)


def source_file(name: str) -> Path | None:
    """Returns the file of a user's variant, found without importing anything; None for a variant in the tree.

    Raises:
        MissingInputError: no such file or module.
    """
    target = name.partition(":")[0]
    if target.endswith(".py"):
        if not Path(target).is_file():
            raise MissingInputError(f"{target}: no such file")
        return Path(target)
    return _module_file(target) if _MODULE.fullmatch(target) else None


def _module_file(module: str) -> Path:
    """Returns the file that a module would be imported from."""
    spec, path, name = None, None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            raise MissingInputError(f"{module}: no such module; install its package, or start Python where it is found")
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise MissingInputError(f"{module}: a module without a source file")
    return Path(spec.origin)
