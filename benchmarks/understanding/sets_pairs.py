"""Sets of pairs of texts: does one follow from the other, do they say the same, how alike are they."""

from __future__ import annotations

import json

from benchmarks.texts import text_file
from benchmarks.understanding.sets import LabelledSet, Record, Split, lines


def _columns(name: str, text: int, second: int, label: int, *, header: bool = False) -> list[Record]:
    rows = [line.split("\t") for line in lines(text_file(name))]
    return [
        {"text": row[text], "second": row[second], "label": row[label]}
        for row in rows[1 if header else 0 :]
        if row[text].strip() and row[second].strip()
    ]


def _json_lines(name: str, text: str, second: str) -> list[Record]:
    """The records of a set of CLUE; those on which its annotators did not agree are left out."""
    rows = [json.loads(line) for line in lines(text_file(name))]
    return [
        {"text": row[text], "second": "；".join(words) if isinstance(words := row[second], list) else words}
        | {"label": str(row["label"])}
        for row in rows
        if row["label"] != "-"
    ]


def _rte() -> list[Split]:
    return [Split(*(_columns(f"pairs/glue-RTE/{part}.tsv", 1, 2, 3, header=True) for part in ("train", "dev")))]


def _mrpc() -> list[Split]:
    return [Split(*(_columns(f"pairs/mrpc/msr-para-{part}.tsv", 3, 4, 0, header=True) for part in ("train", "test")))]


def _sick(label: int) -> list[Split]:
    parts = ("SICK_train", "SICK_test_annotated")
    return [Split(*(_columns(f"pairs/sick2014/{part}.txt", 1, 2, label, header=True) for part in parts))]


def _sts() -> list[Split]:
    return [Split(*(_columns(f"pairs/stsbenchmark/sts-{part}.csv", 5, 6, 4) for part in ("train", "test")))]


def _afqmc() -> list[Split]:
    return [Split(*(_columns(f"pairs/AFQMC/{part}.txt", 0, 1, 2) for part in ("train", "dev")))]


def _ocnli() -> list[Split]:
    return [
        Split(*(_json_lines(f"pairs/ocnli/{part}.json", "sentence1", "sentence2") for part in ("train.10k", "dev")))
    ]


def _few(name: str, text: str, second: str) -> list[Split]:
    """A set of FewCLUE: trained on both of its small parts."""
    parts = ("train_few_all", "dev_few_all", "test_public")
    train, dev, test = (_json_lines(f"fewclue/{name}/{part}.json", text, second) for part in parts)
    return [Split([*train, *dev], test)]


SETS = (
    LabelledSet("rte", "classification", "accuracy", "en", _rte, 0.53, "logistic regression on vectors", 0.63),
    LabelledSet("mrpc", "classification", "accuracy", "en", _mrpc, 0.684, "TF-IDF + logistic regression"),
    LabelledSet("sick-entailment", "classification", "accuracy", "en", lambda: _sick(4)),
    LabelledSet("sick-relatedness", "similarity", "spearman", "en", lambda: _sick(3), 0.771, "cosine, not trained"),
    LabelledSet(
        "stsb",
        "similarity",
        "spearman",
        "en",
        _sts,
        0.820,
        "cosine, not trained",
        0.865,
        recipe={
            "task": {"similarity": {"loss": "cosent"}},
            "lr": 5e-5,
            "batch": 32,
            "epochs": 2,
            "evaluation": {"samples": 0},
        },
        note="recipes/similarity.toml",
    ),
    LabelledSet("afqmc", "classification", "accuracy", "zh", _afqmc),
    LabelledSet("ocnli", "classification", "accuracy", "zh", _ocnli),
    LabelledSet("bustm-few", "classification", "accuracy", "zh", lambda: _few("bustm", "sentence1", "sentence2")),
    LabelledSet("ocnli-few", "classification", "accuracy", "zh", lambda: _few("ocnli", "sentence1", "sentence2")),
    LabelledSet("csl-few", "classification", "accuracy", "zh", lambda: _few("csl", "abst", "keyword")),
)
