"""The sets that methods are compared on: labelled ones, and dialogues with summaries, whose words are predicted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.texts import text_file
from benchmarks.understanding.sets import Split

LABELLED: Mapping[str, str] = {"sst2": "en", "banking77": "en", "chnsenticorp": "zh", "wikiann-en": "en"}
"""Language by the name that `benchmarks.understanding` knows each by."""
GENERATED: Mapping[str, str] = {"dialogsum": "decoder"}
NAMES = (*LABELLED, *GENERATED)


@dataclass(frozen=True)
class Length:
    """How long a run of a set is.

    Attributes:
        epochs: over the training records.
        batch: texts of a step.
        length: tokens of a text at most.
    """

    epochs: float = 10
    batch: int = 32
    length: int = 128


LENGTHS: Mapping[str, Length] = {"banking77": Length(epochs=8), "dialogsum": Length(batch=8, length=256)}


def length_of(name: str) -> Length:
    """How long a run of a set is."""
    return LENGTHS.get(name, Length())


def model_of(name: str) -> str:
    """Which model a set is for: `en`, `zh` or `decoder`."""
    return {**LABELLED, **GENERATED}[name]


def dialogues() -> Split:
    """Dialogues, each with its summary behind it; the development part trains, as the training part is not here."""
    parts = []
    for part in ("dev", "test"):
        lines = text_file(f"generation/dialogsum/dialogsum.{part}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        summary = "summary" if part == "dev" else "summary1"
        parts.append([{"text": f"{row['dialogue']}\nSummary: {row.get(summary, '')}"} for row in rows])
    return Split(*parts)
