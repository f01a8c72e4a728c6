"""Reads the weights of a step of a run, finished or not: a checkpoint, on the model that the run began with.

A run directory keeps `initial/`, the model as it was before the first step with its tokenizer, and `checkpoint-N/`,
whose `model.safetensors` holds what learned under our own names.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from pretune.disk import problem
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.interop.adapter_files import CONFIG, is_adapter
from pretune.interop.deltas import RECORD, is_delta
from pretune.interop.run_names import (
    FACTS,
    INITIAL,
    MODEL,
    RECIPE,
    STATE,
    checkpoint_path,
    checkpoint_step,
    checkpoint_steps,
)
from pretune.missing_paths import no_such_folder
from pretune.models.model import LanguageModel
from pretune.new_folder import refuse_cut_off
from pretune.nn.vocabulary import SubsetEmbedding, Vocabulary
from pretune.seals import read_facts
from pretune.text.tokenizer.files import TOKENIZER_FILES
from pretune.text.tokenizer.folder import transformer_folder

Step = Literal["best", "last"] | int
_ROW_OF = "embedding.word.row_of"


@dataclass(frozen=True)
class StepOfRun:
    """Names a checkpoint.

    Attributes:
        run: the run directory.
        step: of the checkpoint.
    """

    run: Path
    step: int

    @property
    def path(self) -> Path:
        """The folder of the checkpoint."""
        return checkpoint_path(self.run, self.step)

    @property
    def initial(self) -> Path:
        """The folder of the model that the run began with.

        Raises:
            MissingInputError: there is none.
        """
        if not (self.run / INITIAL).is_dir():
            raise MissingInputError(
                f"{self.run / INITIAL}: not there; a checkpoint is read on top of the model that its run began with, "
                "which is kept there (but of one that was built from random weights and then changed by tune)"
            )
        return self.run / INITIAL


def choose_step(path: Path, step: Step | None = None) -> StepOfRun | None:
    """The checkpoint that a path and a step mean; None for the finished model, or for a folder that is no run's.

    Args:
        path: a run directory, or the folder of a checkpoint.
        step: `best` by the run's metric, `last`, or its number; None for the finished model.

    Raises:
        UsageError: a step of a folder that is no run's, or `best` of a run that was never evaluated.
        MissingInputError: the run has no model yet, or not this checkpoint.
        DataError: the checkpoint is damaged.
    """
    own = checkpoint_step(path)
    if own is not None and (path / STATE).is_file():
        if step is not None:
            raise UsageError(f"{path}: is a checkpoint; a step is chosen of its run, {path.parent}")
        return _verified(StepOfRun(path.parent, own))
    if not (path / RECIPE).is_file():
        if step is not None:
            raise UsageError(f"step {step!r}: {path} is not the directory of a run; leave the step out")
        return None
    steps = checkpoint_steps(path)
    if step is None:
        if (path / "config.json").is_file() or (path / RECORD).is_file():
            return None
        _refuse_adapters(path)
        raise MissingInputError(f"{path}: this run has not finished and has no model yet; {_remedy(path, steps)}")
    if step == "last":
        return _newest(path, steps)
    if step == "best":
        best = _state(_newest(path, steps)).get("best_step")
        if best is None:
            raise UsageError(f"{path}: was not evaluated yet, so that no step is the best; use last or a number")
        step = int(best)
    if step not in steps:
        raise MissingInputError(f"{path}: has no checkpoint of step {step}; {_remedy(path, steps)}")
    return _verified(StepOfRun(path, step))


def check_is_model(path: Path, setting: str | None = None) -> None:
    """Refuses a path that is not there, or that holds something else than a model, a run or a checkpoint.

    Args:
        setting: the field that names it, where one does.

    Raises:
        MissingInputError: nothing is there, or no model.
        DataError: a writer of the folder was killed.
    """
    if not path.exists():
        refuse_cut_off(path)
        raise no_such_folder(path, "model", setting)
    subject = str(path) if setting is None else f"{setting} = {str(path)!r}"
    if path.is_file() and path.suffix != ".gguf":
        raise MissingInputError(f"{subject}: is a file and no model; name the folder of a model, or a .gguf file")
    if path.is_file() or is_delta(path) or is_adapter(path) or any((path / name).exists() for name in (RECIPE, STATE)):
        return
    if (transformer_folder(path) / "config.json").exists():
        return
    refuse_cut_off(path)
    if (path / "manifest.json").is_file():
        raise MissingInputError(f"{subject}: is a token store and no model; name the folder of a model")
    if any((path / name).is_file() for name in TOKENIZER_FILES):
        raise MissingInputError(f"{subject}: holds a tokenizer and no model (no config.json); name a model's folder")
    raise MissingInputError(f"{subject}: no model here (no config.json); name the folder of a model")


def check_has_model(path: Path) -> None:
    """Refuses a checkpoint, a run that has not finished and deltas, where the files of a whole model are read.

    Raises:
        MissingInputError: with the command that writes them.
    """
    if is_delta(path) or is_adapter(path):
        raise MissingInputError(
            f"{path}: holds what a tuning method learned ({RECORD if is_delta(path) else CONFIG}), and no whole model; "
            "write one first: "
            f"pretune merge {shlex.quote(str(path))} --output FOLDER"
        )
    _refuse_adapters(path)
    step: Step | None = checkpoint_step(path)
    if step is not None and (path / STATE).is_file():
        what, run = "a checkpoint", path.parent
    elif (path / RECIPE).is_file() and not ((path / "config.json").is_file() or (path / RECORD).is_file()):
        what, run, step = "a run that has not finished", path, "last"
    else:
        return
    raise MissingInputError(
        f"{path}: is {what} and no model yet; write its model first: pretune export {shlex.quote(str(run))} MODEL "
        f"--step {step}"
    )


def _refuse_adapters(run: Path) -> None:
    """Raises a MissingInputError for a run that gave each of its tasks an adapter, where one model is wanted."""
    if not (run / FACTS).is_file():
        return
    adapters = [run / name for name in read_facts(run / FACTS).get("adapters", {}) if is_delta(run / name)]
    if adapters:
        raise MissingInputError(
            f"{run}: each task of this run has a model of its own; name one of {', '.join(map(str, adapters))}"
        )


def describe_run(path: Path) -> list[str]:
    """What to know of the model in a run directory: nothing, or that the run went on since it finished."""
    facts = path / FACTS
    if not (path / RECIPE).is_file() or not facts.is_file():
        return []
    try:
        tree = read_facts(facts)
    except DataError as error:
        return [str(error)]
    before = None if "finished" in tree else tree.get("finished_before")
    if not isinstance(before, dict):
        return []
    newest = max(checkpoint_steps(path), default=0)
    return [
        f"{path}: the run went on after step {before.get('steps')} and has not finished again; this is its model of "
        f"step {before.get('weights_of_step')}, and --step last reads its newest checkpoint (step {newest})"
    ]


@torch.no_grad()
def fill_from_checkpoint(model: LanguageModel, checkpoint: StepOfRun) -> LanguageModel:
    """Puts what a checkpoint holds into the model that its run began with.

    Args:
        model: read from `checkpoint.initial`.

    Raises:
        DataError: the tensors are not this model's.
    """
    tensors = load_file(checkpoint.path / MODEL)
    own = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    row_of = own.pop(_ROW_OF, None)
    table = model.embedding.word
    if row_of is not None and isinstance(table, Vocabulary):  # the embedding learned on some tokens alone
        model.embedding.word = SubsetEmbedding(table, torch.nonzero(row_of >= 0).flatten())
    targets = {**dict(model.named_buffers()), **dict(model.named_parameters(remove_duplicate=False))}
    for name, tensor in own.items():
        if name not in targets or targets[name].shape != tensor.shape:
            raise DataError(
                f"{checkpoint.path / MODEL}: {name!r} of shape {list(tensor.shape)} is none of this model's"
            )
        targets[name].copy_(tensor)
    if isinstance(model.embedding.word, SubsetEmbedding):
        model.embedding.word = model.embedding.word.restore()
    model.extra_weights |= _objectives_own(checkpoint, tensors)
    return model


def _objectives_own(checkpoint: StepOfRun, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the objectives learned beside the model, by its name in a model's files."""
    names = read_facts(checkpoint.run / FACTS).get("own_weights", {})
    return {ours: tensors[name] for ours, name in names.items() if name in tensors}


def _state(checkpoint: StepOfRun) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((checkpoint.path / STATE).read_text(encoding="utf-8"))
    return tree


def _newest(run: Path, steps: list[int]) -> StepOfRun:
    """The newest checkpoint that verifies, as the run itself would go on from it."""
    for step in steps:
        if problem(StepOfRun(run, step).path) is None:
            return StepOfRun(run, step)
    raise MissingInputError(f"{run}: has no checkpoint that can be read; {_remedy(run, [])}")


def _verified(checkpoint: StepOfRun) -> StepOfRun:
    reason = problem(checkpoint.path)
    if reason is not None:
        raise DataError(f"{checkpoint.path}: {reason}; choose another step of {checkpoint.run}")
    return checkpoint


def _remedy(run: Path, steps: list[int]) -> str:
    go_on = "run the same command again to go on"
    if not steps:
        return f"it has no checkpoint yet; {go_on}"
    listed = ", ".join(map(str, sorted(steps)))
    one = f"name {run}/checkpoint-{max(steps)}"
    return f"its checkpoints are of the steps {listed}: use --step best, last or N, {one}, or {go_on}"
