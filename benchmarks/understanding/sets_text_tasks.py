"""Sets of the other tasks on whole texts: several labels, ordered labels, numbers, choices."""

from __future__ import annotations

import json

from benchmarks.texts import text_file
from benchmarks.understanding.sets import LabelledSet, Record, Split, fifths, find_set, lines

_TFIDF = "TF-IDF + logistic regression"


def _json_lines(name: str) -> list[Record]:
    return [json.loads(line) for line in lines(text_file(name))]


def _entity_types() -> list[Split]:
    """Which types of entities a sentence of CLUENER has."""

    def types(record: Record) -> Record:
        spans = record["spans"]
        assert isinstance(spans, list)  # of the reader
        return {"text": record["text"], "label": sorted({span["label"] for span in spans})}

    (split,) = find_set("cluener").read()
    return [Split([types(record) for record in split.train], [types(record) for record in split.test])]


def _choices(name: str) -> list[Split]:
    rows = _json_lines(f"evaluation/lm-eval-mc/{name}.jsonl")
    return fifths([{"text": row["query"], "choices": row["choices"], "label": row["gold"]} for row in rows])[:1]


def _pairs(name: str) -> list[Split]:
    """The pairs of a set of `similarity`, whose labels are numbers."""
    return list(find_set(name).read())


SETS = (
    LabelledSet(
        "cluener-types",
        "multilabel",
        "f1_micro",
        "zh",
        _entity_types,
        0.772,
        f"character {_TFIDF} for each label",
        note="types of entities by sentence",
    ),
    LabelledSet(
        "financial-ordinal",
        "ordinal",
        "qwk",
        "en",
        lambda: list(find_set("financial").read()),
        0.675,
        _TFIDF,
        recipe={"task": {"ordinal": {"labels": ["negative", "neutral", "positive"]}}},
        note="a fifth is tested",
    ),
    LabelledSet(
        "stsb-regression", "regression", "spearman", "en", lambda: _pairs("stsb"), 0.820, "cosine, not trained"
    ),
    LabelledSet(
        "sick-regression",
        "regression",
        "pearson",
        "en",
        lambda: _pairs("sick-relatedness"),
        None,
        "cosine, not trained",
    ),
    LabelledSet("arc-easy", "choice", "accuracy", "en", lambda: _choices("arc_easy"), note="a fifth is tested"),
)
