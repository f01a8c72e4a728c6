"""Says what becomes of every field of a foreign file: it is done, handed on, refused, or has no effect on results.

A table is data, one for each file that others write beside weights. Code that reads a file calls `check_fields` with
its table, which refuses what is refused and returns a note on fields that stand in no table; `docs/compatibility.md`
is made from the same tables. Files that are handed on whole travel with their model as `CarriedFiles`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NoReturn

from pretune.disk import write_synced
from pretune.errors import DataError, MissingInputError

Name = Literal["done", "handed on", "refused", "no effect"]
CARRIED_LIMIT = 4 << 20
"""Bytes of one file that is handed on whole."""
JSON_LIMIT = 8 << 20
"""Bytes of a JSON file that lists nothing long."""
_CONTAINERS, _VALUES = 1 << 22, 1 << 23  # lists and objects, and values in them, of one JSON file
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of an escaped pair


def regular(path: Path) -> Path:
    """Returns the path, if it is a regular file.

    Raises:
        MissingInputError: absent, or a pipe, a device, a folder.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        raise MissingInputError(f"{path}: not a regular file")
    return path


def check_size(path: Path, limit: int) -> None:
    """Refuses a foreign file that is too large to be what its name says.

    Raises:
        MissingInputError: no such regular file.
        DataError: larger than `limit` bytes.
    """
    size = regular(path).stat().st_size
    if size > limit:
        raise DataError(f"{path}: {size:,} bytes, more than the {limit:,} that such a file can need; it was not read")


def read_file(path: Path, limit: int = JSON_LIMIT) -> bytes:
    """Reads a foreign file whole.

    Raises:
        MissingInputError: no such regular file.
        DataError: larger than `limit` bytes.
    """
    check_size(path, limit)
    return path.read_bytes()


def parse_json(raw: bytes, where: str) -> Any:
    """Parses strict JSON.

    Args:
        where: the file, for messages.

    Raises:
        DataError: not UTF-8, not JSON, NaN or Infinity, one name twice in an object, nested too deep, with a lone
            surrogate, which no text has, or with more values than any file of the field has.
    """
    containers, values = raw.count(b"[") + raw.count(b"{"), raw.count(b",")
    if containers > _CONTAINERS or values > _VALUES:
        raise DataError(
            f"{where}: up to {containers:,} lists and objects of {values:,} values, more than the {_CONTAINERS:,} and "
            f"{_VALUES:,} that such a file can need; it was not read"
        )

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            name, count = Counter(name for name, _ in pairs).most_common(1)[0]
            raise ValueError(
                f"the name {name[:80]!r} stands {count} times in one object; readers differ in which counts"
            )
        return out

    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise DataError(f"{where}: nested too deep to be what it should be") from None
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: a lone surrogate, U+{ord(error.object[error.start]):04X}, which no text has; correct the "
            "token or text that holds it"
        ) from None
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
    return value


@dataclass(frozen=True)
class Treatment:
    """Says what becomes of one field.

    Attributes:
        name: `done`: pretune does what the field says; `handed on`: it stands in what pretune writes, unchanged;
            `refused`: files that ask for it are not read; `no effect`: no result hangs on it.
        reason: what does it, why it is refused, or why it has no effect.
        remedy: what the user can do about a refusal.
        allowed: of a refused field, the values that ask for nothing, such as None and False.
        refuses: of a refused field, whether a value is refused, where `allowed` cannot list what is not.
        types: what a value may be, where anything else is refused; None is always allowed.
        silent_values: values that need no note; None where no value needs one.
        training: the note is of interest in training alone.
    """

    name: Name
    reason: str = ""
    remedy: str = ""
    allowed: tuple[object, ...] = (None,)
    refuses: Callable[[object], bool] | None = None
    types: tuple[type, ...] = ()
    silent_values: tuple[object, ...] | None = None
    training: bool = False

    def is_refused(self, value: object) -> bool:
        """Whether files with this value are refused."""
        if self.name != "refused":
            return False
        return self.refuses(value) if self.refuses is not None else not _is_among(value, self.allowed)

    def needs_note(self, value: object) -> bool:
        """Whether the user is to hear of this value."""
        return self.silent_values is not None and not _is_among(value, self.silent_values)


FieldTable = Mapping[str, Treatment]
"""Field names, or patterns with `*`, to their treatment; a name goes before a pattern."""


def done(by: str = "", *, types: tuple[type, ...] = ()) -> Treatment:
    """A field that pretune does.

    Args:
        by: what does it, in a few words for a reader of the page.
        types: what a value may be; leave it out where a `Config` checks the value.
    """
    return Treatment("done", by, types=types)


def handed_on(
    reason: str = "",
    *,
    types: tuple[type, ...] = (),
    note_unless: tuple[object, ...] | None = None,
    training: bool = False,
) -> Treatment:
    """A field that changes nothing here and is written back unchanged.

    Args:
        reason: what the user should know of it; the note ends with it.
        note_unless: the values that need no note; by default no value needs one.
        training: the note is for training alone.
    """
    return Treatment("handed on", reason, types=types, silent_values=note_unless, training=training)


