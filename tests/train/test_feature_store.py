"""Rows on the disk by their content: what several ranks and processes write is found by all, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretune.train.feature_store import FeatureStore

DIGEST = "ab" * 16


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def rows(count: int, number: int = 0, width: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.arange(count * width).view(count, width) + 1000 * number).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_back_in_this_process_and_the_next(tmp_path: Path, dtype: torch.dtype) -> None:
    store = FeatureStore(tmp_path / "new", DIGEST)
    parts = {n: [rows(n % 7, n, dtype=dtype), rows(2, n, width=3)] for n in range(1, 60)}
    for n, part in parts.items():
        assert store.find(key(n)) is None
        store.put(key(n), part)
    for reader in (store, FeatureStore(tmp_path / "new", DIGEST)):
        reader.publish()
        assert len(reader) in (0, 59)
        store.close() if reader is store else None
    again = FeatureStore(tmp_path / "new", DIGEST)
    for n, part in parts.items():
        found = again.find(key(n))
        assert found is not None
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, part, strict=True))
    again.put(key(99), parts[3])
    assert torch.equal(again.find(key(99))[0], parts[3][0])  # type: ignore[index]
    assert torch.equal(again.find(key(59))[0], parts[59][0])  # type: ignore[index]


def test_files_grow_past_what_was_mapped(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, DIGEST)
    kept = rows(3000, width=64)
    early = None
    for n in range(4):
        store.put(key(n), [kept + n])
        early = early if early is not None else store.find(key(0))
    assert early is not None
    assert torch.equal(early[0], kept)
    assert torch.equal(store.find(key(3))[0], kept + 3)  # type: ignore[index]


def test_ranks_find_what_others_have_published(tmp_path: Path) -> None:
    one, two = FeatureStore(tmp_path, DIGEST, 0), FeatureStore(tmp_path, DIGEST, 1)
    one.put(key(1), [rows(3, 1)])
    two.put(key(2), [rows(2, 2)])
    two.refresh()
    assert two.find(key(1)) is None
    for store in (one, two):
        store.publish()
    for store in (one, two):
        store.refresh()
    assert torch.equal(two.find(key(1))[0], rows(3, 1))  # type: ignore[index]
    assert torch.equal(one.find(key(2))[0], rows(2, 2))  # type: ignore[index]
    one.put(key(3), [rows(70_000, 3)])  # the file that the other has mapped grows
    one.publish()
    two.refresh()
    assert torch.equal(two.find(key(3))[0], rows(70_000, 3))  # type: ignore[index]
    alone = FeatureStore(tmp_path, DIGEST, 0)  # a run that goes on with one rank
    assert torch.equal(alone.find(key(2))[0], rows(2, 2))  # type: ignore[index]


def test_another_digest_finds_nothing_and_clears_away(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, DIGEST)
    store.put(key(1), [rows(3)])
    store.close()
    other = FeatureStore(tmp_path, "cd" * 16)
    assert other.find(key(1)) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["index", "hidden"])
@pytest.mark.parametrize("cut", [1, 5, 45, 10_000])
def test_what_a_killed_process_or_a_bad_disk_left(tmp_path: Path, what: str, cut: int) -> None:
    store = FeatureStore(tmp_path, DIGEST)
    for n in range(5):
        store.put(key(n), [rows(3, n)])
    store.close()
    (path,) = tmp_path.glob(f"*.{what}")
    path.write_bytes(path.read_bytes()[:-cut] if what == "index" else b"\0" * 50)
    again = FeatureStore(tmp_path, DIGEST)
    for n in range(5):
        found = again.find(key(n))
        assert found is None or torch.equal(found[0], rows(3, n))
        again.put(key(n), [rows(3, n)])
    again.close()
    last = FeatureStore(tmp_path, DIGEST)
    assert all(torch.equal(last.find(key(n))[0], rows(3, n)) for n in range(5))  # type: ignore[index]


def test_rows_of_another_sort_are_not_mixed_in(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, DIGEST)
    store.put(key(1), [rows(3)])
    store.put(key(2), [rows(3, width=5)])
    assert store.failure is not None
    assert store.find(key(2)) is None
    assert store.find(key(1)) is not None
