"""Sets of tagged texts: names, parts of speech, and the words of Chinese."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from benchmarks.texts import text_file
from benchmarks.understanding.sets import LabelledSet, Record, Split
from pretune.tasks.shared.annotated import annotated_columns
from pretune.text.readers.labelled import LabelledConfig, read_records

_FIELDS = ("text", "tokens", "tags", "spans", "label")


def _records(name: str, format: str) -> list[Record]:
    """The records of a file, without the fields that no task reads."""
    config = LabelledConfig(format=format)
    records = read_records(text_file(name), annotated_columns(config, True, tags=True), config)
    return [{field: record[field] for field in _FIELDS if field in record} for record in records]


def _files(folder: str, train: str, test: str, format: str) -> list[Split]:
    return [Split(*(_records(f"tagging/{folder}/{name}", format) for name in (train, test)))]


def _flat(records: list[Record]) -> list[Record]:
    """Without those whose spans overlap: one of CLUENER's."""
    return [record for record in records if not _overlaps(record["spans"])]


def _overlaps(spans: object) -> bool:
    assert isinstance(spans, list)  # of the reader
    order = sorted((span["start"], span["end"]) for span in spans)
    return any(after[0] < before[1] for before, after in pairwise(order))


def _cluener() -> list[Split]:
    (split,) = _files("cluener", "train.jsonl", "dev.json", "cluener")
    return [Split(_flat([*split.train]), _flat([*split.test]))]


def _word_tags(record: Record) -> Record:
    """The characters of a sentence, with tags that say where words begin and end."""
    words = record["tokens"]
    assert isinstance(words, list)  # of the reader
    tags = ["S" if len(word) == 1 else "B" + "M" * (len(word) - 2) + "E" for word in words]
    return {"tokens": list("".join(words)), "tags": list("".join(tags))}


def _chinese_words() -> list[Split]:
    (split,) = _files("ud-zh-gsdsimp", "zh_gsdsimp-ud-dev.conllu", "zh_gsdsimp-ud-test.conllu", "conllu")
    return [Split([*map(_word_tags, split.train)], [*map(_word_tags, split.test)])]


_UD = "CRFsuite on words, their shapes and affixes"

SETS = (
    LabelledSet(
        "wikiann-en", "tagging", "f1", "en", partial(_files, "wikiann-en", "train", "test", "conll"),
        0.743, "CRFsuite", 0.79, {"lr": 3e-4, "epochs": 3, "batch": 32},
    ),
    LabelledSet(
        "peoples-daily", "tagging", "f1", "zh",
        partial(_files, "peoples-daily-ner", "example.dev", "example.test", "conll"), 0.698, "CRFsuite",
        note="trained on its dev part, as its training part is not here",
    ),
    LabelledSet(
        "cluener", "tagging", "f1", "zh", _cluener, 0.697, "averaged perceptron of CRFsuite, 15 passes",
        note="one record whose spans overlap is left out; tested on dev",
    ),
    LabelledSet(
        "ud-pos-en", "tagging", "accuracy", "en",
        partial(_files, "ud-en-ewt", "en_ewt-ud-dev.conllu", "en_ewt-ud-test.conllu", "conllu"), 0.910, _UD,
        recipe={"lr": 3e-4, "epochs": 5, "batch": 32}, note="trained on dev",
    ),
    LabelledSet(
        "ud-pos-zh", "tagging", "accuracy", "zh",
        partial(_files, "ud-zh-gsdsimp", "zh_gsdsimp-ud-dev.conllu", "zh_gsdsimp-ud-test.conllu", "conllu"), 0.799, _UD,
        note="trained on dev",
    ),
    LabelledSet(
        "ud-words-zh", "tagging", "f1", "zh", _chinese_words, note="where words begin and end; trained on dev",
    ),
)  # fmt: skip
