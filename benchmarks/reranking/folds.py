"""One fold: a reranker that is trained on the questions of the others, and what it makes of the first stage."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pretune
from benchmarks.reranking.first_stage import Questions, Say, recall_at_1, training_rows
from pretune.disk import replace_file
from pretune.evaluate.rerank import HeldOutQuery, Reranker, check_reranking

_CONSTANT = 60  # of reciprocal rank fusion


@dataclass(frozen=True)
class FoldSettings:
    """How a fold is trained and measured; see the command line.

    Attributes:
        model: what is fine-tuned.
        loss, negatives, random_negatives, epochs, batch, lr, length, candidates, steps, questions, seed: as there.
    """

    model: str
    loss: str
    negatives: int
    random_negatives: int
    epochs: float
    batch: int
    lr: float
    length: int
    candidates: int
    steps: int | None
    questions: int | None
    seed: int


def measure_fold(
    data: Questions, rankings: list[list[int]], number: int, folds: int, settings: FoldSettings, work: Path, say: Say
) -> dict[str, Any]:
    """The scores of a fold; those of the same settings that are there are read.

    Args:
        rankings: of the first stage.
        number: of the fold, from 0.
        work: folder of runs.
    """
    key = hashlib.sha256(json.dumps([asdict(settings), folds]).encode()).hexdigest()[:12]
    run = work / f"fold-{number}-of-{folds}-{key}"
    done = run.with_suffix(".json")
    if done.is_file():
        result: dict[str, Any] = json.loads(done.read_text())
        return result
    is_held_out = data.fold(folds) == number
    rows = training_rows(data, rankings, is_held_out, settings.negatives)
    say(f"fold {number + 1} of {folds}: training on {len(rows):,} questions in {run}")
    budget: dict[str, Any] = {"epochs": settings.epochs} if settings.steps is None else {"steps": settings.steps}
    began = time.process_time()
    model = pretune.finetune(
        model=settings.model,
        task={"reranking": {"loss": settings.loss, "random_negatives": settings.random_negatives}},
        train=rows,
        data={
            "columns": {"text": "query", "second": "passage", "third": "others"},
            "length": settings.length,
            "batch": settings.batch,
            "holdout": 0.0,
        },
        output=str(run),
        seed=settings.seed,
        lr=settings.lr,
        device="cpu",
        **budget,
    )
    trained = time.process_time() - began
    say(f"fold {number + 1} of {folds}: reranking")
    reranker = Reranker.of(model.network, model.tokenizer, run)
    chosen = np.flatnonzero(is_held_out).tolist()[: settings.questions]
    result = _measure(data, rankings, chosen, settings.candidates, reranker, say)
    result |= {"fold": number, "cpu_seconds_of_training": round(trained)}
    replace_file(done, json.dumps(result).encode())
    return result


def _measure(
    data: Questions, rankings: list[list[int]], chosen: list[int], depth: int, reranker: Reranker, say: Say
) -> dict[str, Any]:
    """Recall at 1 of the first stage, of the reranker, and of the ranks of both."""
    candidates = [rankings[n][:depth] for n in chosen]
    questions, answers = [data.questions[n] for n in chosen], [data.answers[n] for n in chosen]
    scores = reranker(questions, [[data.paragraphs[p] for p in found] for found in candidates])
    known = dict(zip(questions, scores, strict=True))

    def again(queries: Sequence[str], _: object) -> list[list[float]]:  # what was scored is not scored again
        return [known[query] for query in queries]

    held_out = [
        HeldOutQuery(str(n), question, [(str(p), "") for p in found], {str(answer): 1})
        for n, question, found, answer in zip(chosen, questions, candidates, answers, strict=True)
    ]
    check = check_reranking(again, held_out, "R@1")
    say(check.describe())
    orders = [np.argsort(-np.array(own), kind="stable") for own in scores]
    ranks = [
        1.0 / (_CONSTANT + 1 + np.argsort(order)) + 1.0 / (_CONSTANT + 1 + np.arange(len(order))) for order in orders
    ]
    both = [np.argsort(-rank, kind="stable") for rank in ranks]
    return {
        "questions": len(chosen),
        "fused": recall_at_1(candidates, answers),
        "reranked": recall_at_1([[c[n] for n in o] for c, o in zip(candidates, orders, strict=True)], answers),
        "reranked and fused": recall_at_1([[c[n] for n in o] for c, o in zip(candidates, both, strict=True)], answers),
        "check": check.describe(),
    }
