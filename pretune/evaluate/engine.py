"""The one evaluation engine: a root module over batches without gradients, a loss and a task's answers from one pass.

    validation in training  batches prepared once, this rank's part  \\
    evaluate a token store  windows of similar length together        > run_batches -> BatchResult(terms, answers)
    evaluate, predict       examples of similar length together      /

Terms are summed by whoever asked. Answers of rows become predictions of examples in `join_rows`, which a task scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.errors import DataError, NonFiniteError
from pretune.loss import Term
from pretune.models.model import LanguageModel
from pretune.objectives.objective import Objective
from pretune.objectives.root_module import RootModule
from pretune.runtime.device import inference_context, is_bf16
from pretune.runtime.finite import is_finite
from pretune.tasks.task import AnyTask, ExampleT, PredictionT, RowAnswerT, RowBatch, Task
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded, Row, data_stats
from pretune.text.samples.views.view import View, build_view
from pretune.text.store.store import TokenSplit
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import say_cut, say_unknown

BUDGET = 8192  # tokens of a forward
_LISTED = 20  # windows in a message
_READ = 1 << 20  # tokens of a store that are decoded at a time

MEAN = "mean_score"
"""Of several tasks, the mean of their main scores."""
Context = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class BatchResult:
    """What a root module gave for one batch.

    Attributes:
        batch: on the host, as it was built.
        terms: of the loss; none where none was wanted.
        answers: a task's, one for each row; none for an objective.
    """

    batch: Batch
    terms: list[Term]
    answers: list[Any]


def run_batches(
    root: nn.Module,
    batches: Iterable[Batch | RowBatch],
    tokenizer: Tokenizer,
    device: torch.device,
    context: Context,
    *,
    needs_loss: bool = True,
) -> Iterator[BatchResult]:
    """Runs a root module over batches; the model runs once for each, whatever is wanted of it.

    Args:
        root: a `RootModule` in evaluation mode, or what wraps it.
        batches: on the host; the rows of a task are decoded too.
        tokenizer: handed to `Task.decode`.
        context: of each forward: no gradients, and autocast where there is some.
        needs_loss: False where answers alone are wanted.
    """
    for item in batches:
        batch = item.batch if isinstance(item, RowBatch) else item
        answers: list[Any] = []
        with context():
            on_device = batch.to(device)
            if isinstance(item, RowBatch):
                decode = partial(_decode, item.task, RowBatch(item.rows, on_device, item.task), tokenizer, answers)
                terms = root(on_device, decode, needs_loss=needs_loss)
            else:
                terms = root(on_device)
        yield BatchResult(batch, terms, answers)


def _decode(task: AnyTask, rows: RowBatch, tokenizer: Tokenizer, answers: list[Any], model: LanguageModel) -> None:
    answers.extend(task.decode(model, rows, tokenizer))


def join_rows(
    task: Task[ExampleT, RowAnswerT, PredictionT],
    examples: Sequence[ExampleT],
    rows: Sequence[Row],
    answers: Sequence[RowAnswerT],
) -> tuple[list[PredictionT], list[ExampleT]]:
    """The predictions of examples from the answers of their rows, and those examples, in the order of their first rows.

    Args:
        examples: all that were encoded; `Row.example` is an index into them.
        rows: of some examples, each with all of its rows.
        answers: one for each row.
    """
    groups: dict[int, list[tuple[int, RowAnswerT]]] = {}
    for row, answer in zip(rows, answers, strict=True):
        groups.setdefault(row.example, []).append((row.sample[2], answer))
    predictions = [
        task.merge(examples[n], [answer for _, answer in sorted(group, key=lambda pair: pair[0])])
        for n, group in groups.items()
    ]
    return predictions, [examples[n] for n in groups]


def encode_examples(
    task: Task[ExampleT, RowAnswerT, PredictionT], examples: Sequence[ExampleT], tokenizer: Tokenizer, length: int
) -> list[Encoded]:
    """The rows of examples; how many texts were cut, and which were unknown, is logged.

    Args:
        length: tokens of a row at most.
    """
    with say_unknown(tokenizer):
        rows = task.encode(examples, tokenizer, length)
    say_cut(tokenizer, data_stats(rows)["examples_cut"], len(examples), length)
    return rows


def predict_examples(
    model: LanguageModel,
    task: Task[ExampleT, RowAnswerT, PredictionT],
    examples: Sequence[ExampleT],
    rows: Sequence[Encoded],
    tokenizer: Tokenizer,
    budget: int = BUDGET,
) -> list[PredictionT]:
    """One prediction for each example, in their order.

    Args:
        model: on its device; put into evaluation mode.
        rows: `task.encode(examples, tokenizer, length)`.
        budget: tokens of a forward.

    Raises:
        NonFiniteError: a prediction that holds a number which is not finite.
    """
    view = ExampleView(rows)
    index = by_length(view.lengths(np.arange(len(rows))), budget)
    samples = [view.read(part, 0, 0, Draw(0)) for part in index]
    batches = (task.build_rows(part, Draw(0)) for part in samples)
    root = RootModule(model, task).eval()
    context = partial(inference_context, model.device, is_bf16(model))
    results = run_batches(root, batches, tokenizer, model.device, context, needs_loss=False)
    answers = [answer for result in results for answer in result.answers]
    in_order = sorted(zip([row for part in samples for row in part], answers, strict=True), key=lambda p: p[0].sample)
    predictions, _ = join_rows(task, examples, [row for row, _ in in_order], [answer for _, answer in in_order])
    for number, (prediction, example) in enumerate(zip(predictions, examples, strict=True)):
        if not is_finite(prediction):
            raise NonFiniteError.of(example.origin, "a prediction", number)
    return predictions


def join_scores(scores: Mapping[str, Mapping[str, float]], main: Mapping[str, str]) -> dict[str, float]:
    """The scores of several tasks, each as `TASK/SCORE`, and the mean of their main ones.

    Args:
        scores: of each task, by its name.
        main: the name of its main score.
    """
    joined = {f"{task}/{name}": value for task, each in scores.items() for name, value in each.items()}
    return {MEAN: sum(each[main[task]] for task, each in scores.items()) / len(scores), **joined}


def finite_scores(scores: dict[str, float]) -> dict[str, float]:
    """Scores, all of which are finite.

    Raises:
        DataError: one is not, such as a correlation with predictions that are all alike.
    """
    for name, value in scores.items():
        if not math.isfinite(value):
            raise DataError(
                f"{name} is {value}: these predictions and labels give it no value, as where all predictions are "
                "alike; give it more data, or look at what predict writes"
            )
    return scores


def evaluate_store(
    model: LanguageModel,
    objective: Objective,
    split: TokenSplit,
    tokenizer: Tokenizer,
    *,
    length: int,
    pack: str | None = None,
    budget: int = BUDGET,
) -> dict[str, float]:
    """Mean loss of each objective over all samples of a split, with the corruption that seed 0 draws.

    Args:
        model: on its device; put into evaluation mode.
        objective: one, or a mixture; each of its terms is reported.
        length: tokens of a window, special ones included.
        pack: `stream` or `document`; by default each objective's habit.
        budget: tokens of a forward.

    Returns:
        `loss/<name>`, `perplexity/<name>`, `accuracy/<name>`, `predictions/<name>`; for causal language modelling also
        `bits_per_byte`.

    Raises:
        DataError: the split has no text, or none on which an objective predicts anything.
        NonFiniteError: a loss that is not finite.
    """
    draw = Draw(0).at("evaluate")
    context = partial(inference_context, model.device, is_bf16(model))
    sums: dict[str, list[float]] = {}
    for part in objective.alternatives:
        view = build_view(split, part.view, length - part.overhead, part.lookahead, pack or part.pack, part.words)
        if not len(view):
            raise DataError(_no_sample(part, split))
        root = RootModule(model, part).eval()
        for result in run_batches(root, _windows(part, view, draw, budget), tokenizer, model.device, context):
            _add_terms(sums, result.terms)
            _check_terms(result, split)
    out: dict[str, float] = {}
    for name, (loss, count, correct) in sums.items():
        if not count:
            raise DataError(f"{name} predicts nothing in {split.where}; give the store more text")
        mean = loss / max(count, 1.0)
        out |= {
            f"loss/{name}": mean,
            f"perplexity/{name}": math.exp(min(mean, 700.0)),
            f"accuracy/{name}": correct / max(count, 1.0),
            f"predictions/{name}": count,
        }
    for name in [name for name, ability in objective.abilities.items() if ability == "generate" and name in sums]:
        loss, count, _ = sums[name]
        out["bits_per_byte"] = loss / math.log(2) / max(1.0, count * bytes_per_token(split, tokenizer))
    return out


def _no_sample(objective: Objective, split: TokenSplit) -> str:
    """Says that a split has no sample for an objective."""
    if not split.token_count:
        remedy = "evaluate another split (--split train), or prepare the store with validation = 0.01"
        return f"{split.where} has no text; {remedy}"
    name = getattr(objective, "name", type(objective).__name__)
    texts = f"the {split.document_count:,} documents of {split.where}"
    return f"{name} finds no sample in {texts}; give the store more text, or evaluate another objective"


def _windows(objective: Objective, view: View, draw: Draw, budget: int) -> Iterator[Batch]:
    """The batches of a view, samples of similar length together."""
    for index in by_length(view.lengths(np.arange(len(view))), budget):
        yield objective.build_batch(view.read(index, 0, 0, draw), draw)


def _add_terms(sums: dict[str, list[float]], terms: Iterable[Term]) -> None:
    """Adds sum, count and correct predictions of terms to those of their names."""
    for term in terms:
        total = sums.setdefault(term.name, [0.0, 0.0, 0.0])
        correct = 0.0 if term.correct is None else float(term.correct)
        for n, value in enumerate((float(term.sum), float(term.count), correct)):
            total[n] += value


def _check_terms(result: BatchResult, split: TokenSplit) -> None:
    """Refuses a loss that is not finite.

    Raises:
        NonFiniteError: the numbers of the windows that were read together.
    """
    bad = [term.name for term in result.terms if not math.isfinite(float(term.sum))]
    if bad:
        windows = [int(index) for _, _, index in result.batch.samples]
        listed = ", ".join(map(str, windows[:_LISTED])) + (", ..." if len(windows) > _LISTED else "")
        raise NonFiniteError.of(f"{split.where}, windows {listed}", f"a loss of {bad[0]}")


def bytes_per_token(split: TokenSplit, tokenizer: Tokenizer) -> float:
    """UTF-8 bytes of text that a token stands for, on average over a split; end tokens count, as no bytes."""
    size = 0
    for start in range(0, split.token_count, _READ):
        text = tokenizer.decode(split.read(start, min(start + _READ, split.token_count)))
        size += len(text.encode("utf-8", "replace"))
    return size / max(1, split.token_count)


def by_length(lengths: ArrayLike, budget: int = BUDGET) -> list[NDArray[np.int64]]:
    """Indices of the samples of each batch, longest first; a sample longer than the budget is alone.

    Equal lengths are adjacent, so attention does them in one call; the longest come first, so that a batch that does
    not fit in memory fails at once.

    Shape:
        lengths: (n,) tokens.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    out: list[NDArray[np.int64]] = []
    start = 0
    ends = np.cumsum(sizes[order])
    while start < len(order):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + budget, side="right")))
        out.append(order[start:stop])
        start = stop
    return out
