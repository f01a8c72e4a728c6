"""Translations, from random weights: captions of pictures into German, short sentences into Chinese."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import cache

from benchmarks.texts import text_file
from benchmarks.writing.sets import Parts, Record, WritingSet, nearest

_HELD_OUT = 20  # one in so many sources of Tatoeba is tested on, and one trains nothing but is validated on


@cache
def _multi30k() -> Parts:
    parts = []
    for name in ("train", "val", "test_2016_flickr"):
        both = (text_file(f"translation/multi30k/{name}.{language}") for language in ("en", "de"))
        lines = (path.read_text(encoding="utf-8").removesuffix("\n").split("\n") for path in both)
        parts.append([{"source": en.strip(), "target": [de.strip()]} for en, de in zip(*lines, strict=True)])
    return Parts(*parts)


@cache
def _tatoeba() -> Parts:
    """Test and validation have every translation of a source; the first pair of each is held out with the others."""
    shares: dict[int, dict[str, list[str]]] = {0: defaultdict(list), 1: defaultdict(list)}
    train: list[Record] = []
    for line in text_file("translation/tatoeba-en-zh/cmn.txt").read_text(encoding="utf-8").split("\n"):
        if not line.strip():
            continue
        source, target, *_ = line.split("\t")
        share = int(hashlib.sha256(source.encode()).hexdigest(), 16) % _HELD_OUT
        if share in shares:
            shares[share][source].append(target)
        else:
            train.append({"source": source, "target": [target]})
    test, validation = ([{"source": s, "target": t} for s, t in shares[n].items()] for n in (0, 1))
    return Parts(train, validation, test)


def _source(record: Record) -> str:
    return str(record["source"])


def _targets(record: Record) -> list[str]:
    return list(record["target"])


def _nearest(parts: Parts) -> list[str]:
    """The translation of the most similar source that is trained on; the validation part is not read."""
    index = nearest([_source(record) for record in parts.train], [_source(record) for record in parts.test])
    return [_targets(parts.train[n])[0] for n in index]


_TOKENIZER = {"kind": "bpe", "special_tokens": "roberta", "vocab_size": 8000}
_DATA = {"data": {"length": 96, "batch_tokens": 4096, "window": 4096}}
SETS = (
    WritingSet(
        "multi30k",
        "generation",
        ("bleu", "chrf"),
        "de",
        _multi30k,
        _source,
        _targets,
        _nearest,
        "nearest source, TF-IDF",
        tokenizer=_TOKENIZER,
        recipe="translate.toml",
        fields=_DATA,
        target=35.0,
        note="fairseq's transformer_tiny, lower-cased and tokenised, 8,000 updates of a GPU: 41.0",
    ),
    WritingSet(
        "tatoeba-zh",
        "generation",
        ("bleu", "chrf"),
        "zh",
        _tatoeba,
        _source,
        _targets,
        _nearest,
        "nearest source, TF-IDF",
        tokenizer={"kind": "wordpiece", "lowercase": False, "vocab_size": 8000},
        recipe="translate-chinese.toml",
        target=25.0,
        note="held out by the SHA-256 of the English sentence; all its translations are references",
    ),
)
