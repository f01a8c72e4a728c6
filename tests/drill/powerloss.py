"""What a power loss may leave of recorded calls: a disk on which nothing is sure but what was synced.

Bytes of a file last from its `fsync` on; entries of a folder (new, moved, removed) from the folder's `fsync` on, until
then any of them may be there and others not. A move is one step, also where it takes a file from one folder to another.
Source: Pillai et al., All File Systems Are Not Created Equal (ALICE), OSDI 2014.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from drillkit import Fault, Zygote


@dataclass(frozen=True)
class Call:
    """One recorded call."""

    name: str
    path: PurePosixPath
    other: str
    offset: int
    data: bytes


@dataclass
class Node:
    """A file's bytes, or a folder's entries, as they are and as they would be after a power loss."""

    is_folder: bool
    data: bytearray = field(default_factory=bytearray)
    kept: bytes = b""
    entries: dict[str, Node] = field(default_factory=dict)
    kept_entries: dict[str, Node] = field(default_factory=dict)


Change = list[tuple[Node, str, Node | None]]


class Disk:
    """A disk that executes calls; a folder's path is relative to `root`."""

    def __init__(self, root: Path) -> None:
        self._root = PurePosixPath(root)
        self._top = Node(is_folder=True)
        self._pending: list[Change] = []

    def execute(self, call: Call) -> None:
        """Do a call."""
        if call.name == "fsync":
            self._see(call.path)
            self._sync(self._node(call.path))
        elif call.name in ("unlink", "rmdir"):
            folder, name = self._parent(call.path)
            if name in folder.entries and not folder.entries[name].entries:
                self._change([(folder, name, None)])
        elif call.name == "mkdir":
            folder, name = self._parent(call.path)
            if name not in folder.entries:
                self._change([(folder, name, Node(is_folder=True))])
        elif call.name == "rename":
            (old, name), (new, target) = self._parent(call.path), self._parent(PurePosixPath(call.other))
            self._change([(new, target, old.entries[name]), (old, name, None)])
        else:
            self._write(call)

    def _write(self, call: Call) -> None:
        folder, name = self._parent(call.path)
        if name not in folder.entries:
            self._change([(folder, name, Node(is_folder=False))])
        data = folder.entries[name].data
        if call.name == "open" and call.other == "truncate":
            data.clear()
        elif call.name == "truncate":
            data[call.offset :] = bytes(max(0, call.offset - len(data)))
        elif call.name == "write":
            data.extend(bytes(max(0, call.offset - len(data))))
            data[call.offset : call.offset + len(call.data)] = call.data

    def _see(self, path: PurePosixPath) -> None:
        """Do the move of safetensors' temporary file, for which it calls the system without the C library."""
        folder, name = self._parent(path) if path != self._root else (self._top, "")
        if name and name not in folder.entries:
            temporary = next(each for each in folder.entries if each.startswith(".tmp"))
            self._change([(folder, name, folder.entries[temporary]), (folder, temporary, None)])

    def _parent(self, path: PurePosixPath) -> tuple[Node, str]:
        return self._node(path.parent), path.name

    def _node(self, path: PurePosixPath) -> Node:
        node = self._top
        for part in path.relative_to(self._root).parts:
            node = node.entries[part]
        return node

    def _change(self, change: Change) -> None:
        _apply(change, kept=False)
        self._pending.append(change)

    def _sync(self, node: Node) -> None:
        if not node.is_folder:
            node.kept = bytes(node.data)
            return
        for change in [each for each in self._pending if any(folder is node for folder, _, _ in each)]:
            _apply(change, kept=True)
            self._pending.remove(change)

    def lose_power(self, chance: random.Random) -> None:
        """Decide what of all that is not synced is there."""
        if chance.random() < 0.3:  # a file system that keeps their order
            survivors = self._pending[: chance.randint(0, len(self._pending))]
        else:
            survivors = [change for change in self._pending if chance.random() < 0.5]
        for change in survivors:
            _apply(change, kept=True)
        for node in _files(self._top):
            if node.data != node.kept:
                part = bytes(node.data[: chance.randint(0, len(node.data))])
                node.kept = chance.choice((node.kept, bytes(node.data), part, part + bytes(len(node.data) - len(part))))

    def write(self, folder: Path) -> None:
        """Make what survived, below a folder that is there."""
        _write_entries(self._top, folder)


def _apply(change: Change, *, kept: bool) -> None:
    for folder, name, node in change:
        entries = folder.kept_entries if kept else folder.entries
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _files(node: Node) -> Iterator[Node]:
    if not node.is_folder:
        yield node
    for entry in node.kept_entries.values():
        yield from _files(entry)


def _write_entries(node: Node, folder: Path) -> None:
    for name, entry in node.kept_entries.items():
        if entry.is_folder:
            (folder / name).mkdir()
            _write_entries(entry, folder / name)
        else:
            (folder / name).write_bytes(entry.kept)


def read_journal(path: Path) -> list[Call]:
    """The calls of a journal, those that changed nothing in their folder among them."""
    data, calls, at = path.read_bytes(), [], 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, where, other, offset, size = data[at:end].decode().split("\t")
        at = end + 1 + int(size)
        calls.append(Call(name, PurePosixPath(where), other, int(offset), data[end + 1 : at]))
    return calls


def record(zygote: Zygote, folder: Path, *arguments: str, journal: Path, script: Path | None = None) -> list[Call]:
    """Run a verb undisturbed and record its calls."""
    ended = zygote.run(*arguments, folder=folder, script=script, fault=Fault("count", journal=journal))
    assert ended.code == 0, ended.err
    return read_journal(journal)
