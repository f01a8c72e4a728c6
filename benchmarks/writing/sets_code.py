"""Code: functions of Python's own library from their signatures and docstrings, from random weights."""

from __future__ import annotations

from functools import cache

from benchmarks.writing.functions import PARTS, read_functions
from benchmarks.writing.sets import Parts, Record, WritingSet, nearest


@cache
def _functions() -> Parts:
    parts = read_functions()
    return Parts(*([{**record, "target": [record["target"]]} for record in parts[name]] for name in PARTS))


def _source(record: Record) -> str:
    return str(record["source"])


def _targets(record: Record) -> list[str]:
    return list(record["target"])


def _nearest(parts: Parts) -> list[str]:
    """The function with the most similar signature and docstring."""
    index = nearest([_source(record) for record in parts.train], [_source(record) for record in parts.test])
    return [_targets(parts.train[n])[0] for n in index]


SETS = (
    WritingSet(
        "functions",
        "generation",
        ("edit", "parses", "bleu"),
        "en",
        _functions,
        _source,
        _targets,
        _nearest,
        "nearest signature and docstring, TF-IDF",
        tokenizer={"kind": "bpe", "special_tokens": "gpt2", "vocab_size": 4000},
        fields={
            "model": {"family": "llama", "size": "mini", "dropout": 0.1},
            "data": {"length": 768, "batch_tokens": 4096},
            "task": {"generation": {"metric": "edit", "truncate_target": "head"}},
            "optimizer": {"lr": 1e-3},
            "budget": {"minutes": 20},
        },
        note="split by top-level module of this interpreter's library; a retrieved function always parses",
    ),
)
