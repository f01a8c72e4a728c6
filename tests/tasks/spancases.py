"""Random tags and spans, the same on every machine, and what seqeval 1.2.2 and nervaluate 1.2.1 say of them.

The numbers are in `spancases.json`. To write it again, with both packages on the path:

    PYTHONPATH=. python -m tests.tasks.spancases
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

FROZEN = Path(__file__).with_suffix(".json")
COUNT = 1000
PARTS = {"IOB1": "BI", "IOB2": "BI", "IOBES": "BIES", "BILOU": "BILU"}
Spans = list[tuple[int, int, str]]


def _tags(rng: random.Random, count: int, parts: str) -> list[str]:
    out: list[str] = []
    for _ in range(count):
        number = rng.random()
        if number < 0.3:
            out.append("O")
        elif number < 0.6 and out and out[-1] != "O":
            out.append(f"{rng.choice(parts)}-{out[-1][2:]}")
        else:
            out.append(f"{rng.choice(parts)}-{rng.choice('XYZ')}")
    return out


def tag_cases() -> list[tuple[str, list[list[str]], list[list[str]]]]:
    """Scheme, true tags of some texts, and predicted ones, many of them not as the scheme wants."""
    rng = random.Random(0)
    cases = []
    for _ in range(COUNT):
        name = rng.choice(sorted(PARTS))
        truth = [_tags(rng, rng.randrange(1, 12), PARTS[name]) for _ in range(rng.randrange(1, 5))]
        guess = [[t if rng.random() < 0.7 else _tags(rng, 1, PARTS[name])[0] for t in text] for text in truth]
        cases.append((name, truth, guess))
    return cases


def _spans(rng: random.Random, size: int) -> Spans:
    out: Spans = []
    start = 0
    while True:
        start += rng.randrange(0, 4)
        end = start + rng.randrange(1, 5)
        if end > size:
            return out
        out.append((start, end, rng.choice("XYZ")))
        start = end


def span_cases() -> list[tuple[list[Spans], list[Spans]]]:
    """True spans of some texts, and predicted ones, which may overlap."""
    rng = random.Random(1)
    cases = []
    for _ in range(COUNT):
        truth = [_spans(rng, 20) for _ in range(rng.randrange(1, 4))]
        guess: list[Spans] = []
        for text in truth:
            moved = [(max(0, a + rng.choice((0, 0, 0, 1, -1))), b + rng.choice((0, 0, 0, 1, 2)), c) for a, b, c in text]
            kept = [(a, max(b, a + 1), c if rng.random() < 0.7 else rng.choice("XYZ")) for a, b, c in moved]
            guess.append(sorted({*(span for span in kept if rng.random() < 0.8), *_spans(rng, 20)[: rng.randrange(2)]}))
        cases.append((truth, guess))
    return cases


def of_seqeval() -> list[list[list[float]]]:
    """Micro precision, recall and F1, and macro F1, by default and strict, of each case."""
    from seqeval import scheme
    from seqeval.metrics import sequence_labeling, v1

    out = []
    for name, truth, guess in tag_cases():
        rows = []
        for score, options in (
            (sequence_labeling.precision_recall_fscore_support, {}),
            (v1.precision_recall_fscore_support, {"scheme": getattr(scheme, name)}),
        ):
            micro = score(truth, guess, average="micro", zero_division=0, **options)
            macro = score(truth, guess, average="macro", zero_division=0, **options)
            values = [float(value) for value in (*micro[:3], macro[2])]
            rows.append([0.0 if value != value else round(value, 9) for value in values])  # a mean of nothing is NaN
        out.append(rows)
    return out


def of_nervaluate() -> list[list[list[int]]]:
    """Correct, incorrect, partial, missed and spurious spans, by each measure, of each case."""
    from nervaluate import Evaluator

    def plain(texts: list[Spans]) -> list[list[dict[str, Any]]]:
        return [[{"label": c, "start": a, "end": b - 1} for a, b, c in text] for text in texts]

    out = []
    for truth, guess in span_cases():
        overall = Evaluator(plain(truth), plain(guess), tags=["X", "Y", "Z"], loader="dict").evaluate()["overall"]
        measures = (overall[name] for name in ("strict", "exact", "partial", "ent_type"))
        out.append([[m.correct, m.incorrect, m.partial, m.missed, m.spurious] for m in measures])
    return out


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    text = json.dumps({"seqeval": of_seqeval(), "nervaluate": of_nervaluate()}, separators=(",", ":"))
    FROZEN.write_text(text.replace("]]],", "]]],\n").replace("]],[[", "]],\n[[") + "\n")
    sys.stdout.write(f"{FROZEN}: {FROZEN.stat().st_size:,} bytes\n")
