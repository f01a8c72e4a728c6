"""Warns before the first step of what is likely to go wrong with a run, with the remedy.

Nothing here stops a run: what cannot work at all is refused where it is read.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pretune.find import variants
from pretune.nn.dropout import Dropout
from pretune.nn.rounded import rounded_bytes
from pretune.objectives.objective import Objective
from pretune.optim.optimizer import DEFAULT, Purpose
from pretune.runtime.memory import free_memory
from pretune.tasks.shared.sequence_task import SequenceTask
from pretune.tasks.task import AnyTask, Task
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded
from pretune.text.samples.views.view import View
from pretune.text.store.held_out import few_held_out
from pretune.text.store.store import TokenStore
from pretune.train.budget import Spent
from pretune.train.components import TrainComponents
from pretune.train.recipe import Recipe
from pretune.train.starting_point import tuning_method
from pretune.train.step import TrainModule
from pretune.wording import counted, listed

_FEW = 5  # examples of a label
_IMBALANCED = 0.9  # fraction of the commonest label
_REPEATS = 40  # passes over a corpus; Muennighoff et al. 2023 (arXiv 2305.16264) see no gain from about here on
_TOKENS = (512, 1 << 22)  # of a pretraining step: what published runs have
_USABLE = 0.9  # of the memory that is free
_FEW_STEPS = 50
_FEW_HELD_OUT = 100  # examples: of 100, one more right answer is a point of accuracy


def preflight(recipe: Recipe, components: TrainComponents, device: torch.device) -> list[str]:
    """Sentences for the user, each with what to do about it; none where all is as usual."""
    return [
        *([] if _is_chosen(components, "optimizer.lr") else _rate(recipe)),
        *_frozen(recipe),
        *_steps(recipe, components),
        *(_stores(recipe, components) if recipe.objective else []),
        *(_examples(components) if recipe.task else []),
        *_dropout(components),
        *_memory(components, device),
        *_disk(recipe, components),
    ]


def _is_chosen(components: TrainComponents, field: str) -> bool:
    """Whether a field was chosen from the data and the model: a default does not warn about itself."""
    return field in components.facts.get("chosen", {}).get("fields", {})


def _rate(recipe: Recipe) -> Iterator[str]:
    method = tuning_method(recipe)
    purpose: Purpose = "task" if recipe.task else "objective"
    if method.name == "frozen" or method.may_be_surgery:
        purpose = "heads" if method.name == "frozen" else "parts"
    optimizer = recipe.optimizer
    low, high = optimizer.usual_lr.get(purpose, (0.0, math.inf))
    rate = optimizer.lr
    if not low <= rate <= high:
        names = {"heads": "heads alone", "parts": "parts that surgery adds", "task": "fine-tuning"}
        what = names.get(purpose, "pretraining")
        what = what if optimizer.name == DEFAULT else f"{what} with {optimizer.name}"
        usual = f"what is usual for {what} ({low:g} to {high:g})"
        if rate < low:
            yield f"optimizer.lr {rate:g} is below {usual}; raise it if the loss plateaus"
        else:
            yield f"optimizer.lr {rate:g} is above {usual}; lower it if the loss plateaus"


def _frozen(recipe: Recipe) -> Iterator[str]:
    """A body that learned nothing before, and does not learn now."""
    method = tuning_method(recipe)
    if recipe.model.init is None and method.name != "full" and method.name in variants("tune"):
        yield (
            f"tune.{method.name} keeps weights as they are that were drawn at random; name a pretrained model with "
            "--model (model.init), or train all of it (--tune full)"
        )


def _steps(recipe: Recipe, components: TrainComponents) -> Iterator[str]:
    """Batches and passes out of the usual range."""
    data, sizes = recipe.data, [sum(map(len, views)) for views in components.views]
    samples = max(sizes, default=0) if components.objective.trains_all else sum(sizes)
    tokens = data.batch_tokens or (data.batch or 1) * min(data.length, _max_length(components))
    if recipe.objective and tokens < _TOKENS[0]:
        yield f"a step has {counted(tokens, 'token')} at most, which is few; raise data.batch or data.length"
    if recipe.objective and tokens > _TOKENS[1]:
        yield f"a step has {counted(tokens, 'token')} at most, which is many; lower data.batch or data.length"
    if data.batch is None:
        return
    repeats = all(part.repeats_in_step for part in components.objective.alternatives)
    epoch = samples / data.batch if repeats else math.ceil(samples / data.batch)
    budget = recipe.budget
    steps = budget.steps or max(budget.min_steps, math.ceil((budget.epochs or 0) * epoch))
    if samples < data.batch and not repeats:
        every = counted(samples, "sample")
        yield f"a step takes all {every}, as data.batch ({data.batch}) is more than there are; lower it"
    is_fitted = any(isinstance(task, SequenceTask) and task.config.fit_head for task in components.tasks)
    if 0 < steps < _FEW_STEPS and not is_fitted:
        yield (
            f"the run has {counted(steps, 'step')}, too few to learn; lower data.batch ({data.batch}) or raise the "
            "budget"
        )
    if recipe.objective and epoch and steps / epoch > _REPEATS:
        passes = f"{steps / epoch:.0f}"
        yield f"the run reads its {counted(samples, 'sample')} {passes} times over; add text, or shorten the budget"
    warm = recipe.schedule.warmup
    if recipe.objective and not warm and budget.fraction(Spent(steps=1)) < 1 and recipe.model.init is None:
        yield "schedule.warmup is 0, and training from scratch is unstable without warmup; 0.01 to 0.1 is usual"


def _max_length(components: TrainComponents) -> int:
    lengths = [int(v.lengths(np.arange(min(len(v), 4096))).max(initial=1)) for views in components.views for v in views]
    return max(lengths, default=1)


def _stores(recipe: Recipe, components: TrainComponents) -> Iterator[str]:
    stores = components.data_stats.get("stores", {})
    for path, data_stats in stores.items():
        duplicates, read = data_stats.get("duplicate", 0), data_stats.get("documents", 0)
        if read and duplicates / read > 0.3:
            yield f"{path}: {duplicates:,} of {counted(read, 'document')} left out as duplicates; is it read twice?"
    for windows, data_stats in components.data_stats.get("windows", {}).items():
        cut, tokens = data_stats.get("cut", 0), data_stats.get("tokens", 0)
        if tokens and cut / tokens > 0.1:
            path = windows.partition(":")[2]
            yield f"{path}: {cut / tokens:.0%} of the tokens are cut off and never read; raise data.length"
    if recipe.evaluation.samples != 0:
        for path in recipe.data.stores:
            yield from few_held_out(TokenStore.open(path))
    if not any(components.held_out) and recipe.evaluation.samples != 0:
        yield "no text is held out, so that overfitting shows nowhere; prepare the store with validation = 0.01"


def _examples(components: TrainComponents) -> Iterator[str]:
    """Labels, duplicates and leaks between training and validation data of each task."""
    is_several = len(components.tasks) > 1
    parts = zip(components.objective.alternatives, components.views, components.held_out, strict=True)
    for part, train, held in parts:
        if isinstance(part, Task):
            of_task = _examples_of_task(part, train, held)
            yield from (f"{part.name}: {finding}" for finding in of_task) if is_several else of_task


def _examples_of_task(task: AnyTask, train_views: Sequence[View], held_views: Sequence[View]) -> Iterator[str]:
    train = [view for view in train_views if isinstance(view, ExampleView)]
    held = [view for view in held_views if isinstance(view, ExampleView)]
    rows = [row for view in train for row in view.rows]
    labels = getattr(task, "labels", None)
    yield from _labels(rows, labels if isinstance(labels, list) else [])
    targets_of: dict[tuple[bytes, str], bytes | None] = {}
    twice = contrary = 0
    for key, row in ((view.content(row), row) for view in train for row in view.rows):
        targets = None if row.targets is None else row.targets.tobytes()
        if key in targets_of:
            twice += 1
            contrary += targets_of[key] != targets
        targets_of.setdefault(key, targets)
    if contrary:
        yield f"the same text with different labels: {counted(contrary, 'training example')}; look at the labels"
    if twice > 0.05 * len(rows):
        yield f"duplicates: {twice:,} of {counted(len(rows), 'training example')}; leave the copies out"
    total = len({row.example for view in held for row in view.rows})
    if 0 < total < _FEW_HELD_OUT:
        yield (
            f"the validation data are {counted(total, 'example')}, each {1 / total:.1%} of the score, so that a "
            "difference may be chance; label more, or move some of the training data there"
        )
    leaked = sum(view.content(row) in targets_of for view in held for row in view.rows)
    if leaked:
        total = sum(len(view) for view in held)
        yield (
            f"{leaked:,} of {counted(total, 'validation example')} also in the training data, so that scores will be "
            "too good; remove them from one"
        )


def _labels(rows: Sequence[Encoded], names: Sequence[str]) -> Iterator[str]:
    """Labels that are rare or lopsided, where each row has one."""
    labels = Counter(int(row.targets) for row in rows if row.targets is not None and row.targets.ndim == 0)
    if not labels or not names:
        return
    if len(names) == len(rows) > _FEW:
        yield (
            f"each of the {len(rows):,} training examples has a label of its own, so that there is nothing to learn; "
            "is it the right column (--label)?"
        )
        return
    rare = [repr(names[n]) for n in range(len(names)) if labels[n] < _FEW]
    if rare:
        yield (
            f"fewer than {_FEW} examples: {len(rare):,} of {counted(len(names), 'label')} ({listed(rare)}); add some, "
            "or merge labels"
        )
    common, count = labels.most_common(1)[0]
    if count / len(rows) > _IMBALANCED:
        yield (
            f"{count / len(rows):.0%} of the examples are {names[common]!r}: accuracy says little; "
            "look at macro F1 (evaluation.metric), or set task.classification.class_weights = balanced"
        )


def _dropout(components: TrainComponents) -> Iterator[str]:
    parts = [part for part in components.objective.modules() if isinstance(part, Objective) and part.dropout]
    if parts and not any(m.p for m in components.model.modules() if isinstance(m, Dropout)):
        yield f"{parts[0].name} learns from dropout alone, and this model has none; set model.dropout = 0.1"


def _memory(components: TrainComponents, device: torch.device) -> Iterator[str]:
    """Weights, gradients and two means of each, against what is free; activations come on top."""
    weights, trained = _bytes(components)
    needed, free = weights + 3 * trained, free_memory(device)
    already = weights if device.type == "cpu" else 0  # they are in memory now
    if free is not None and needed - already > _USABLE * free:
        yield (
            f"weights, gradients and the optimizer need {needed / 1e9:.1f} GB before any activation, and "
            f"{free / 1e9:.1f} GB are free; use a smaller model, or tune fewer weights"
        )


def _bytes(components: TrainComponents) -> tuple[int, int]:
    """Of all weights, and of those that are trained."""
    root: nn.Module = TrainModule(components.model, components.objective)
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in root.parameters()]
    return sum(size for size, _ in sizes) + rounded_bytes(root), sum(size for size, trained in sizes if trained)


def _disk(recipe: Recipe, components: TrainComponents) -> Iterator[str]:
    """Checkpoints that are kept, the one being written, the first and the finished model, against the free space."""
    weights, trained = _bytes(components)
    checkpoint = weights + 2 * trained
    config = recipe.checkpoint
    needed = checkpoint * (config.keep + 1 + bool(config.best)) + 2 * weights
    folder = Path(recipe.output).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > _USABLE * free:
        yield (
            f"checkpoints and the model need {needed / 1e9:.1f} GB in {os.fspath(folder)}, and {free / 1e9:.1f} GB are "
            "free; free some space, lower checkpoint.keep, or give another --output"
        )
