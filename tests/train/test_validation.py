"""Evaluation of a task: loss and scores from one pass, the same on one rank and on several."""

from __future__ import annotations

import pytest
import torch
from test_run import task_recipe

from pretune.draw import Draw
from pretune.evaluate.examples import evaluate_examples
from pretune.runtime.distributed import Distributed
from pretune.runtime.precision import Precision
from pretune.train.assemble import fine_tuning
from pretune.train.step import TrainModule
from pretune.train.validation import Once

CPU, FP32 = torch.device("cpu"), Precision("fp32", 0.0, "test")


@pytest.fixture
def pieces(tmp_path, store):
    evaluation = {"batch_tokens": 64, "samples": None}
    recipe = task_recipe(tmp_path / "run", tmp_path, store, evaluation=evaluation)
    return fine_tuning(recipe), recipe


def test_one_pass_gives_loss_and_scores(pieces):
    made, recipe = pieces
    calls = []
    made.model.register_forward_hook(lambda *_: calls.append(1))
    validation = made.validation(recipe, Distributed())
    assert validation.metric == "accuracy"
    found = validation.measure(TrainModule(made.model, made.objective), made.objective, CPU, FP32, Distributed())
    assert len(calls) == len(validation.batches) > 5
    rows = made.held_out[0][0].examples
    wanted = evaluate_examples(made.model, made.objective, made.examples, rows, CPU)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    view, total = made.held_out[0][0], 0.0
    for n in range(len(view)):
        batch = made.objective.build_batch(view.read(torch.tensor([n]).numpy(), 0, 0, Draw(0)), Draw(0))
        with torch.no_grad():
            total += float(made.objective(made.model, batch)[0].sum)
    assert found["loss"] == pytest.approx(total / len(view), rel=1e-5)


def test_answers_of_all_examples_where_a_rank_has_a_part(pieces):
    """Rank 0 of two reads everything for the scores."""
    made, recipe = pieces
    whole, part = made.validation(recipe, Distributed()), made.validation(recipe, Distributed(0, 2))
    assert len(part.batches) < len(whole.batches) == len(part.scoring.apart)
    assert whole.scoring.apart is None
    scores = part.scoring.answers(made.model.eval(), CPU, FP32)
    found = whole.measure(TrainModule(made.model, made.objective), made.objective, CPU, FP32, Distributed())
    assert {name: found[name] for name in scores} == scores


def test_once_runs_again_for_another_batch(pieces):
    made, recipe = pieces
    first, second = made.validation(recipe, Distributed()).batches[:2]
    calls = []
    made.model.register_forward_hook(lambda *_: calls.append(1))
    once = Once(made.model)
    assert once(first) is once(first)
    assert once(second) is not once(first)
    assert len(calls) == 3
    assert once.heads is made.model.heads
