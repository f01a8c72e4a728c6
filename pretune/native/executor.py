"""Runs a program by the kernels: one call in C for a step of all rows."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from threading import Lock
from typing import Final, Protocol

import torch
from torch import Tensor

from pretune.native import structs
from pretune.native.library import library
from pretune.native.lowering import Lowering
from pretune.native.program import Embed, Program, Scores, StepResult

ROWS_AT_ONCE: Final = 256
"""Rows of one call in C; longer runs are several, with the same results."""


class Pages(Protocol):
    """What a call asks of a cache: see `native.cache.PagedCache`."""

    lengths: list[int]

    @property
    def table(self) -> Tensor:
        """Addresses of pages. Shape: (slots, pages of the longest) int64."""

    def reserve(self, slot: int, length: int) -> None:
        """Lets the tokens of a slot up to `length` be written."""


class Executor:
    """A program whose weights are packed.

    Args:
        program: what runs; its weights may go afterwards.

    Raises:
        UsageError: there are no kernels.
        DataError: a matrix does not fit its format.
        ValueError: the program does not fit together.
    """

    def __init__(self, program: Program) -> None:
        self._library = library()
        head = program.operations[-1]
        if not isinstance(head, Scores) or any(isinstance(op, Scores) for op in program.operations[:-1]):
            raise ValueError("a program ends with its only Scores")
        lowering = Lowering(program)
        ops = [lowering.lower(operation) for operation in program.operations]
        self._ops = (structs.Op * len(ops))(*ops)
        self._kept = lowering.kept
        self.max_length = program.max_length
        self._shape, self._cross_shape = program.cache, program.cross
        self._widths = torch.tensor(program.widths, dtype=torch.int32)
        self._tokens = min(
            (op.vocabulary.out_features for op in program.operations if isinstance(op, Embed)), default=0
        )
        self._vocabulary, self._hidden_width = head.matrix.out_features, head.matrix.in_features
        self._frequencies = [r.frequencies.detach().float().contiguous() for r in program.rotations]
        self._amplitudes = [r.amplitude for r in program.rotations]
        self._capacity = 0
        self._busy = Lock()  # other threads run meanwhile, perhaps with this model, and the buffers are one

    def run(
        self,
        cache: Pages,
        tokens: Sequence[int],
        slots: Sequence[int],
        *,
        wanted: Sequence[int],
        top: int = 1,
        log_sum: bool = False,
        cross: Pages | None = None,
    ) -> StepResult:
        """Appends rows to their slots and gives what follows some of them.

        Args:
            cache: grows by the rows.
            tokens: of the rows.
            slots: of the rows; those of one slot stand in order.
            wanted: rows whose scores are wanted, rising.
            top: how many of the best tokens; 0 for none.
            log_sum: also give the logarithm of the sum of exp(score).
            cross: keys and values of the encoder's outputs.

        Raises:
            ValueError: a slot would be longer than the model's positions, or a token is not of the vocabulary.
        """
        positions = self._positions(cache, slots)
        if tokens and not 0 <= min(tokens) <= max(tokens) < self._tokens:
            raise ValueError(f"tokens are {min(tokens)} to {max(tokens)}, the vocabulary has {self._tokens}")
        parts: list[StepResult] = []
        for first in range(0, len(tokens), ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, len(tokens))
            own = [n - first for n in wanted if first <= n < last]
            rows = slice(first, last)
            with self._busy:
                parts.append(self._run(cache, tokens[rows], slots[rows], positions[rows], own, top, log_sum, cross))
        for slot, position in zip(slots, positions, strict=True):
            cache.lengths[slot] = position + 1
        return parts[0] if len(parts) == 1 else _concatenate(parts)

    def _positions(self, cache: Pages, slots: Sequence[int]) -> list[int]:
        after: dict[int, int] = {}
        positions: list[int] = []
        for slot in slots:
            position = after.get(slot, cache.lengths[slot])
            positions.append(position)
            after[slot] = position + 1
        for slot, length in after.items():
            if self.max_length is not None and length > self.max_length:
                raise ValueError(
                    f"a sequence of {length} tokens is longer than the model's {self.max_length} positions"
                )
            cache.reserve(slot, length)
        return positions

    def _run(
        self,
        cache: Pages,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        top: int,
        log_sum: bool,
        cross: Pages | None,
    ) -> StepResult:
        rows, count = len(tokens), len(wanted)
        if rows > self._capacity:
            self._allocate(rows)
        ints = torch.tensor([slots, positions, [*wanted, *([0] * (rows - count))]], dtype=torch.int32)
        ids = torch.empty(count, top, dtype=torch.int64)
        values, sums = torch.empty(count, top), torch.empty(count)
        scores, hidden = torch.empty(count, self._vocabulary), torch.empty(count, self._hidden_width)
        token_ids = torch.tensor(tokens, dtype=torch.int64)
        step = self._step
        start = ints.data_ptr()
        step.tokens, step.slots, step.positions, step.wanted = (
            token_ids.data_ptr(), start, start + 4 * rows, start + 8 * rows,
        )  # fmt: skip
        step.ids, step.values, step.log_sum = ids.data_ptr(), values.data_ptr(), sums.data_ptr()
        step.scores, step.hidden = scores.data_ptr(), hidden.data_ptr()
        step.rows, step.wanted_count, step.top, step.wants_log_sum = rows, count, top, int(log_sum)
        table = cache.table
        step.cache.pages, step.cache.stride = table.data_ptr(), table.stride(0)
        if self._cross_shape is not None:
            if cross is None:
                raise ValueError("the program attends to an encoder's output; give the cache that holds it")
            lengths = torch.tensor(cross.lengths, dtype=torch.int32)
            other = cross.table
            step.cross.pages, step.cross.stride = other.data_ptr(), other.stride(0)
            step.cross.lengths = lengths.data_ptr()
        self._library.run_step(step)
        return StepResult(ids, values, sums, scores, hidden)

    def _allocate(self, rows: int) -> None:
        """Memory of the buffers for so many rows, and the parts of a step that stay."""
        self._capacity = rows
        self._work = [torch.zeros(rows, width) for width in self._widths.tolist()]
        self._pointers = (ctypes.c_void_p * len(self._work))(*(work.data_ptr() for work in self._work))
        self._angles = [torch.empty(2, rows, len(f)) for f in self._frequencies]
        rotations = [
            structs.Rotation(f.data_ptr(), len(f), a[0].data_ptr(), a[1].data_ptr(), amplitude, 0)
            for f, a, amplitude in zip(self._frequencies, self._angles, self._amplitudes, strict=True)
        ]
        self._rotations = (structs.Rotation * len(rotations))(*rotations)
        step = self._step = structs.Step()
        step.ops, step.op_count = ctypes.addressof(self._ops), len(self._ops)
        step.buffers, step.widths = ctypes.addressof(self._pointers), self._widths.data_ptr()
        step.rotations, step.rotation_count = ctypes.addressof(self._rotations), len(rotations)
        for target, shape in ((step.cache, self._shape), (step.cross, self._cross_shape)):
            if shape is not None:
                target.layers, target.key_heads, target.head_width = shape.layers, shape.key_heads, shape.head_width


def _concatenate(parts: Sequence[StepResult]) -> StepResult:
    fields = [(p.ids, p.values, p.log_sum, p.scores, p.hidden) for p in parts if len(p.ids)] or [
        (p.ids, p.values, p.log_sum, p.scores, p.hidden) for p in parts[:1]
    ]
    return StepResult(*(torch.cat(columns) for columns in zip(*fields, strict=True)))
