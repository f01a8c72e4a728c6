"""Backends: each finds what the exact one finds, leaves out what is not allowed, and gives the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from searchkit import contents

from pretune.errors import DataError, UsageError
from pretune.find import find_class, variants
from pretune.search.backend import Backend
from pretune.search.vectors import StoredVectors

AXIS = "search.backends"


def stored(count: int, width: int = 16, seed: int = 0) -> StoredVectors:
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return StoredVectors([vectors[: count // 3], vectors[count // 3 :]])


def queries(count: int, width: int = 16) -> np.ndarray:
    return StoredVectors.rows(stored(count, width, seed=1), np.arange(count))


def opened(name: str, vectors: StoredVectors, folder: Path) -> Backend:
    if name == "faiss":
        pytest.importorskip("faiss")
    folder.mkdir(exist_ok=True)
    backend = find_class(AXIS, name, Backend)
    return backend.open(vectors, folder, backend.build(vectors, folder, {}))


@pytest.mark.parametrize("name", variants(AXIS))
def test_the_nearest_are_those_of_all_products(name: str, tmp_path: Path) -> None:
    vectors = stored(700)
    backend = opened(name, vectors, tmp_path)
    hits = 0
    for query in queries(50):
        rows, scores = backend.search(query, 10)
        expected = np.concatenate(vectors.blocks) @ query
        np.testing.assert_allclose(scores, expected[rows], rtol=1e-5, atol=1e-6)
        assert (np.diff(scores) <= 0).all()
        hits += len({*rows.tolist()} & {*np.argsort(-expected)[:10].tolist()})
    assert hits >= 0.99 * 500


@pytest.mark.parametrize("name", variants(AXIS))
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_what_is_not_allowed_is_never_found(name: str, share: float, tmp_path: Path) -> None:
    vectors = stored(700)
    backend = opened(name, vectors, tmp_path)
    allowed = np.random.default_rng(3).random(700) < share
    everything = np.concatenate(vectors.blocks)
    for query in queries(20):
        rows, _ = backend.search(query, 10, allowed)
        assert allowed[rows].all()
        assert len(rows) == 10
        expected = np.where(allowed, everything @ query, -2)
        assert len({*rows.tolist()} & {*np.argsort(-expected)[:10].tolist()}) >= 9
    assert len(backend.search(queries(1)[0], 10, np.zeros(700, np.bool_))[0]) == 0


@pytest.mark.parametrize("name", variants(AXIS))
def test_the_same_vectors_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        opened(name, stored(600), tmp_path / folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_graph_grows(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    backend = find_class(AXIS, "usearch", Backend)
    whole = stored(600)
    part = StoredVectors([np.concatenate(whole.blocks)[:400]])
    backend.build(part, tmp_path / "first", {})
    settings = backend.build(whole, tmp_path / "second", {"previous": str(tmp_path / "first")})
    assert settings["passages"] == 600
    assert settings["recall"] >= 0.99
    grown = backend.open(whole, tmp_path / "second", settings)
    assert any((grown.search(query, 10)[0] >= 400).any() for query in queries(20))
    with pytest.raises(DataError, match="is no graph of 400 vectors"):
        backend.open(part, tmp_path / "second", settings)


def test_a_query_of_another_width_is_refused(tmp_path: Path) -> None:
    backend = opened("exact", stored(10), tmp_path)
    with pytest.raises(DataError, match="those of the index 16 numbers"):
        backend.search(np.ones(8, np.float32), 3)


def test_a_backend_of_ones_own_and_an_unknown_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from pretune.search.backends.exact import Exact\nclass Mine(Exact):\n    '''As exact.'''\n", encoding="utf-8"
    )
    assert find_class(AXIS, str(path), Backend).__name__ == "Mine"
    with pytest.raises(UsageError, match="did you mean 'usearch'"):
        find_class(AXIS, "usearc", Backend)
