"""Sets of questions about texts, whose answers are parts of the texts."""

from __future__ import annotations

from benchmarks.texts import text_file
from benchmarks.understanding.sets import LabelledSet, Record, Split, fifths
from pretune.text.readers.files import SourceConfig
from pretune.text.readers.labelled import read_records
from pretune.text.readers.records import Column

_FIELDS = ("id", "title", "text", "question", "answers")


def _questions(name: str) -> list[Record]:
    columns = [Column(field, "", required=False) for field in _FIELDS]
    records = read_records(text_file(name), columns, SourceConfig(format="squad"), needs_labels=False)
    return [dict(record) for record in records if str(record["question"]).strip()]  # CMRC's trial part has an empty one


def _by_article(name: str) -> list[Split]:
    return fifths(_questions(name), lambda record: str(record["title"]))


def _cmrc() -> list[Split]:
    return [Split(*(_questions(f"reading/cmrc2018/cmrc2018_{part}.json") for part in ("trial", "dev")))]


SETS = (
    LabelledSet(
        "xquad-en",
        "reading",
        "f1",
        "en",
        lambda: _by_article("reading/xquad/xquad.en.json"),
        0.205,
        "the longest name or number of the sentence with most words of the question",
        0.45,
        {"lr": 3e-4, "epochs": 8, "batch": 16, "length": 384, "holdout": 0},
        note="five folds over articles",
        group="title",
    ),
    LabelledSet("xquad-zh", "reading", "f1", "zh", lambda: _by_article("reading/xquad/xquad.zh.json"), group="title"),
    LabelledSet("cmrc", "reading", "f1", "zh", _cmrc, note="trained on the trial part alone", group="text"),
)
