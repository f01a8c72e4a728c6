"""Validation of a task: loss and scores from one pass, the same on one rank and on several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_run import task_recipe

from pretune.draw import Draw
from pretune.evaluate.engine import predict_examples, run_batches
from pretune.objectives.root_module import SharedForward
from pretune.runtime.distributed import Distributed
from pretune.runtime.precision import Precision
from pretune.text.samples.examples import ExampleView
from pretune.train.assemble import assemble
from pretune.train.step import TrainModule
from pretune.train.validation import prepare_validation

CPU, FP32 = torch.device("cpu"), Precision("fp32", 0.0, "test")


@pytest.fixture
def components(tmp_path, store):
    evaluation = {"batch_tokens": 64, "samples": None}
    recipe = task_recipe(tmp_path / "run", tmp_path, store, evaluation=evaluation)
    return assemble(recipe), recipe


def test_one_pass_of_the_root_gives_loss_and_scores(components):
    parts, recipe = components
    passes, calls = [], []
    parts.model.register_forward_hook(lambda *_: passes.append(1))
    root = TrainModule(parts.model, parts.objective)
    root.register_forward_hook(lambda *_: calls.append(1))
    validation = parts.validation(recipe, Distributed())
    assert validation.metric == "accuracy"
    actual = validation.measure(root, parts.objective, CPU, FP32, Distributed())
    assert len(calls) == len(passes) == len(validation.data.batches) > 5
    assert root.training
    rows = parts.held_out[0][0].rows
    predictions = predict_examples(
        parts.model, parts.objective, parts.examples["classification"], rows, parts.tokenizer
    )
    wanted = parts.objective.score(predictions, parts.examples["classification"])
    assert {name: actual[name] for name in wanted} == pytest.approx(wanted)
    view, total = parts.held_out[0][0], 0.0
    for n in range(len(view)):
        batch = parts.objective.build_batch(view.read(np.array([n]), 0, 0, Draw(0)), Draw(0))
        with torch.no_grad():
            total += float(parts.objective(parts.model, batch)[0].sum)
    assert actual["loss"] == pytest.approx(total / len(view), rel=1e-5)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_evaluate_as_many_batches_and_their_answers_make_the_same_scores(components, size: int):
    parts, recipe = components
    whole = parts.validation(recipe, Distributed())
    ranks = [parts.validation(recipe, Distributed(rank, size)) for rank in range(size)]
    assert len({len(rank.data.batches) for rank in ranks}) == 1
    real = [len(rank.data.batches) - rank.data.is_padded for rank in ranks]
    assert sum(real) == len(whole.data.batches)
    root = TrainModule(parts.model, parts.objective).eval()
    answers = [
        [r.answers for r in run_batches(root, rank.data.batches, parts.tokenizer, CPU, torch.no_grad)][:count]
        for rank, count in zip(ranks, real, strict=True)
    ]

    class Ranks(Distributed):
        def all_gather_pickled(self, value):
            return answers

        def broadcast(self, value):
            return value

        def on_main(self, action):
            return action()

    scores = ranks[0].scoring.scores(answers[0], Ranks(0, size))
    actual = whole.measure(root, parts.objective, CPU, FP32, Distributed())
    assert {name: actual[name] for name in scores} == scores


def test_a_limit_keeps_all_rows_of_an_example(components):
    """Of examples in many rows, `samples` counts examples."""
    parts, _ = components
    rows = [replace(row, example=n // 3) for n, row in enumerate(parts.held_out[0][0].rows[:12])]
    data = prepare_validation(parts.objective, [[ExampleView(rows)]], Draw(0), 64, 2, Distributed())
    examples = [row.example for part in data.rows for row in part]
    assert sorted(examples) == sorted(set(examples)) * 3 or sorted(np.bincount(examples).tolist())[-2:] == [3, 3]
    assert len(examples) == 6


def test_shared_forward_runs_again_for_another_batch(components):
    parts, recipe = components
    first, second = [rows.batch for rows in parts.validation(recipe, Distributed()).data.batches[:2]]
    calls = []
    parts.model.register_forward_hook(lambda *_: calls.append(1))
    shared = SharedForward(parts.model)
    assert shared(first) is shared(first)
    assert shared(second) is not shared(first)
    assert len(calls) == 3
    assert shared.heads is parts.model.heads
