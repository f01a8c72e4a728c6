"""Checks foreign model files before they are read: every size is checked before anything of that size is allocated.

A file of weights is opened only under a plain name inside its folder; the header of a safetensors file is parsed here,
with limits, before its bytes are mapped; JSON is bounded in size and depth and has no NaN; a `.bin` may hold tensors
and nothing that runs.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretune.errors import DataError, first_line
from pretune.field_table import JSON_LIMIT, parse_json, read_file, regular

HEADER_LIMIT = 16 << 20
TENSOR_LIMIT = 100_000
DIMENSION_LIMIT = 8
_SHARING = 4  # how often the bytes of a .bin may be used: tied weights are saved once
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\.(safetensors|bin)")


@dataclass(frozen=True)
class Entry:
    """Describes one tensor of a safetensors file: `begin` and `end` count bytes from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def member(folder: Path, name: object, where: str) -> Path:
    """Returns the path of a file of weights inside `folder` that someone else named.

    Args:
        where: the file and field that named it, for the error.

    Raises:
        DataError: a name with a path in it, or of another kind; nothing is opened.
        MissingInputError: no such regular file.
    """
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        raise DataError(
            f"{where} names {str(name)[:100]!r}: a file of weights must be a plain name inside the folder, ending in "
            ".safetensors or .bin; the folder is damaged or hostile, fetch it again from its source"
        )
    return regular(folder / name)


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Reads a JSON object from a foreign file.

    Raises:
        MissingInputError: no such file.
        DataError: larger than `limit` bytes, not UTF-8, not JSON, NaN, too deep, or not an object.
    """
    return parse_object(read_file(path, limit), str(path))


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """Parses strict JSON that is one object.

    Raises:
        DataError: what `parse_json` refuses, or not an object.
    """
    value = parse_json(raw, where)
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


def read_header(path: Path) -> dict[str, Entry]:
    """Reads the header of a safetensors file, and checks every claim against the file's size.

    Raises:
        MissingInputError: no such file.
        DataError: truncated, too large a header, too many tensors, a shape that does not fit its bytes, holes.
    """
    size = regular(path).stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise DataError(f"{path}: truncated: {size:,} bytes, fewer than its header says; copy or fetch it again")
        if length > HEADER_LIMIT:
            raise DataError(f"{path}: a header of {length:,} bytes, more than the {HEADER_LIMIT:,} allowed")
        raw = file.read(length)
    count = raw.count(b'"data_offsets"')
    if count > TENSOR_LIMIT:
        raise DataError(f"{path}: {count:,} tensors in the header, more than the {TENSOR_LIMIT:,} allowed")
    table = parse_object(raw, f"{path}: header")
    entries = {name: _entry(path, name, fields, 8 + length) for name, fields in table.items() if name != "__metadata__"}
    expected = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != expected:
            raise DataError(f"{path}: tensor {name!r} begins at byte {entry.begin:,}, expected {expected:,}: damaged")
        expected = entry.end
    if expected != size:
        what = "truncated: copy or fetch it again" if expected > size else "trailing bytes: damaged"
        raise DataError(f"{path}: {size:,} bytes where the header says {expected:,}; {what}")
    return entries


def _entry(path: Path, name: str, fields: Any, base: int) -> Entry:
    def bad(reason: str) -> DataError:
        return DataError(f"{path}: tensor {name[:100]!r}: {reason}; the file is damaged or hostile")

    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise bad("expected dtype, shape and data_offsets")
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise bad(f"dtype {str(fields['dtype'])[:40]!r} is none of {', '.join(DTYPES)}")
    shape, span = fields["shape"], fields["data_offsets"]
    if not _counts(shape) or len(shape) > DIMENSION_LIMIT:
        raise bad(f"shape {str(shape)[:80]} is not a list of at most {DIMENSION_LIMIT} sizes")
    if not _counts(span) or len(span) != 2 or span[0] > span[1]:
        raise bad(f"data_offsets {str(span)[:80]} are not a range of bytes")
    if max(shape, default=0) >= 2**48 or math.prod(shape) * dtype.itemsize != span[1] - span[0]:
        raise bad(f"shape {shape} does not fit its {span[1] - span[0]:,} bytes")
    return Entry(dtype, tuple(shape), base + span[0], base + span[1])


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def read_bin(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a `.bin`, by `torch.load(weights_only=True)` and by nothing else.

    Raises:
        MissingInputError: no such file.
        DataError: it holds more than tensors, or is damaged. There is no way around this check.
    """
    if not regular(path).stat().st_size:
        raise DataError(f"{path}: truncated: 0 bytes; copy or fetch it again")
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_zip(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        cause = str(error).split(". ")[-1] if "Unsupported" not in str(error) else _global(str(error))
        wanted = f"{path.stem.removeprefix('pytorch_')}.safetensors"
        raise DataError(
            f"{path}: holds more than plain tensors ({cause[:120]}), which could run code when read; it was not "
            f"executed. Ask its author for {wanted}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{path}: damaged: {first_line(error)[:160]}; copy or fetch it again") from None
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: expected a table of tensors, got {type(loaded).__name__}")
    _check_tensors(path, loaded)
    return loaded


def _check_tensors(path: Path, loaded: Mapping[Any, Any]) -> None:
    """Refuses what is not a dense tensor, and tensors many times larger than the file: views can repeat its bytes."""
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise DataError(f"{path}: entry {str(name)[:100]!r} is not a dense tensor but {type(tensor).__name__}")
    if len(loaded) > TENSOR_LIMIT:
        raise DataError(f"{path}: {len(loaded):,} tensors, more than the {TENSOR_LIMIT:,} allowed")
    total = sum(tensor.numel() * tensor.dtype.itemsize for tensor in loaded.values())
    if total > _SHARING * path.stat().st_size:
        raise DataError(f"{path}: tensors of {total:,} bytes in a file of {path.stat().st_size:,}; damaged or hostile")


def _global(message: str) -> str:
    match = re.search(r"GLOBAL (\S+)|Unsupported \w+ (\S+)", message)
    return f"it asks for {match[0].removeprefix('GLOBAL ')}" if match else "it asks for code"


def _check_zip(path: Path) -> None:
    """Refuses compressed, duplicate or outside members: a bomb is refused before anything is inflated."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{path}: damaged: {error}; copy or fetch it again") from None
    names = [item.filename for item in members]
    if len(set(names)) < len(names) or len(names) > 2 * TENSOR_LIMIT:
        raise DataError(f"{path}: {len(names):,} members, some of the same name or too many; damaged or hostile")
    for item in members:
        outside = item.filename.startswith(("/", "\\")) or ".." in Path(item.filename).parts
        if outside or item.compress_type != zipfile.ZIP_STORED:
            raise DataError(f"{path}: member {item.filename[:100]!r} is compressed or outside; damaged or hostile")
    if sum(item.file_size for item in members) > path.stat().st_size:
        raise DataError(f"{path}: its members claim more bytes than the file has; damaged or hostile")
