"""How long a query takes among many passages, and how many of the ten nearest the approximate backends find.

Vectors are drawn: points of a space of 32 dimensions, turned into 384, with noise in all of them. Words are those of
real texts, cut into passages. Times are CPU time of one thread, as other processes may run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.find import find_class
from pretune.search.backend import Backend
from pretune.search.documents import DocumentConfig, read_documents
from pretune.search.passages import WindowConfig, cut_documents
from pretune.search.vectors import StoredVectors
from pretune.search.words import WordIndex

TEXTS = ("corpora/en/libreoffice-help-en.txt", "corpora/en/anarchist-faq.txt", "corpora/en/war_and_peace_2600.txt")
_DIMENSIONS, _NOISE = 32, 0.3
Say = Callable[[str], None]


def measure_backends(count: int, width: int, backends: Sequence[str], work: Path, say: Say) -> dict[str, Any]:
    """Build and query time, and the recall of the ten nearest, of each backend.

    Args:
        count: vectors.
        width: numbers of a vector.
        work: folder of the vectors and of what backends write.
    """
    work.mkdir(parents=True, exist_ok=True)
    vectors, queries = _draw(count, width)
    np.save(work / "vectors.npy", vectors)
    stored = StoredVectors([np.load(work / "vectors.npy", mmap_mode="r")])
    expected = [np.argpartition(-(vectors @ query), 10)[:10] for query in queries]
    out: dict[str, Any] = {"passages": count, "width": width, "queries": len(queries)}
    for name in backends:
        folder = work / name
        folder.mkdir(exist_ok=True)
        variant = find_class("search.backends", name, Backend)  # type: ignore[type-abstract]
        began = time.process_time()
        settings = variant.build(stored, folder, {})
        build = time.process_time() - began
        backend = variant.open(stored, folder, settings)
        times, hits = [], 0
        for query, nearest in zip(queries, expected, strict=True):
            began = time.process_time()
            rows, _ = backend.search(query, 10)
            times.append(time.process_time() - began)
            hits += len({*rows.tolist()} & {*nearest.tolist()})
        row = {"build_s": build, "query_ms": _percentiles(times), "recall": hits / (10 * len(queries)), **settings}
        out[name] = row
        say(f"{name}: build {build:.1f} s, query {row['query_ms']} ms, recall@10 {row['recall']:.4f}, {settings}")
    return out


def measure_words(count: int, data: Path, work: Path, say: Say) -> dict[str, Any]:
    """Query time of BM25 among passages of real texts, with queries of six words of a passage."""
    sources = [data / name for name in TEXTS]
    documents = read_documents(sources, DocumentConfig(documents="blank-line"))
    cut = (passage for _, passages in cut_documents(documents, WindowConfig(size=300)) for passage in passages)
    texts = [passage.text for passage in islice(cut, count)]
    folder = work / "words"
    began = time.process_time()
    WordIndex.build(texts, "bigrams", folder)
    build = time.process_time() - began
    index = WordIndex.open(folder, "bigrams", len(texts))
    draw = np.random.default_rng(0)
    times = []
    for row in draw.integers(0, len(texts), 200).tolist():
        words = texts[row].split()
        query = " ".join(draw.choice(words, min(6, len(words)), replace=False).tolist())
        began = time.process_time()
        index.search(query, 100)
        times.append(time.process_time() - began)
    out = {"passages": len(texts), "build_s": build, "query_ms": _percentiles(times)}
    say(f"words: {len(texts):,} passages, build {build:.1f} s, query {out['query_ms']} ms")
    return out


def _draw(count: int, width: int, queries: int = 500) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of unit length and queries of the same distribution. Shape: return: (count, width), (queries, width)"""
    draw = np.random.default_rng(0)
    turn = draw.standard_normal((_DIMENSIONS, width)).astype(np.float32)
    points = draw.standard_normal((count + queries, _DIMENSIONS)).astype(np.float32) @ turn
    points += _NOISE * np.sqrt(_DIMENSIONS) * draw.standard_normal(points.shape).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return np.ascontiguousarray(points[:count]), points[count:]


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    return {name: round(float(np.percentile(times, q)) * 1e3, 2) for name, q in (("p50", 50), ("p95", 95))}
