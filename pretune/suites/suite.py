"""What a suite is made of: sets, each with its task, its score, how its files are read and which are which.

A suite is a file beside this one that defines `SETS`; nothing else lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pretune.text.readers.records import Record

ReadRecords = Callable[[Path], Iterator[Record]]


@dataclass(frozen=True)
class SuiteSet:
    """A set of a suite.

    Attributes:
        name: what it is called.
        task: the file of `tasks/` that learns it.
        metric: name of the score that counts, as the task gives it.
        read: the records of one of its files, with the fields that readers expect; None where `columns.format` names a
            reader of its own.
        columns: how records are read, where not by the usual names.
        folders: what its folder may be called beside its name.
        merges: several training files are parts of one, and not one within another.
        no_label: what stands in place of a label where people did not agree on one; such records are left out.
        length: tokens of a text, or as many as the model reads where these are fewer.
    """

    name: str
    task: str
    metric: str
    read: ReadRecords | None = None
    columns: Mapping[str, object] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    merges: bool = False
    no_label: str | None = None
    length: int = 128
