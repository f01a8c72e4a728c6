"""`python -m benchmarks.understanding.label_quality`: found label errors, chosen texts, and probabilities that hold.

Of each set, a part of the labels is replaced at random, and all are ranked: precision is that of as many
rows from the top as were replaced. A TF-IDF classifier learns from four fifths of the rest, a temperature and a
threshold are chosen on the fifth, and their effect is measured on the test part. From 50 labels on, fifty more are
labelled three times, chosen or drawn at random, and the accuracy of a TF-IDF classifier of all is compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.understanding.sets import Record, draw_records, find_set
from pretune.baselines.tfidf import fit_tfidf
from pretune.labels.errors import find_errors
from pretune.labels.features import Embed, describe_texts, out_of_fold
from pretune.labels.work import choose_examples
from pretune.tasks.classification import ClassificationExample
from pretune.tasks.shared.calibration import choose_trust, rescale, trust_scores

app = App(name="python -m benchmarks.understanding.label_quality", help=__doc__)
_SETS = ("sst2", "trec", "banking77", "chnsenticorp", "sms-spam")
_FILE = "label_quality.json"
_STEP = 50  # labels that are added at a time


@app.default
def measure(
    *names: str,
    model: Path | None = None,
    wrong: Annotated[float, Parameter(validator=Number(gt=0, lt=1))] = 0.05,
    risk: Annotated[float, Parameter(validator=Number(gt=0, lt=1))] = 0.05,
    draws: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    limit: Annotated[int, Parameter(validator=Number(gte=10))] = 2500,
    output: Path = Path("benchmarks/results"),
) -> None:
    """Measure on public sets of texts with one label each.

    Args:
        names: of sets; by default some of each language.
        model: folder of a model whose vectors describe the texts beside TF-IDF, in figures of their own.
        wrong: fraction of the labels that are replaced.
        risk: fraction of wrong labels that the threshold is to allow.
        draws: how often labels are replaced anew; the results are means.
        limit: rows of a set at most.
        output: folder of the file of results.
    """
    embed: Embed | None = None
    if model is not None:
        import pretune

        embed = pretune.load(model, "cpu").embed
    path = output / _FILE
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in names or _SETS:
        split = find_set(name).split()
        train = draw_records(split.train, limit, 0)
        scores = found_errors(train, None, wrong, draws)
        if embed is not None:
            by_vectors = found_errors(train, embed, wrong, draws)
            scores |= {f"with_vectors/{key}": value for key, value in by_vectors.items()}
        scores |= probabilities_that_hold(train, split.test, risk) | labels_that_teach(train, split.test, draws)
        results[name] = results.get(name, {}) | scores
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(results[name]))


def found_errors(records: Sequence[Record], embed: Embed | None, wrong: float, draws: int) -> dict[str, float]:
    """How many of the labels that were replaced are found.

    Returns:
        precision of as many rows from the top as were replaced, and of half as many; of the rows that are listed as
        probably wrong, precision and recall.
    """
    labels = [str(record["label"]) for record in records]
    names = sorted(set(labels))
    count = max(1, round(wrong * len(labels)))
    scores: dict[str, list[float]] = {}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        planted = set(rng.choice(len(labels), count, replace=False).tolist())
        examples = [
            ClassificationExample(str(record["text"]), _other(names, label, rng) if n in planted else label)
            for n, (record, label) in enumerate(zip(records, labels, strict=True))
        ]
        replaced = [str(example.label) for example in examples]
        groups = [example.text for example in examples]
        table, order = out_of_fold(describe_texts(examples, embed), replaced, groups)
        ranked = [error.index in planted for error in find_errors(table, replaced, order, groups, every_row=True)]
        listed = [error.index in planted for error in find_errors(table, replaced, order, groups)]
        values = {
            "precision": fmean(ranked[:count]),
            "precision_half": fmean(ranked[: max(1, count // 2)]),
            "listed_precision": fmean(listed) if listed else 0.0,
            "listed_recall": sum(listed) / count,
        }
        for name, value in values.items():
            scores.setdefault(name, []).append(value)
    return {"rows": len(labels), "replaced": count} | {name: round(fmean(each), 4) for name, each in scores.items()}


def _other(names: Sequence[str], label: str, rng: np.random.Generator) -> str:
    return str(rng.choice([name for name in names if name != label]))


def probabilities_that_hold(train: Sequence[Record], test: Sequence[Record], risk: float) -> dict[str, float]:
    """The calibration error on the test part before and after, and what the threshold does there."""
    held = [n % 5 == 0 for n in range(len(train))]
    fitted = [record for record, is_held in zip(train, held, strict=True) if not is_held]
    chosen = [record for record, is_held in zip(train, held, strict=True) if is_held]
    texts, labels = [str(record["text"]) for record in fitted], [str(record["label"]) for record in fitted]
    classifier = fit_tfidf(texts, labels)
    number = {label: n for n, label in enumerate(classifier.labels)}
    parts = []
    for part in (chosen, test):
        known = [record for record in part if str(record["label"]) in number]
        parts.append((known, classifier.probabilities([str(record["text"]) for record in known])))
    truth = [np.array([number[str(record["label"])] for record in known]) for known, _ in parts]
    trust = choose_trust(parts[0][1], truth[0].tolist(), calibrate=True, risk=risk)
    out: dict[str, float] = {"temperature": round(trust.temperature, 4)}
    for name, table in (("before", parts[1][1]), ("after", rescale(parts[1][1], trust.temperature))):
        right = (table.argmax(axis=1) == truth[1]).tolist()
        threshold = trust.threshold if name == "after" else None
        scores = trust_scores(table.max(axis=1).tolist(), right, threshold)
        out |= {key if key != "ece" else f"ece_{name}": round(value, 4) for key, value in scores.items()}
        out["test_error"] = round(1 - fmean(right), 4)
    return out


def labels_that_teach(train: Sequence[Record], test: Sequence[Record], draws: int) -> dict[str, float]:
    """The accuracy of classifiers of 200 labels: of texts that were chosen, and of as many drawn at random."""
    scores: dict[str, list[float]] = {"chosen": [], "random": []}
    for draw in range(draws):
        pool = draw_records(train, 2000, draw)
        for way, values in scores.items():
            known, rest = list(pool[:_STEP]), list(pool[_STEP:])
            for _ in range(3):
                index: Sequence[int] = range(_STEP)
                if way == "chosen":
                    rows = choose_examples(_examples(rest), _examples(known), count=_STEP, seed=draw)
                    index = [int(str(row["index"])) for row in rows]
                known += [rest[n] for n in index]
                rest = [record for n, record in enumerate(rest) if n not in set(index)]
            classifier = fit_tfidf(
                [str(record["text"]) for record in known], [str(record["label"]) for record in known]
            )
            best = classifier.probabilities([str(record["text"]) for record in test]).argmax(axis=1)
            right = [classifier.labels[n] == str(record["label"]) for n, record in zip(best, test, strict=True)]
            values.append(fmean(right))
    return {f"accuracy_of_200_{way}": round(fmean(values), 4) for way, values in scores.items()}


def _examples(records: Sequence[Record]) -> list[ClassificationExample]:
    return [ClassificationExample(str(record["text"]), str(record["label"])) for record in records]


if __name__ == "__main__":
    app()
