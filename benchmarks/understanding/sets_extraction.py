"""Sets of relations, events and semantic roles; and the set of entity types of a sentence, as several labels."""

from __future__ import annotations

from functools import partial

from benchmarks.texts import text_file
from benchmarks.understanding.sets import LabelledSet, Record, Split, fifths
from pretune.errors import DataError
from pretune.tasks.shared.annotated import read_annotated
from pretune.text.readers.files import SourceConfig, find_sources
from pretune.text.readers.labelled import LabelledConfig, read_records
from pretune.text.readers.propbank import Sentence, read_sentences, record_of
from pretune.text.readers.records import RecordError

_ROLES_EN = [
    "ARG0",
    "ARG1",
    "ARG2",
    "ARG3",
    "ARG4",
    "ARG5",
    "ARGM-ADJ",
    "ARGM-ADV",
    "ARGM-CAU",
    "ARGM-COM",
    "ARGM-CXN",
    "ARGM-DIR",
    "ARGM-DIS",
    "ARGM-EXT",
    "ARGM-GOL",
    "ARGM-LOC",
    "ARGM-LVB",
    "ARGM-MNR",
    "ARGM-MOD",
    "ARGM-NEG",
    "ARGM-PRD",
    "ARGM-PRP",
    "ARGM-PRR",
    "ARGM-REC",
    "ARGM-TMP",
    "C-ARG0",
    "C-ARG1",
    "C-ARG2",
    "C-ARG3",
    "C-ARGM-CXN",
    "C-ARGM-EXT",
    "C-ARGM-LOC",
    "C-ARGM-MNR",
    "R-ARG0",
    "R-ARG1",
    "R-ARG2",
    "R-ARG3",
    "R-ARGM-ADV",
    "R-ARGM-CAU",
    "R-ARGM-COM",
    "R-ARGM-LOC",
    "R-ARGM-MNR",
    "R-ARGM-TMP",
]
_ROLES_ZH = [
    "A0",
    "A1",
    "A2",
    "A3",
    "A4",
    "AM-ADJ",
    "AM-ADV",
    "AM-CAU",
    "AM-DIS",
    "AM-EXT",
    "AM-LOC",
    "AM-MNR",
    "AM-NEG",
    "AM-PRP",
    "AM-TMP",
    "C-A1",
    "R-A0",
    "R-A1",
]


def _semeval() -> list[Split]:
    def part(name: str) -> list[Record]:
        path = text_file(f"relation/semeval2010-task8/{name}.tsv")
        return [dict(record) for record in read_records(path, [], SourceConfig(format="semeval"), needs_labels=False)]

    return [Split(part("train"), part("test"))]


def casie() -> list[Record]:
    """The documents of CASIE whose offsets match their texts: 581 of 600."""
    folder = text_file("relation/events-casie/105.json").parent
    records: list[Record] = []
    for record in read_records(folder, [], SourceConfig(format="casie"), needs_labels=False):
        try:
            read_annotated(record, LabelledConfig(), links=True)
        except DataError:
            continue
        records.append(dict(record))
    return records


def _casie_folds() -> list[Split]:
    return fifths(casie(), lambda record: str(record["id"]))


def role_sentences(language: str) -> list[Sentence]:
    """The sentences of Universal Propositions."""
    name = {"en": "en_ewt-up-dev", "zh": "zh-up-dev"}[language]
    config = SourceConfig(format="propbank")
    (source,) = find_sources(text_file(f"tagging/srl-up/{name}.conllu"), "propbank")
    return [item for item in read_sentences(source, config) if not isinstance(item, RecordError)]


def _roles(language: str) -> list[Split]:
    return fifths([record_of(sentence) for sentence in role_sentences(language)])


def _types(record: Record) -> list[str]:
    spans = record["spans"]
    assert isinstance(spans, list)  # the reader gives them
    return sorted({str(span["label"]) for span in spans})


def _cluener_types() -> list[Split]:
    def part(name: str) -> list[Record]:
        records = read_records(text_file(name), [], SourceConfig(format="cluener"), needs_labels=False)
        return [{"text": record["text"], "label": _types(record)} for record in records]

    return [Split(part("tagging/cluener/train.jsonl"), part("tagging/cluener/dev.json"))]


SETS = (
    LabelledSet(
        "semeval-relations",
        "relations",
        "f1_macro",
        "en",
        _semeval,
        0.762,
        "TF-IDF of five segments",
        0.84,
        {"epochs": 6, "lr": 4e-4, "length": 128},
    ),
    LabelledSet(
        "casie-events",
        "events",
        "argument_f1",
        "en",
        _casie_folds,
        0.042,
        "dictionary of phrases",
        recipe={"task": {"events": {"stride": 48}}, "epochs": 6, "lr": 4e-4, "length": 160, "batch": 16},
        note="five folds over documents; 19 of 600 whose offsets are wrong are left out",
    ),
    *(
        LabelledSet(
            f"up-roles-{language}{suffix}",
            "roles",
            "argument_f1",
            language,
            partial(_roles, language),
            baseline,
            "dictionary of head words, with the true trees",
            recipe={
                "task": {"roles": {"link_labels": labels, "given": suffix != ""}},
                "epochs": 12,
                "lr": 4e-4,
                "length": 128,
                "batch": 16,
            },
            note="five folds" + (", predicates given" if suffix else ""),
        )
        for language, labels, suffix, baseline in (
            ("en", _ROLES_EN, "", 0.209),
            ("en", _ROLES_EN, "-given", 0.228),
            ("zh", _ROLES_ZH, "", 0.078),
            ("zh", _ROLES_ZH, "-given", 0.091),
        )
    ),
    LabelledSet(
        "cluener-types",
        "multilabel",
        "f1_micro",
        "zh",
        _cluener_types,
        0.785,
        "TF-IDF of 1 to 3 characters, a threshold for each label",
        note="the set of entity types of a sentence",
    ),
)
