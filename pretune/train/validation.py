"""Validation during training: which batches each rank evaluates, and its losses and scores over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.evaluate.engine import join_rows, join_scores, run_batches
from pretune.objectives.objective import Objective
from pretune.runtime.distributed import Distributed
from pretune.runtime.precision import Precision
from pretune.tasks.task import AnyTask, Example, RowBatch, Task
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Row
from pretune.text.samples.sampler import iterate_once, partition
from pretune.text.samples.views.view import View
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.checkpoint.state import means
from pretune.train.prefetch import add
from pretune.train.step import TermAccumulator


@dataclass
class ValidationBatches:
    """The batches that this rank evaluates, as many as every other: what wraps a model may speak with all at each one.

    Attributes:
        batches: of this rank; the last is evaluated for company alone where `is_padded`.
        rows: of each batch of all ranks, in order; None for batches of an objective.
        parts: of the objective, which of them each batch of all ranks is for.
        is_padded: the last batch is another rank's.
    """

    batches: list[Batch | RowBatch]
    rows: list[Sequence[Row] | None]
    parts: list[int] = field(default_factory=list)
    is_padded: bool = False

    def rows_of_part(self, part: int) -> list[Sequence[Row] | None]:
        """The rows of each batch of all ranks that is for a part of the objective; None for other batches."""
        return [rows if owner == part else None for rows, owner in zip(self.rows, self.parts, strict=True)]


@dataclass
class Scoring:
    """A task's scores on labelled examples.

    Attributes:
        examples: all that were encoded.
        rows: of each batch of all ranks, in order; None for those of an objective or of another task.
    """

    task: AnyTask
    examples: Sequence[Example]
    rows: Sequence[Sequence[Row] | None]

    def scores(self, answers: Sequence[Sequence[Any]], distributed: Distributed) -> dict[str, float]:
        """The scores of the answers of all ranks.

        Args:
            answers: of each batch of this rank.
        """
        ranks = distributed.all_gather_pickled(list(answers))
        ordered = [
            answer
            for n, part in enumerate(self.rows)
            if part is not None
            for answer in ranks[n % distributed.size][n // distributed.size]
        ]

        def score() -> dict[str, float]:
            rows = [row for part in self.rows if part is not None for row in part]
            predictions, examples = join_rows(self.task, self.examples, rows, ordered)
            return self.task.score(predictions, examples)

        return distributed.broadcast(distributed.on_main(score)) or {}


@dataclass
class SeveralScorings:
    """The scores of several tasks, each under its name, and the mean of their main ones.

    Attributes:
        parts: one for each task that has validation data.
    """

    parts: Sequence[Scoring]

    def scores(self, answers: Sequence[Sequence[Any]], distributed: Distributed) -> dict[str, float]:
        """The scores of the answers of all ranks; see `Scoring.scores`."""
        by_task = {part.task.name: part.scores(answers, distributed) for part in self.parts}
        return join_scores(by_task, {part.task.name: part.task.metric_of(part.examples) for part in self.parts})


@dataclass
class Validation:
    """What evaluation looks at.

    Attributes:
        data: the batches.
        tokenizer: of the model.
        metric: by which evaluations are compared: `loss`, or a name that evaluation gives.
        scoring: a task's further metrics.
        is_metric_chosen: the recipe names the metric, so it may be one that does not exist.
        adapter_metrics: by which evaluations of each adapter are compared, where tasks have their own.
    """

    data: ValidationBatches
    tokenizer: Tokenizer
    metric: str = "loss"
    scoring: Scoring | SeveralScorings | None = None
    is_metric_chosen: bool = False
    adapter_metrics: Mapping[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def measure(
        self,
        root: nn.Module,
        objective: Objective,
        device: torch.device,
        precision: Precision,
        distributed: Distributed,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """Losses and scores over all ranks.

        Args:
            root: the root module as the loop calls it, wrapped or not.
            stop: called before every batch; if it is true, the result is None.
        """

        def context() -> AbstractContextManager[object]:
            return precision.autocast(device)

        accumulator = TermAccumulator()
        counts: dict[str, int] = {}
        answers: list[Sequence[Any]] = []
        root.eval()
        try:
            if stop():
                return None
            results = run_batches(root, self.data.batches, self.tokenizer, device, context)
            for number, result in enumerate(results, 1):
                if self.data.is_padded and number == len(self.data.batches):
                    continue
                add(counts, objective.counts(result.batch))
                accumulator.add(result.terms)
                answers.append(result.answers)
                if number < len(self.data.batches) and stop():
                    return None
            metrics = self._means(accumulator, counts, distributed)
            return metrics if self.scoring is None else metrics | self.scoring.scores(answers, distributed)
        finally:
            root.train()

    @staticmethod
    def _means(accumulator: TermAccumulator, counts: dict[str, int], distributed: Distributed) -> dict[str, float]:
        total: dict[str, int] = {}
        weights: dict[str, float] = {}
        for rank_counts in distributed.all_gather_object(counts):
            add(total, rank_counts)
        for rank_weights in distributed.all_gather_object(accumulator.weights):
            weights |= rank_weights
        result = accumulator.read(sorted(total), distributed)
        return means(result.sums, total, result.correct, weights)


def prepare_validation(
    objective: Objective,
    views: Sequence[Sequence[View]],
    draw: Draw,
    batch_tokens: int,
    samples: int | None,
    distributed: Distributed,
) -> ValidationBatches:
    """This rank's batches of the evaluation set.

    Args:
        views: for each part of the objective, the validation view of each store.
        draw: the key; which samples, and what is hidden in them, follow from it.
        batch_tokens: tokens of a batch.
        samples: how many in all, None for every one; of a task whose examples have many rows, how many examples.
    """
    groups = len(objective.alternatives) * max(len(stores) for stores in views)
    limit = None if samples is None else -(-samples // groups)
    batches: list[tuple[int, Sequence[Row]]] = []
    for part, stores in enumerate(views):
        for store, view in enumerate(stores):
            chosen, at_most = _whole_examples(view, limit, draw)
            batches += [
                (part, partition(rows, 1)[0])  # equal lengths together
                for rows in iterate_once(chosen, draw, batch_tokens, store, at_most)
            ]
    own = list(range(distributed.rank, len(batches), distributed.size))
    is_padded = len(own) < -(-len(batches) // distributed.size)
    built: list[Batch | RowBatch] = []
    for n in [*own, 0] if is_padded else own:
        member, rows = objective.alternatives[batches[n][0]], batches[n][1]
        built.append(member.build_rows(rows, draw) if isinstance(member, Task) else member.build_batch(rows, draw))
    is_task = [isinstance(member, Task) for member in objective.alternatives]
    rows_of_tasks = [rows if is_task[part] else None for part, rows in batches]
    return ValidationBatches(built, rows_of_tasks, [part for part, _ in batches], is_padded)


def _whole_examples(view: View, limit: int | None, draw: Draw) -> tuple[View, int | None]:
    """A view of some examples with all of their rows, where examples have many; else the view and its limit."""
    if limit is None or not isinstance(view, ExampleView):
        return view, limit
    examples = np.array([row.example for row in view.rows])
    names = np.unique(examples)
    if len(names) == len(examples):
        return view, limit
    chosen = names[np.argsort(draw.at("examples").bits(names), kind="stable")[:limit]]
    return ExampleView([view.rows[n] for n in np.flatnonzero(np.isin(examples, chosen)).tolist()]), None
