"""The set of digests against a plain Python set, and its memory."""

from __future__ import annotations

import hashlib
import random
import tracemalloc

import pytest

from pretune.text.store.dedup import DuplicateFilter


def digest(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()[:16]


@pytest.mark.parametrize("min_recent", [1, 50, 1 << 14])
def test_against_a_set(min_recent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DuplicateFilter, "MIN_RECENT", min_recent)
    random.seed(0)
    seen, plain = DuplicateFilter(), set()
    for _ in range(200):
        batch = [digest(random.randrange(3000)) for _ in range(random.randrange(0, 60))]
        want = []
        for d in batch:
            want.append(d not in plain)
            plain.add(d)
        assert seen.add(batch).tolist() == want
    assert len(seen) == len(plain)


def test_equal_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DuplicateFilter, "MIN_RECENT", 0)
    seen = DuplicateFilter()
    batches = [[bytes([a]) * 8 + bytes([b]) * 8 for b in range(5)] for a in (1, 255, 1)]
    assert seen.add(batches[0]).all()
    assert seen.add(batches[1]).all()
    assert not seen.add(batches[2]).any()
    assert seen.add([b"\1" * 8 + b"\7" * 8, b"\xff" * 16, b"\0" * 16]).tolist() == [True, True, True]
    assert not seen.add([b"\1" * 8 + b"\7" * 8, b"\xff" * 16, b"\0" * 16]).any()


def test_memory_is_at_most_32_bytes_a_document() -> None:
    count, step = 200_000, 4_000
    seen = DuplicateFilter()
    tracemalloc.start()
    for start in range(0, count, step):
        raw = random.Random(start).randbytes(16 * step)
        seen.add([raw[i : i + 16] for i in range(0, len(raw), 16)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    constant = step * 200 + DuplicateFilter.MIN_RECENT * 200
    assert len(seen) == count
    assert peak < 32 * count + constant
