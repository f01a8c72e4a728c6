"""Reads and writes the tensors of a model folder, in one file or many, safetensors or `.bin`, one at a time.

Written by our own 20 lines and not by `safetensors.torch.save_file`, so that a full disk is an `OSError` and the bytes
are on the disk (fsync) before anything is renamed.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pretune.disk import fsync, write_synced
from pretune.errors import DataError, MissingInputError
from pretune.field_table import regular
from pretune.interop.safety import DTYPES, Entry, member, read_bin, read_header, read_json

SINGLE = "model.safetensors"
SHARDED = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # of one file at most, as transformers has it
_SINGLE_BIN = "pytorch_model.bin"
_SHARDED_BIN = "pytorch_model.bin.index.json"
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class NamedTensors(Protocol):
    """Reads tensors of files, whose shapes are known before any is read."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes by the names in the files."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Dtypes by the names in the files."""

    def read(self, name: str) -> Tensor:
        """Reads one tensor, which must not be changed."""


class TensorsInMemory:
    """Holds tensors, which may be without memory of their own, in the form of a model's files."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        """Returns one tensor, which must not be changed."""
        return self._tensors[name]


class Weights:
    """Holds the named tensors of a folder, whose shapes are known before any is read.

    Attributes:
        shapes: by their names in the files.
        dtypes: likewise.
    """

    def __init__(self, folder: Path) -> None:
        """Finds and checks the files.

        Raises:
            MissingInputError: no file of weights.
            DataError: damaged or hostile files.
        """
        self._mapped: dict[str, tuple[Path, Entry]] = {}
        self._loaded: dict[str, Tensor] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        files = _files(folder)
        for path in files:
            if path.suffix == ".bin":
                self._add(path, self._loaded, read_bin(path))
            else:
                self._add(path, self._mapped, {name: (path, entry) for name, entry in read_header(path).items()})
        self.shapes = {name: entry.shape for name, (_, entry) in self._mapped.items()}
        self.shapes |= {name: tuple(tensor.shape) for name, tensor in self._loaded.items()}
        self.dtypes = {name: entry.dtype for name, (_, entry) in self._mapped.items()}
        self.dtypes |= {name: tensor.dtype for name, tensor in self._loaded.items()}

    def _add(self, path: Path, table: dict[str, Any], new: Mapping[str, Any]) -> None:
        twice = next((name for name in new if name in self._mapped or name in self._loaded), None)
        if twice is not None:
            raise DataError(f"{path}: tensor {twice[:100]!r} is in another shard too; the folder is damaged")
        table.update(new)

    def read(self, name: str) -> Tensor:
        """Reads one tensor, backed by the file where possible: copy it before changing it."""
        if name in self._loaded:
            return self._loaded[name]
        path, entry = self._mapped[name]
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if path not in self._maps:
            with path.open("rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        count = math.prod(entry.shape)
        flat = torch.frombuffer(self._maps[path], dtype=entry.dtype, count=count, offset=entry.begin)
        return flat.view(entry.shape)

    def release(self, name: str) -> None:
        """Gives back the memory of a tensor that was read, was not changed, and is not read again soon."""
        path, entry = self._mapped.get(name, (None, None))
        if path in self._maps and entry is not None and hasattr(mmap, "MADV_DONTNEED"):
            first = entry.begin - entry.begin % mmap.PAGESIZE
            self._maps[path].madvise(mmap.MADV_DONTNEED, first, entry.end - first)


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [regular(folder / SINGLE)]
    for index in (SHARDED, _SHARDED_BIN):
        if (folder / index).exists():
            return _shards(folder, folder / index)
        if index == SHARDED and (folder / _SINGLE_BIN).exists():
            return [regular(folder / _SINGLE_BIN)]
    raise MissingInputError(
        f"{folder}: no weights; expected {SINGLE}, {SHARDED} with its shards, or {_SINGLE_BIN} beside config.json"
    )


def _shards(folder: Path, index: Path) -> list[Path]:
    table = read_json(index, limit=64 << 20).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise DataError(f"{index}: field 'weight_map' must say which file holds each tensor")
    names = {name if isinstance(name, str) else repr(name) for name in table.values()}
    return [member(folder, name, f"{index}: weight_map") for name in sorted(names)]


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors in the safetensors format, and syncs the file.

    Raises:
        OSError: no space, no permission.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors.values():
            plain = tensor.detach().cpu().contiguous()
            file.write(plain.flatten().view(torch.uint8).numpy().data)
        file.flush()
        fsync(file.fileno())


def shard(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Partitions tensors into files of at most `limit` bytes, in order; a larger tensor has a file of its own."""
    shards: list[dict[str, Tensor]] = [{}]
    remaining = limit
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.dtype.itemsize
        if size > remaining and shards[-1]:
            shards.append({})
            remaining = limit
        shards[-1][name] = tensor
        remaining -= size
    return shards


def write_weights(folder: Path, tensors: Mapping[str, Tensor], limit: int) -> None:
    """Writes `model.safetensors`, or numbered shards with their index.

    Args:
        limit: bytes of the largest file.

    Raises:
        OSError: no space, no permission.
    """
    shards = shard(tensors, limit)
    if len(shards) == 1:
        write_safetensors(folder / SINGLE, shards[0])
        return
    table: dict[str, str] = {}
    for number, part in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, part)
        table |= dict.fromkeys(part, name)
    total = sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors.values())
    write_json(folder / SHARDED, {"metadata": {"total_size": total}, "weight_map": table})


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes and syncs a JSON file.

    Raises:
        OSError: no space, no permission.
    """
    write_synced(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def stale(folder: Path, keep: Sequence[str]) -> Iterable[Path]:
    """Lists weights of an earlier save that are not among the new files."""
    old = [*folder.glob("model-*-of-*.safetensors"), folder / SINGLE, folder / SHARDED]
    return [path for path in old if path.name not in keep and path.exists()]
