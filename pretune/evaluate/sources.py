"""Whether a model that writes uses what it reads: the loss of known answers behind their own source and behind another.

A decoder that does not look at its source learns the language of the targets alone: its loss falls, its texts are
fluent, and all are about nothing that was asked. Behind an exchanged source its loss is then the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.evaluate.engine import BUDGET, by_length, run_batches
from pretune.models.model import LanguageModel
from pretune.objectives.root_module import RootModule
from pretune.runtime.device import inference_context, is_bf16
from pretune.tasks.task import AnyTask
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded
from pretune.text.tokenizer.tokenizer import Tokenizer

SAMPLES = 256
"""Rows that are looked at, at most."""


@dataclass(frozen=True)
class SourceUse:
    """Mean losses of the answers' tokens.

    Attributes:
        own: behind the source of each answer, in nats a token.
        exchanged: behind the source of another one.
    """

    own: float
    exchanged: float

    @property
    def gain(self) -> float:
        """The part of the loss that an answer's own source takes away; 0 where it does nothing."""
        return 1 - self.own / self.exchanged if self.exchanged else 0.0


def source_use(model: LanguageModel, task: AnyTask, rows: Sequence[Encoded], tokenizer: Tokenizer) -> SourceUse | None:
    """What the sources of known answers do for them; None where there are not two that differ.

    Args:
        model: on its device; put into evaluation mode.
        task: one that writes.
        rows: of its examples; some are chosen by key.
    """
    known = [row for row in rows if row.second is not None and row.targets is None and len(row.tokens)]
    order = np.argsort(Draw(0).at(task.name, "sources").bits(np.arange(len(known))), kind="stable")[:SAMPLES]
    chosen = sorted((known[n] for n in order.tolist()), key=lambda row: len(row.tokens))
    exchanged = exchange(chosen)
    if all(np.array_equal(row.tokens, other.tokens) for row, other in zip(chosen, exchanged, strict=True)):
        return None
    return SourceUse(_loss(model, task, chosen, tokenizer), _loss(model, task, exchanged, tokenizer))


def exchange(rows: Sequence[Encoded]) -> list[Encoded]:
    """Each row with the source of the next, that of the last with the first's; no source is longer than the own one.

    The end of a longer source stays, where a prompt has what leads to the answer.
    """
    others = [*rows[1:], *rows[:1]]
    return [replace(row, tokens=other.tokens[-len(row.tokens) :]) for row, other in zip(rows, others, strict=True)]


def _loss(model: LanguageModel, task: AnyTask, rows: Sequence[Encoded], tokenizer: Tokenizer) -> float:
    """The mean loss of the answers' tokens, without smoothing, in nats."""
    view = ExampleView(rows)

    def batches() -> Iterator[Batch]:
        for part in by_length(view.lengths(np.arange(len(rows))), BUDGET):
            yield task.build_rows(view.read(part, 0, 0, Draw(0)), Draw(0)).batch

    root = RootModule(model, task).eval()
    context = partial(inference_context, model.device, is_bf16(model))
    terms = [term for each in run_batches(root, batches(), tokenizer, model.device, context) for term in each.terms]
    return sum(float(term.sum) for term in terms) / max(1, sum(term.count for term in terms))
