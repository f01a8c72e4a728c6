"""`python -m benchmarks.writing.consistency`: do judges tell a true summary from one made wrong?

    DialogSum test -> the summary | that of another dialogue | with another name | with another number
    -> names, numbers, and with --entailment RUN entailment -> how often the true one scores higher; ties count half

A judge that knows nothing has 0.5. Which names and numbers are put in is a function of the number of the dialogue.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import App

from benchmarks.command import run_command
from benchmarks.texts import text_file
from pretune.metrics.metric import Metric, Texts, build_metric
from pretune.metrics.names import capitalised_names

app = App(name="python -m benchmarks.writing.consistency", help=__doc__)
_OF_SPEAKERS = ("Person1", "Person2", "Person3", "Person4")  # how dialogues name them
Pairs = Mapping[str, Sequence[tuple[str, str, str]]]


@app.default
def measure(*, entailment: Path | None = None, limit: int = 0) -> None:
    """Print a table of how often the true summary scores higher.

    Args:
        entailment: folder of a classifier of pairs with a label for entailment.
        limit: dialogues at most; 0 for all.
    """
    rows = [json.loads(line) for line in text_file("generation/dialogsum/dialogsum.test.jsonl").open(encoding="utf-8")]
    pairs = wrong_summaries(rows[: limit or None])
    metrics = {name: build_metric(name) for name in ("names", "numbers")}
    if entailment is not None:
        import pretune
        from pretune.evaluate.judges.judge import build_judge

        metrics["entailment"] = build_judge("entailment", pretune.load(entailment))
    print("| made wrong by | pairs | " + " | ".join(metrics) + " |")
    print("|---" * (len(metrics) + 2) + "|")
    for name, triples in pairs.items():
        cells = [f"{preference(metric, triples):.3f}" for metric in metrics.values()]
        print(f"| {name} | {len(triples)} | {' | '.join(cells)} |")


def wrong_summaries(rows: Sequence[Mapping[str, Any]]) -> Pairs:
    """Triples of a dialogue, its summary and a wrong one, by how that was made."""
    pairs: dict[str, list[tuple[str, str, str]]] = {"another dialogue": [], "another name": [], "another number": []}
    names = sorted({name for row in rows for name in _names(row["summary1"])})
    for n, row in enumerate(rows):
        source, summary = str(row["dialogue"]), str(row["summary1"])
        other = next((r["summary1"] for r in [*rows[n + 1 :], *rows[:n]] if r["dialogue"] != source), None)
        if other is not None:
            pairs["another dialogue"].append((source, summary, str(other)))
        foreign = [name for name in names if name.casefold() not in source.casefold()]
        if (own := _names(summary)) and foreign:
            pairs["another name"].append((source, summary, summary.replace(own[0], foreign[n % len(foreign)])))
        if wrong := _other_number(summary, n):
            pairs["another number"].append((source, summary, wrong))
    return pairs


def _names(summary: str) -> list[str]:
    return [name for name in capitalised_names(summary) if name not in _OF_SPEAKERS]


def _other_number(summary: str, seed: int) -> str | None:
    """The summary with its first digits made others; None where it has none but those of speakers."""
    words = summary.split(" ")
    for n, word in enumerate(words):
        digits = "".join(char for char in word if char.isdigit())
        if digits and "#" not in word:
            return " ".join([*words[:n], word.replace(digits, str(int(digits) + 1 + seed % 7)), *words[n + 1 :]])
    return None


def preference(metric: Metric, triples: Sequence[tuple[str, str, str]]) -> float:
    """How often the true summary scores higher than the wrong one; a tie, or a text without a score, counts half."""
    if not triples:
        return float("nan")
    sources = [source for source, _, _ in triples]
    name = metric.main
    right, wrong = (
        metric.judge(Texts.of([triple[side] for triple in triples], None, sources, "en")).per_text[name]
        for side in (1, 2)
    )
    difference = np.nan_to_num(right - wrong)
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


if __name__ == "__main__":
    run_command(app)
