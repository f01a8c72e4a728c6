"""The texts: Tatoeba's translations, and reviews of two languages whose labels say the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.texts import text_file

Record: TypeAlias = Mapping[str, str]
_TATOEBA = "translation/tatoeba-en-zh/cmn.txt"
_PARTS = 20  # one of which is held out


@dataclass(frozen=True)
class Translations:
    """Pairs for training, and those that are held out.

    Attributes:
        train: `text` (English) and `second` (Chinese).
        test: each English text with the first of its translations.
    """

    train: Sequence[Record]
    test: Sequence[Record]


def tatoeba() -> Translations:
    """The pairs; held out are all of an English text whose SHA-256 is a multiple of 20: 1,065 texts of 20,476."""
    train: list[Record] = []
    test: dict[str, Record] = {}
    for line in text_file(_TATOEBA).read_text(encoding="utf-8").splitlines():
        source, target, *_ = line.split("\t")
        pair = {"text": source, "second": target}
        if int(hashlib.sha256(source.encode()).hexdigest(), 16) % _PARTS:
            train.append(pair)
        else:
            test.setdefault(source, pair)
    return Translations(train, list(test.values()))


def reviews(name: str) -> list[Record]:
    """Reviews with the labels `negative` and `positive`.

    Args:
        name: `sst2` (English films: training sentences), `chnsenticorp` (Chinese hotels and goods: test part) or
            `waimai` (Chinese deliveries).
    """
    labels = {"0": "negative", "1": "positive"}
    path, text, label = {
        "sst2": ("classification/sst2/train.tsv", 0, 1),
        "chnsenticorp": ("classification/chnsenticorp/test.tsv", 1, 0),
        "waimai": ("classification/waimai_10k/waimai_10k.csv", 1, 0),
    }[name]
    mark = "," if path.endswith(".csv") else "\t"
    rows = [line.split(mark, 1) for line in text_file(path).read_text(encoding="utf-8").splitlines()]
    return [
        {"text": row[text].strip(), "label": labels[row[label]]}
        for row in rows
        if len(row) == 2 and row[label] in labels and row[text].strip()
    ]
