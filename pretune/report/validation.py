"""What a finished classifier answers on its validation data, for its report: scores, confusion matrix, mistakes.

Beside them stands what is reached without fine-tuning: by answering the commonest label, and by logistic regression on
the vectors that the model gave before training.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pretune.disk import replace_file
from pretune.draw import Draw
from pretune.errors import DataError, PretuneError, first_line
from pretune.evaluate.engine import encode_examples
from pretune.evaluate.pairs import predict_by_modules
from pretune.evaluate.read import find_source, read_with_tokenizer
from pretune.evaluate.tfidf import answer_by_tfidf
from pretune.interop.run_names import FACTS, INITIAL, VALIDATION
from pretune.model import Model
from pretune.nn.cast import cast_to_bf16
from pretune.report.pair_vectors import pair_vectors
from pretune.runtime.device import is_bf16
from pretune.seals import changing, read_facts
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.tasks.shared.predictions import Prediction
from pretune.text.readers.records import NOWHERE
from pretune.text.tokenizer.unknown import TRAINING_REMEDY, count_unknown
from pretune.train.tfidf import fit_examples

Examples = Sequence[ClassificationExample]
LISTED = 20  # mistakes
_EXAMPLES = 10_000  # validation examples that are looked at
_PROBE = 2_000  # training examples of logistic regression, and validation examples, at most
_PROBE_WORK = 0.45  # examples of it for each that was trained on: a forward pass is a third of a step, so 15% of a run
_MIN_PROBE = 200
_OF_PROBABILITIES = ("ece", "ece_classwise", "coverage", "risk")  # which labels alone have not
_STRENGTH = 10.0  # of logistic regression: the inverse of its penalty

Scores = dict[str, float]


class Mistake(TypedDict):
    """A validation example with another answer than its label."""

    text: str
    second: str | None
    label: str | None
    prediction: str
    probability: float
    origin: str


def write_validation(run: Path, model: Model, seed: int, train: Examples, validation: Examples) -> dict[str, Any]:
    """Writes what a classifier answers on its validation data into its run directory.

    Args:
        seed: of the run.
        train: the examples that it was trained on.
        validation: those that were held out.

    Returns:
        What was written; nothing for a model that chooses among no labels, or a run without validation data.
    """
    task = model.task()
    if not isinstance(task, Classification) or not validation:
        return {}
    draw = Draw(seed).at("report")
    known = _some(validation, _EXAMPLES, draw)
    with count_unknown(model.tokenizer) as unknown:
        predictions = _predict(model, task, known)
    answers = {
        "step": _finished(run).get("weights_of_step"),
        "examples": len(known),
        "of": len(validation),
        **describe(task, known, predictions),
        "baselines": baselines(run, model, task, train, known, draw.at("probe")),
        "unknown": unknown.summary("the validation texts", TRAINING_REMEDY),
    }
    with changing(run, [VALIDATION]):
        replace_file(run / VALIDATION, json.dumps(answers, ensure_ascii=False, indent=1).encode())
    return answers


def describe(task: Classification, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Scores, confusion matrix and mistakes.

    Returns:
        scores: as the task gives them.
        labels: in their order.
        confusion: for each label, how often every label was answered.
        mistakes: those of which the model was most sure.
        mistake_count: of all of them.
    """
    number = {label: n for n, label in enumerate(task.labels)}
    matrix = np.zeros((len(number), len(number)), np.int64)
    wrong: list[Mistake] = []
    for example, prediction in zip(examples, predictions, strict=True):
        matrix[number[str(example.label)], number[prediction.label]] += 1
        if prediction.label != example.label:
            wrong.append(_mistake(example, prediction))
    wrong.sort(key=lambda mistake: -mistake["probability"])
    return {
        "scores": task.score(predictions, examples),
        "labels": task.labels,
        "confusion": matrix.tolist(),
        "mistakes": wrong[:LISTED],
        "mistake_count": len(wrong),
    }


