"""Pages are shared until one of the sequences writes, and come back when nobody has them."""

from __future__ import annotations

import pytest
import torch

from pretune.native.cache import PAGE, PagedCache
from pretune.native.program import CacheShape

SHAPE = CacheShape(layers=2, key_heads=3, head_width=4)


def append(cache: PagedCache, slot: int, count: int, seed: int) -> None:
    """As a step does: reserve, write every layer, advance."""
    start = cache.lengths[slot]
    cache.reserve(slot, start + count)
    generator = torch.Generator().manual_seed(seed)
    for layer in range(SHAPE.layers):
        keys, values = torch.randn(2, count, SHAPE.key_heads, SHAPE.head_width, generator=generator)
        cache.write(slot, layer, keys, values, start)
    cache.lengths[slot] = start + count


def content(cache: PagedCache, slot: int) -> torch.Tensor:
    return torch.stack([torch.stack(cache.read(slot, layer)) for layer in range(SHAPE.layers)])


def test_what_is_written_is_read_through_growth() -> None:
    cache = PagedCache(SHAPE)
    slots = [cache.admit() for _ in range(6)]
    for turn in range(5):
        for slot in slots:
            append(cache, slot, 7 + slot, seed=10 * turn + slot)
    for slot in slots:
        alone = PagedCache(SHAPE)
        assert alone.admit() == 0
        for turn in range(5):
            append(alone, 0, 7 + slot, seed=10 * turn + slot)
        assert torch.equal(content(cache, slot), content(alone, 0))


def test_the_layout_is_that_of_the_kernels() -> None:
    cache = PagedCache(SHAPE)
    slot = cache.admit()
    append(cache, slot, PAGE + 3, seed=0)
    keys, values = cache.read(slot, 1)
    page = cache._views[cache._pages[slot][1]]
    assert cache.table[slot, 1] == page.data_ptr()
    assert page.data_ptr() % 64 == 0
    base = ((1 * 2 + 0) * SHAPE.key_heads + 2) * PAGE * SHAPE.head_width  # keys of head 2 in layer 1
    assert page[base + 3 * PAGE + 1] == keys[PAGE + 1, 2, 3]
    base = ((1 * 2 + 1) * SHAPE.key_heads + 2) * PAGE * SHAPE.head_width
    assert page[base + 1 * SHAPE.head_width + 3] == values[PAGE + 1, 2, 3]


def test_a_fork_shares_all_but_the_page_that_is_written() -> None:
    cache = PagedCache(SHAPE)
    slot = cache.admit()
    append(cache, slot, 2 * PAGE + 5, seed=0)
    before = content(cache, slot)
    other = cache.fork(slot)
    assert cache.pages == 3
    append(cache, other, 2, seed=1)
    assert cache.pages == 4
    assert torch.equal(content(cache, slot), before)
    assert torch.equal(content(cache, other)[:, :, : 2 * PAGE + 5], before)
    append(cache, slot, 2, seed=2)
    assert cache.pages == 4, "the first has its last page for itself"
    cache.release(slot)
    assert cache.pages == 3
    cache.release(other)
    assert cache.pages == 0
    assert not cache.table.any()


def test_selection_keeps_repeats_and_drops() -> None:
    cache = PagedCache(SHAPE)
    slots = [cache.admit() for _ in range(3)]
    for slot in slots:
        append(cache, slot, 5 + slot, seed=slot)
    kept = [content(cache, slot) for slot in slots]
    after = cache.select(slots, [2, 0, 2, 2])
    assert len(set(after)) == 4
    assert all(torch.equal(content(cache, slot), kept[row]) for slot, row in zip(after, [2, 0, 2, 2], strict=True))
    assert cache.pages == 2
    assert cache.admit() == slots[1], "its slot is free"


def test_truncation_gives_pages_back_and_never_writes_into_those_of_others() -> None:
    cache = PagedCache(SHAPE)
    slot = cache.admit()
    append(cache, slot, 3 * PAGE, seed=0)
    before = content(cache, slot)
    other = cache.fork(slot)
    cache.truncate(other, PAGE + 1)
    append(cache, other, 4, seed=1)
    assert torch.equal(content(cache, slot), before)
    assert torch.equal(content(cache, other)[:, :, : PAGE + 1], before[:, :, : PAGE + 1])
    cache.release(slot)
    assert cache.pages == 2
    with pytest.raises(ValueError, match="cannot be cut to 22"):
        cache.truncate(other, PAGE + 6)
