"""The key/value cache of native steps: pages of 16 tokens, which sequences share until one of them writes.

So beams that go on from one text, and texts that begin with one prompt, copy nothing but their last page; growing
moves nothing. Pages lie in chunks of memory that never move: a kernel gets the addresses of a sequence's pages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pretune.native.memory import Arena
from pretune.native.program import CacheShape

PAGE = 16
"""Tokens of a page."""

_FIRST = 1 << 23  # bytes that are taken from the system at once, at least
_CHUNK = 1 << 26  # and at most; a page may be larger


class PagedCache:
    """Holds keys and values, in fp32, of sequences that come and go; each has a slot.

    A page holds 16 tokens of all layers. Keys are transposed, so that the scores of 16 tokens are computed at once.

    Args:
        shape: what is held for each token.

    Attributes:
        lengths: tokens of each slot; 0 of a free one.
        table: addresses of the pages of each slot, 0 where there is none.

    Shape:
        page: (layers, 2, key heads, 16 * head width): keys (head width, 16), then values (16, head width)
        table: (slots, pages) int64
    """

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.lengths: list[int] = []
        self.table = torch.zeros(0, 4, dtype=torch.int64)
        self._pages: list[list[int]] = []  # numbers of each slot's pages
        self._free_slots: list[int] = []
        self._free: list[int] = []
        self._uses: list[int] = []  # slots that each page belongs to
        self._views: list[Tensor] = []
        self._size = shape.layers * 2 * shape.key_heads * PAGE * shape.head_width

    @property
    def pages(self) -> int:
        """How many pages are in use."""
        return len(self._views) - len(self._free)

    def admit(self) -> int:
        """Gives a slot to a new sequence."""
        if not self._free_slots:
            self._free_slots = [len(self.lengths)]
            self.lengths.append(0)
            self._pages.append([])
            if len(self.lengths) > len(self.table):
                self._resize(max(4, 2 * len(self.table)), self.table.shape[1])
        return self._free_slots.pop()

    def release(self, slot: int) -> None:
        """Ends a sequence; its slot and the pages that no other sequence has are free."""
        self.truncate(slot, 0)
        self._free_slots.append(slot)

    def fork(self, slot: int) -> int:
        """Gives a slot to a copy of a sequence, which shares its pages until one of the two writes."""
        other = self.admit()
        self._pages[other] = list(self._pages[slot])
        for page in self._pages[slot]:
            self._uses[page] += 1
        self.table[other] = self.table[slot]
        self.lengths[other] = self.lengths[slot]
        return other

    def select(self, slots: Sequence[int], rows: Sequence[int]) -> list[int]:
        """Keeps, repeats and reorders sequences.

        Args:
            slots: of all sequences that there are.
            rows: for each sequence afterwards, which of `slots` it goes on from.

        Returns:
            the slots of the sequences afterwards; those of `slots` that nothing goes on from are released.
        """
        taken: set[int] = set()
        out: list[int] = []
        for row in rows:
            out.append(self.fork(slots[row]) if row in taken else slots[row])
            taken.add(row)
        for row, slot in enumerate(slots):
            if row not in taken:
                self.release(slot)
        return out

    def truncate(self, slot: int, length: int) -> None:
        """Forgets what comes after the first tokens of a sequence.

        Raises:
            ValueError: it has not as many.
        """
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(f"a sequence of {self.lengths[slot]} tokens cannot be cut to {length}")
        kept = -(-length // PAGE)
        pages = self._pages[slot]
        for page in pages[kept:]:
            self._release_page(page)
        self.table[slot, kept : len(pages)] = 0
        del pages[kept:]
        self.lengths[slot] = length

    def reserve(self, slot: int, length: int) -> None:
        """Makes room for a sequence of so many tokens, the ones behind those that it has being its own to write."""
        pages, needed = self._pages[slot], -(-length // PAGE)
        if needed > self.table.shape[1]:
            self._resize(len(self.table), max(needed, 2 * self.table.shape[1]))
        for n in range(self.lengths[slot] // PAGE, needed):
            if n == len(pages):
                pages.append(self._allocate_page())
            elif self._uses[pages[n]] > 1:
                own = self._allocate_page()
                self._views[own].copy_(self._views[pages[n]])
                self._release_page(pages[n])
                pages[n] = own
            else:
                continue
            self.table[slot, n] = self._views[pages[n]].data_ptr()

    def write(self, slot: int, layer: int, keys: Tensor, values: Tensor, start: int = 0) -> None:
        """Sets keys and values of one layer, in pages that are reserved; the length stays what it is.

        Args:
            start: place of the first token.

        Shape:
            keys, values: (S, key heads, head width)
        """
        done = 0
        while done < len(keys):
            number, offset = divmod(start + done, PAGE)
            count = min(PAGE - offset, len(keys) - done)
            key, value = self._page_views(self._pages[slot][number], layer)
            key[:, :, offset : offset + count] = keys[done : done + count].permute(1, 2, 0)
            value[:, offset : offset + count] = values[done : done + count].transpose(0, 1)
            done += count

    def read(self, slot: int, layer: int, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Copies keys and values of one layer.

        Args:
            length: how many tokens; by default all that the sequence has.

        Shape:
            return: (S, key heads, head width) twice
        """
        length = self.lengths[slot] if length is None else length
        parts = [self._page_views(page, layer) for page in self._pages[slot][: -(-length // PAGE)]]
        if not parts:
            empty = torch.zeros(0, self.shape.key_heads, self.shape.head_width)
            return empty, empty
        keys = torch.cat([key.permute(2, 0, 1) for key, _ in parts])
        values = torch.cat([value.transpose(0, 1) for _, value in parts])
        return keys[:length], values[:length]

    def _page_views(self, page: int, layer: int) -> tuple[Tensor, Tensor]:
        """One layer of a page. Shape: (key heads, head width, 16), (key heads, 16, head width)."""
        shape = self.shape
        keys, values = self._views[page].view(shape.layers, 2, shape.key_heads, -1)[layer]
        return keys.view(-1, shape.head_width, PAGE), values.view(-1, PAGE, shape.head_width)

    def _allocate_page(self) -> int:
        """A page for one sequence; its values are any."""
        if not self._free:
            bytes_each = 4 * self._size
            count = max(1, min(max(len(self._views), _FIRST // bytes_each), _CHUNK // bytes_each))
            first = len(self._views)
            memory = Arena([count * bytes_each]).take(count * bytes_each).view(torch.float32)
            self._views += memory.view(count, self._size).unbind()
            self._uses += [0] * count
            self._free = list(range(first + count - 1, first - 1, -1))
        page = self._free.pop()
        self._uses[page] = 1
        return page

    def _release_page(self, page: int) -> None:
        self._uses[page] -= 1
        if not self._uses[page]:
            self._free.append(page)

    def _resize(self, slots: int, pages: int) -> None:
        larger = torch.zeros(slots, pages, dtype=torch.int64)
        larger[: self.table.shape[0], : self.table.shape[1]] = self.table
        self.table = larger