def baselines(
    run: Path, model: Model, task: Classification, train: Examples, known: Examples, draw: Draw
) -> dict[str, Any]:
    """What is reached without fine-tuning, by the metrics of the task.

    Args:
        known: the validation examples.
        draw: the key by which logistic regression gets some of the examples, where all of them would take too long.

    Returns:
        for each metric `majority`; `tfidf`, logistic regression on TF-IDF, where texts have words; and `probe` where
        the model as it was before training can be read; else `probe_problem` says why not.
    """
    commonest = Counter(str(example.label) for example in train).most_common(1)[0][0]
    scores = {"majority": _scores(task, [commonest] * len(known), known)}
    if (by_tfidf := _tfidf(task, train, known)) is not None:
        scores["tfidf"] = _scores(task, by_tfidf, known)
    work = max(_MIN_PROBE, int(_PROBE_WORK * _finished(run).get("samples", 0)))
    some_known = _some(known, min(_PROBE, work // 3), draw)
    some = _some(train, min(_PROBE, work - len(some_known)), draw)
    problem: str | None = None
    try:
        scores["probe"] = _scores(task, _probe(run, model, some, some_known), some_known)
    except PretuneError as error:
        problem = first_line(error)
    names = [name for name in scores["majority"] if "/" not in name and name not in _OF_PROBABILITIES]
    named = {name: {key: each[name] for key, each in scores.items()} for name in names}
    return {**named, "commonest": commonest, "probe_examples": [len(some), len(some_known)], "probe_problem": problem}


def _tfidf(task: Classification, train: Examples, known: Examples) -> list[str] | None:
    """The labels that logistic regression gives by TF-IDF; None where nothing can be fitted."""
    try:
        fitted = fit_examples(train[:_EXAMPLES], task.labels)
    except DataError:  # no text has a word
        return None
    return [prediction.label for prediction in answer_by_tfidf(fitted, known)]


def _probe(run: Path, model: Model, train: Examples, known: Examples) -> list[str]:
    """The labels that logistic regression gives by the vectors of the model before its training."""
    from sklearn.linear_model import LogisticRegression

    network, tokenizer = read_with_tokenizer(find_source(run / INITIAL), None)
    if is_bf16(model.network):
        cast_to_bf16(network)
    before = Model(network.to(model.device).eval(), tokenizer, run / INITIAL)
    labels = [str(example.label) for example in train]
    if len(set(labels)) < 2:
        return labels[:1] * len(known)
    vectors = _vectors(before, [*train, *known])
    fitted = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(vectors[: len(train)], labels)
    return [str(label) for label in fitted.predict(vectors[len(train) :])]


def _finished(run: Path) -> dict[str, Any]:
    """How a run ended."""
    finished = read_facts(run / FACTS).get("finished")
    return finished if isinstance(finished, dict) else {}


def _vectors(model: Model, examples: Examples) -> NDArray[np.float32]:
    """The features of texts, or of pairs."""
    firsts = [example.text for example in examples]
    if all(example.second is None for example in examples):
        return model.embed(firsts, normalize=True)
    return pair_vectors(model, firsts, [example.second or example.text for example in examples])


def _predict(model: Model, task: Classification, examples: Examples) -> list[Prediction]:
    rows = encode_examples(task, examples, model.tokenizer, model.length)
    answers = predict_by_modules(model.network, task, examples, rows, model.tokenizer)
    return [answer for answer in answers if isinstance(answer, Prediction)]


def _scores(task: Classification, labels: Sequence[str], examples: Examples) -> Scores:
    return task.score([Prediction(label, {label: 1.0}) for label in labels], examples)


def _some(examples: Examples, limit: int, draw: Draw) -> list[ClassificationExample]:
    """At most so many examples, chosen by key and in a random order; all of fewer in their own."""
    if len(examples) <= limit:
        return list(examples)
    order = np.argsort(draw.bits(np.arange(len(examples))))
    return [examples[n] for n in order[:limit].tolist()]


def _mistake(example: ClassificationExample, prediction: Prediction) -> Mistake:
    return {
        "text": example.text,
        "second": example.second,
        "label": example.label,
        "prediction": prediction.label,
        "probability": float(f"{prediction.probability:.4g}"),
        "origin": "" if example.origin == NOWHERE else str(example.origin),
    }