def no_effect(
    reason: str = "", *, types: tuple[type, ...] = (), note_unless: tuple[object, ...] | None = None
) -> Treatment:
    """A field on which no result hangs, and that is not written back unless the table's owner does so."""
    return Treatment("no effect", reason, types=types, silent_values=note_unless)


def refused(
    reason: str,
    remedy: str,
    *,
    allowed: Iterable[object] = (None, False),
    refuses: Callable[[object], bool] | None = None,
) -> Treatment:
    """A field whose files are not read, unless its value asks for nothing.

    Args:
        reason: why, as the end of "field 'x' = value: ...".
        remedy: what the user can do.
        allowed: values that ask for nothing.
        refuses: whether a value is refused, instead of `allowed`.
    """
    return Treatment("refused", reason, remedy, tuple(allowed), refuses)


def treatment_of(name: str, table: FieldTable) -> Treatment | None:
    """Finds what a table says of a field; None where it says nothing."""
    if name in table:
        return table[name]
    return next((table[pattern] for pattern in table if "*" in pattern and fnmatchcase(name, pattern)), None)


def training_notes(path: Path | str, tree: Mapping[str, Any], table: FieldTable) -> list[str]:
    """Says which fields training does not do, in sentences as those of `check_fields`."""
    notes = []
    for name, value in tree.items():
        treatment = treatment_of(name, table)
        if treatment is not None and treatment.training and treatment.needs_note(value):
            notes.append(f"{path}: field {name!r} = {shown_value(value)}: {treatment.reason}")
    return notes


def check_fields(path: Path | str, tree: Mapping[str, Any], table: FieldTable) -> list[str]:
    """Refuses what a table refuses, and says which fields stand in no table.

    Args:
        path: of the file, for messages.
        tree: what the file holds.

    Returns:
        Sentences for `model.loaded.notes`, or for a warning on the screen.

    Raises:
        DataError: naming file, field, value and remedy.
    """
    unknown: list[str] = []
    notes: list[str] = []
    for name, value in tree.items():
        treatment = treatment_of(name, table)
        if treatment is None:
            unknown.append(name)
            continue
        where = f"{path}: field {name!r} = {shown_value(value)}"
        if treatment.is_refused(value):
            raise DataError(f"{where}: {treatment.reason}; {treatment.remedy}")
        if treatment.types and value is not None and not _is_one_of(value, treatment.types):
            expected = " or ".join(_JSON_NAMES.get(each, each.__name__) for each in treatment.types)
            raise DataError(f"{where}: expected {expected}; correct the field, or leave it out")
        if treatment.needs_note(value) and not treatment.training:
            notes.append(f"{where}: {treatment.reason}")
    if not unknown:
        return notes
    names = ", ".join(repr(name[:80]) for name in unknown[:8]) + (" ..." if len(unknown) > 8 else "")
    words = ("field", "is", "is") if len(unknown) == 1 else (f"{len(unknown)} fields", "are", "are")
    return [*notes, f"{path}: {words[0]} {names} {words[1]} not known here and {words[2]} handed on unread"]


def handed_on_fields(tree: Mapping[str, Any], table: FieldTable) -> dict[str, Any]:
    """Returns the fields that are written back as they are: those handed on, and those that stand in no table."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        treatment = treatment_of(name, table)
        if treatment is None or treatment.name == "handed on":
            out[name] = value
    return out


def _is_among(value: object, values: Iterable[object]) -> bool:
    """Whether a value is one of these, where true is not 1."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)


_JSON_NAMES: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _is_one_of(value: object, types: tuple[type, ...]) -> bool:
    """Whether a value has one of the types; true and false are no numbers, and a whole number is a number."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, (*types, int) if float in types else types)


def shown_value(value: object) -> str:
    """Returns a value as JSON, short enough for a message."""
    text = ""
    for piece in json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value):
        text += piece
        if len(text) > 80:  # of a vocabulary, megabytes would follow
            return text[:77] + "..."
    return text


@dataclass
class CarriedFiles:
    """Holds what is handed on whole: files that travel with a model and are written wherever it is saved.

    Attributes:
        whole: contents by name, written as they were read, such as `chat_template.jinja`.
    """

    whole: dict[str, bytes] = field(default_factory=dict)

    def read_whole(self, folder: Path, names: Iterable[str]) -> None:
        """Reads those of the files that a folder has.

        Args:
            names: of files in the folder, or patterns with `*`.

        Raises:
            DataError: a file too large to be what its name says.
        """
        for path in sorted(path for name in names for path in folder.glob(name) if path.is_file()):
            if path.stat().st_size > CARRIED_LIMIT:
                raise DataError(
                    f"{path}: {path.stat().st_size:,} bytes, more than the {CARRIED_LIMIT:,} that such a file can "
                    "need; remove it from the folder"
                )
            self.whole[path.relative_to(folder).as_posix()] = path.read_bytes()

    def write(self, folder: Path) -> None:
        """Writes all files into a folder; what is written afterwards under the same name replaces them.

        Raises:
            OSError: no space, no permission.
        """
        for name, content in self.whole.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_synced(folder / name, content)
