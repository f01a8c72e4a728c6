"""Walks the header of a `.gguf` file before the `gguf` package does, which makes Python objects of all that it claims.

    magic, version, counts --> fields: name, type, value --> tensors: name, sizes, type, place

Source: ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

from pretune.errors import DataError
from pretune.text.tokenizer.layout_check import MAX_IDS

MAX_FIELDS, MAX_TENSORS = 1 << 16, 100_000
MAX_ELEMENTS = 1 << 21
"""Elements of all lists: each costs the `gguf` package a few microseconds and some hundred bytes."""
MAX_STRING = 4 << 20
"""Bytes of one text."""
_MAX_NAME, _MAX_DIMENSIONS = 1 << 16, 8
_STRING, _LIST = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value of each other type
_WEIGHTS_IN_BYTE = 8  # at most, of any quantization


def check_gguf(path: Path) -> None:
    """Refuses a file whose header claims more than the file holds, or more than any model needs.

    Raises:
        DataError: naming the claim and the byte.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Header(path, data).check()


class _Header:
    """Reads numbers and texts, one after the other."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.place = 4
        self.order = "<"
        self.elements = 0

    def bad(self, reason: str) -> DataError:
        return DataError(f"{self.path}: a damaged GGUF file: {reason} before byte {self.place:,}; fetch it again")

    def skip(self, size: int, what: str) -> None:
        if size > len(self.data) - self.place:
            raise self.bad(f"{what} is to have {size:,} bytes, and the file has {len(self.data):,},")
        self.place += size

    def number(self, size: int) -> int:
        """An unsigned number of so many bytes."""
        self.skip(size, "a number")
        (value,) = struct.unpack_from(f"{self.order}{'I' if size == 4 else 'Q'}", self.data, self.place - size)
        return int(value)

    def string(self, what: str, limit: int) -> None:
        length = self.number(8)
        if length > limit:
            raise self.bad(f"{what} of {length:,} bytes, more than {limit:,},")
        self.skip(length, what)

    def check(self) -> None:
        version = self.number(4)
        if not version & 0xFFFF:  # written where bytes stand in the other order
            self.order = ">"
        tensors, fields = self.number(8), self.number(8)
        if tensors > MAX_TENSORS or fields > MAX_FIELDS:
            raise self.bad(f"{tensors:,} tensors and {fields:,} fields, more than {MAX_TENSORS:,} and {MAX_FIELDS:,},")
        for _ in range(fields):
            self.string("a name", _MAX_NAME)
            self.value(self.number(4))
        for _ in range(tensors):
            self.tensor()

    def value(self, code: int) -> None:
        if code == _STRING:
            self.string("a text", MAX_STRING)
        elif code in _SIZES:
            self.skip(_SIZES[code], "a number")
        elif code == _LIST:
            self.list()
        else:
            raise self.bad(f"a value of type {code}, which is none,")

    def list(self) -> None:
        code, length = self.number(4), self.number(8)
        self.elements += length
        if length > MAX_IDS or self.elements > MAX_ELEMENTS:
            raise self.bad(f"lists of {self.elements:,} values, more than {MAX_ELEMENTS:,},")
        if code in _SIZES:
            self.skip(_SIZES[code] * length, "a list")
        elif code == _STRING:
            for _ in range(length):
                self.string("a text", MAX_STRING)
        else:
            raise self.bad(f"a list of values of type {code}, which none holds here,")

    def tensor(self) -> None:
        self.string("a name", _MAX_NAME)
        dimensions = self.number(4)
        if dimensions > _MAX_DIMENSIONS:
            raise self.bad(f"a tensor of {dimensions} dimensions, more than {_MAX_DIMENSIONS},")
        sizes = [self.number(8) for _ in range(dimensions)]
        if math.prod(sizes) > _WEIGHTS_IN_BYTE * len(self.data) or max(sizes, default=0) > len(self.data) * 8:
            raise self.bad(f"a tensor of {' x '.join(map(str, sizes))} weights, and the file has {len(self.data):,},")
        self.number(4)
        self.number(8)
