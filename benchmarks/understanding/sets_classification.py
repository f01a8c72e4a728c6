"""Sets of single texts with one label each: opinions, questions, intents, topics, spam."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence

from benchmarks.texts import text_file
from benchmarks.understanding.sets import LabelledSet, Record, Split, fifths, lines

_TFIDF = "TF-IDF + logistic regression"
_CHARACTERS = "character TF-IDF + logistic regression"
_VECTORS = "logistic regression on frozen vectors"


def _columns(name: str, text: int, label: int, separator: str = "\t", *, header: bool = False) -> list[Record]:
    """The records of a file of columns, which are not quoted."""
    rows = [line.split(separator) for line in lines(text_file(name))]
    return [{"text": row[text], "label": row[label]} for row in rows[1 if header else 0 :]]


def _csv(name: str, text: str, label: str) -> list[Record]:
    """The records of a file of quoted columns with a header."""
    with text_file(name).open(encoding="utf-8-sig", newline="") as file:
        return [{"text": row[text], "label": row[label]} for row in csv.DictReader(file)]


def _json_lines(name: str, text: str, label: str) -> list[Record]:
    rows = [json.loads(line) for line in lines(text_file(name))]
    return [{"text": row[text], "label": str(row[label])} for row in rows if str(row[label]).strip("- ")]


def _sst2() -> list[Split]:
    train, dev = (_columns(f"classification/sst2/{part}.tsv", 0, 1) for part in ("train", "dev"))
    return [Split(train, dev)]


def _trec() -> list[Split]:
    parts = []
    for part in ("train", "test"):
        path = text_file(f"classification/trec/TREC.{part}.all")
        parts.append([{"text": line[2:], "label": line[0]} for line in lines(path, "latin-1")])
    return [Split(*parts)]


def _banking() -> list[Split]:
    train, test = (_csv(f"classification/banking77/{part}.csv", "text", "category") for part in ("train", "test"))
    return [Split(train, test)]


def _chnsenticorp() -> list[Split]:
    train, test = (_columns(f"classification/chnsenticorp/{part}.tsv", 1, 0, header=True) for part in ("train", "test"))
    return [Split(train, test)]


def _thucnews() -> list[Split]:
    train, test = (_columns(f"classification/thucnews-titles/{part}.txt", 0, 1) for part in ("dev", "test"))
    return [Split(train, test)]


def _spam() -> list[Split]:
    return fifths(_columns("classification/sms_spam/sms.tsv", 1, 0))[:1]


def _polarity() -> list[Split]:
    records: list[Record] = []
    for part in ("neg", "pos"):
        texts = lines(text_file(f"classification/rt-polarity/rt-polarity.{part}"))
        records += [{"text": text, "label": part} for text in texts]
    return fifths(records)[:1]


def _financial() -> list[Split]:
    texts = lines(text_file("classification/financial_phrasebank/Sentences_AllAgree.txt"), "latin-1")
    return fifths([dict(zip(("text", "label"), text.rsplit("@", 1), strict=True)) for text in texts])[:1]


def _waimai() -> list[Split]:
    return fifths(_csv("classification/waimai_10k/waimai_10k.csv", "review", "label"))[:1]


def _few(name: str, text: str, label: str) -> Sequence[Split]:
    """A set of FewCLUE: trained on both of its small parts."""
    train, dev, test = (
        _json_lines(f"fewclue/{name}/{part}.json", text, label)
        for part in ("train_few_all", "dev_few_all", "test_public")
    )
    return [Split([*train, *dev], test)]


SETS = (
    LabelledSet("sst2", "classification", "accuracy", "en", _sst2, 0.806, _TFIDF, 0.885),
    LabelledSet("trec", "classification", "accuracy", "en", _trec, 0.898, _VECTORS, 0.965),
    LabelledSet("banking77", "classification", "accuracy", "en", _banking, 0.932, _VECTORS, 0.94),
    LabelledSet("sms-spam", "classification", "accuracy", "en", _spam, 0.987, _TFIDF, note="a fifth is tested"),
    LabelledSet(
        "rt-polarity", "classification", "accuracy", "en", _polarity, note="holds most of SST-2; a fifth is tested"
    ),
    LabelledSet("financial", "classification", "accuracy", "en", _financial, note="a fifth is tested"),
    LabelledSet("chnsenticorp", "classification", "accuracy", "zh", _chnsenticorp, 0.926, _CHARACTERS),
    LabelledSet("thucnews-titles", "classification", "accuracy", "zh", _thucnews, 0.863, _CHARACTERS),
    LabelledSet("waimai", "classification", "accuracy", "zh", _waimai, note="a fifth is tested"),
    LabelledSet(
        "tnews-few", "classification", "accuracy", "zh", lambda: _few("tnews", "sentence", "label_desc"), note="FewCLUE"
    ),
    LabelledSet(
        "iflytek-few",
        "classification",
        "accuracy",
        "zh",
        lambda: _few("iflytek", "sentence", "label_des"),
        note="FewCLUE",
    ),
    LabelledSet(
        "csldcp-few", "classification", "accuracy", "zh", lambda: _few("csldcp", "content", "label"), note="FewCLUE"
    ),
    LabelledSet(
        "eprstmt-few", "classification", "accuracy", "zh", lambda: _few("eprstmt", "sentence", "label"), note="FewCLUE"
    ),
)
