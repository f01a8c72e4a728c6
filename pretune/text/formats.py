"""What lies in a file: one decoder a format; each gives a row `(line, values)` or a `Fault`, and none raises one.

    bytes -> text_blocks (whole lines, UTF-8) -> read_txt | read_jsonl | read_table -> (line, values of the columns)
    bytes -> read_parquet                                                           -> (row, values of the columns)

Memory is bounded by a few records of `max_document_bytes`, whatever the file holds: a longer line is passed over
piece by piece and comes out as a `Fault`. What to do about faults (stop, skip) is the caller's business.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from typing import Any, Final

from pretune.find import nearest
from pretune.text.files import Format, Source, SourceConfig, UnreadableError, read_chunks

CHUNK = 1 << 20  # bytes read at a time
MISSING: Final = object()  # value of an optional column that a record does not have
Row = tuple[int, tuple[Any, ...]]  # line (1-based) and values; no values where the line is blank
_UTF8_BOM = b"\xef\xbb\xbf"
_BOMS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Fault:
    """A record, or a whole file, that cannot be read.

    Attributes:
        file: where it is.
        line: its first line (the row, for Parquet), from 1; 0 where the whole file is meant.
        reason: what is wrong, with field and value.
        remedy: what the user can do.
    """

    file: str
    line: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.reason}; {self.remedy}"


@dataclass(frozen=True)
class Column:
    """A field to be read: its name, the setting that names it, and whether a file must have it."""

    name: str
    setting: str
    required: bool = True


def decode(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | Fault]:
    """Read the wanted columns of a file, record by record; a `.txt` file has one, its lines."""
    return DECODERS[source.format](source, columns, config)


def text_blocks(source: Source, config: SourceConfig) -> Iterator[tuple[int, str] | Fault]:
    """Runs of whole lines with the number of their first, `\\n` at each line's end; lines that are not text as faults.

    No line is longer than `max_document_bytes`, no run longer than that and a chunk.
    """
    for item in _byte_blocks(source, config):
        if isinstance(item, Fault):
            yield item
            continue
        line, offset, block = item
        try:
            text = block.decode()
        except UnicodeDecodeError:
            text = "\0"
        if offset == 0:
            text, block = text.removeprefix("\ufeff"), block.removeprefix(_UTF8_BOM)
        if "\0" in text:
            yield from _mend(source, line, offset, block)
        else:
            yield line, text.replace("\r\n", "\n") if "\r" in text else text


def _byte_blocks(source: Source, config: SourceConfig) -> Iterator[tuple[int, int, bytes] | Fault]:
    """Runs of whole lines with the number of the first and its byte offset in the (unfolded) file."""
    file, limit = str(source.path), config.max_document_bytes
    line, end = 1, 0  # of the line that `carry` begins; bytes read
    carry, size, lost = [b""], 0, False  # lost: inside a line that is too long
    try:
        for chunk in read_chunks(source, min(CHUNK, limit), config.max_compression_ratio):
            if end == 0:
                if encoding := next((name for bom, name in _BOMS.items() if chunk.startswith(bom)), ""):
                    yield Fault(file, 0, f"is {encoding}", f"convert it: iconv -f {encoding} -t UTF-8")
                    return
                size = -3 if chunk.startswith(_UTF8_BOM) else 0
            end += len(chunk)
            first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
            if not lost and size + (first if first >= 0 else len(chunk)) > limit:
                yield too_long(file, line, limit)
                carry, lost = [b""], True
            if last < 0:
                carry = [b""] if lost else [*carry, chunk]
                size += len(chunk)
                continue
            block = b"".join(carry) + chunk[: last + 1] if not lost else chunk[first + 1 : last + 1]
            line, lost = line + lost, False
            if block:
                yield line, end - len(chunk) + last + 1 - len(block), block
                line += block.count(b"\n")
            carry, size = [chunk[last + 1 :]], len(chunk) - last - 1
        if rest := b"".join(carry):
            yield line, end - len(rest), rest
    except UnreadableError as error:
        yield Fault(file, line, str(error), "fetch or make the file again")


def too_long(file: str, line: int, limit: int) -> Fault:
    """The fault of a record that is longer than it may be."""
    return Fault(file, line, f"record longer than {limit} bytes", "split it, or raise max_document_bytes")


def _mend(source: Source, line: int, offset: int, block: bytes) -> Iterator[tuple[int, str] | Fault]:
    """Line by line through a block in which something is not text: runs of good lines, and a fault for each bad one."""
    file, good = str(source.path), list[str]()
    for number, raw in enumerate(block.removesuffix(b"\n").split(b"\n"), line):
        fault = _bad_bytes(file, number, raw, offset)
        offset += len(raw) + 1
        if fault is None:
            good.append(raw.decode().removesuffix("\r") + "\n")
            continue
        if good:
            yield number - len(good), "".join(good)
            good = []
        yield fault
    if good:
        yield number + 1 - len(good), "".join(good)


def _bad_bytes(file: str, line: int, raw: bytes, offset: int) -> Fault | None:
    zero = raw.find(b"\0")
    if zero >= 0:
        remedy = "remove it; a file full of them is binary, or UTF-16: iconv -f UTF-16LE -t UTF-8"
        return Fault(
            file, line, f"NUL character at byte {zero + 1} of the line (byte {offset + zero} of the file)", remedy
        )
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1} of the line (byte {offset + error.start} of the file)"
        what = f"not UTF-8: {error.reason} 0x{raw[error.start]:02x} at {place}"
        return Fault(file, line, what, "convert the file, as with: iconv -f GB18030 (or LATIN1) -t UTF-8")
    return None


def _split(block: str) -> list[str]:
    """The lines of a block without their ends."""
    return block.removesuffix("\n").split("\n")


def read_txt(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | Fault]:
    """A record for each line."""
    rest = (MISSING,) * (len(columns) - 1)
    for item in text_blocks(source, config):
        if isinstance(item, Fault):
            yield item
            continue
        for line, text in enumerate(_split(item[1]), item[0]):
            yield line, (text, *rest)


def read_jsonl(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | Fault]:
    """A record for each line, a JSON object."""
    file, names = str(source.path), [column.name for column in columns]
    needed = [column for column in columns if column.required]
    loads = json.loads
    for item in text_blocks(source, config):
        if isinstance(item, Fault):
            yield item
            continue
        for line, text in enumerate(_split(item[1]), item[0]):
            try:
                record = loads(text)
                values = tuple([record.get(name, MISSING) for name in names])
            except (ValueError, RecursionError, AttributeError) as error:
                yield (line, ()) if not text or text.isspace() else _bad_json(file, line, text, error)
                continue
            if MISSING in values and (fault := absent(file, line, needed, record, "field")):
                yield fault
            else:
                yield line, values


def _bad_json(file: str, line: int, text: str, error: Exception) -> Fault:
    start = text.lstrip()[:1]
    if isinstance(error, AttributeError) or (line == 1 and start == "["):
        what = "a JSON array" if start == "[" else f"{text.strip()[:40]!r}"
        return Fault(file, line, f"holds {what}, not an object", "write one JSON object a line: jq -c '.[]' IN > OUT")
    if isinstance(error, json.JSONDecodeError):
        if line == 1 and text.strip() == "{":
            return Fault(file, line, "a JSON object spread over lines", "write one object a line: jq -c . IN > OUT")
        return Fault(file, line, f"not JSON: {error.msg} at character {error.colno}", "mend or remove the line")
    what = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return Fault(file, line, f"not usable JSON: {what}", "mend or remove the line")


def not_text(file: str, line: int, name: str, value: object) -> Fault | None:
    """What keeps a value from being text: its type, a NUL, half a surrogate pair."""
    if not isinstance(value, str):
        return Fault(file, line, f"field {name!r} holds {_kind(value)}, not text", "mend or remove the record")
    if "\0" in value:
        return Fault(file, line, f"field {name!r} holds a NUL character", "remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            what = f"half a surrogate pair (\\u{ord(value[error.start]):04x}) at character {error.start + 1}"
            return Fault(file, line, f"field {name!r} holds {what}", "remove it")
    return None


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    shown = str(value) if len(str(value)) <= 40 else str(value)[:37] + "..."
    kinds: dict[type, str] = {int: "the number", float: "the number", list: "the list", dict: "the object"}
    return f"{kinds.get(type(value), type(value).__name__)} {shown}"


def absent(file: str, line: int, needed: Sequence[Column], known: Collection[str], kind: str) -> Fault | None:
    """The fault of a record or a header that lacks a column, with the nearest name that it has."""
    for column in needed:
        if column.name not in known:
            hint = nearest(column.name, [str(name)[:40] for name in islice(known, 50)])
            remedy = f"set {column.setting} to the {kind} that holds it; {hint}"
            return Fault(file, line, f"no {kind} {column.name!r}", remedy)
    return None


def read_table(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | Fault]:
    """A record for each row of a CSV or TSV file; rows with too few or too many fields are faults."""
    delimiter = "\t" if source.format == "tsv" else ","
    quoted = config.quotes if config.quotes is not None else source.format == "csv"
    rows = _quoted_rows(source, delimiter, config) if quoted else _plain_rows(source, delimiter, config)
    file = str(source.path)
    header = list(config.columns) if config.columns else []
    picks = [_place(column, header) for column in columns] if header else []
    if header and (fault := absent(file, 0, [c for c in columns if c.required], header, "column")):
        yield fault
        return
    fresh = True
    for item in rows:
        if isinstance(item, Fault):
            yield item
            continue
        line, fields = item
        if not fields or fields == [""]:
            yield line, ()
        elif not header:
            header, fresh = [field.strip() for field in fields], False
            if fault := _bad_header(file, line, columns, header):
                yield fault
                return
            picks = [_place(column, header) for column in columns]
        elif fresh and fields == header:
            fresh = False
        elif len(fields) != len(header):
            fresh = False
            yield _bad_width(file, line, fields, header, quoted, delimiter)
        else:
            fresh = False
            yield line, tuple([MISSING if pick is None else fields[pick] for pick in picks])


def _place(column: Column, header: list[str]) -> int | None:
    return header.index(column.name) if column.name in header else None


def _bad_header(file: str, line: int, columns: Sequence[Column], header: list[str]) -> Fault | None:
    needed = [column for column in columns if column.required]
    fault = absent(file, line, needed, header, "column")
    if fault is None:
        twice = [column.name for column in columns if header.count(column.name) > 1]
        return Fault(file, line, f"two columns are called {twice[0]!r}", "rename one") if twice else None
    if any(column.name in header for column in columns):
        return fault
    if len(header) == 1 and ("\t" in header[0] or "," in header[0]):
        tabs = "\t" in header[0]
        hint = f'fields look separated by {"tabs" if tabs else "commas"}: set format = "{"tsv" if tabs else "csv"}"'
        return Fault(file, line, fault.reason, hint)
    count = f"{len(header)} column{'s' if len(header) > 1 else ''}"
    example = ", ".join(f'"{name}"' for name in [c.name for c in columns][: len(header)])
    hint = f"{fault.remedy}; if the file has no header row, name its {count} in order, as in columns = [{example}]"
    return Fault(file, line, fault.reason, hint)


def _bad_width(file: str, line: int, fields: list[str], header: list[str], quoted: bool, delimiter: str) -> Fault:
    remedy = "quote fields that hold a comma" if delimiter == "," else "write one tab between fields and none inside"
    if not quoted and any(field.startswith('"') for field in fields):
        remedy += ", or set quotes = true if fields are quoted"
    shown = delimiter.join(fields)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return Fault(file, line, f"{len(fields)} fields where the header has {len(header)}: {shown!r}", remedy)


def _plain_rows(source: Source, delimiter: str, config: SourceConfig) -> Iterator[tuple[int, list[str]] | Fault]:
    for item in text_blocks(source, config):
        if isinstance(item, Fault):
            yield item
            continue
        for line, text in enumerate(_split(item[1]), item[0]):
            yield line, text.split(delimiter)


class _FaultError(Exception):
    """Carries a fault out through `csv.reader`."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Feed:
    """Lines for `csv.reader`; remembers those of the record being read, to start again behind a bad one."""

    def __init__(self, source: Source, config: SourceConfig) -> None:
        self._source, self._limit = str(source.path), config.max_document_bytes
        self._blocks = text_blocks(source, config)
        self._text, self._next = iter(StringIO()), 1
        self._again: deque[tuple[int, str]] = deque()
        self.record: list[tuple[int, str]] = []
        self._size = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line, text = self._again.popleft() if self._again else self._fresh()
        self.record.append((line, text))
        self._size += len(text)
        if len(self.record) > 1 and self._size > self._limit:
            first = self.record[0][0]
            reason = f"a quote that opens here is not closed within {self._limit} bytes"
            raise _FaultError(Fault(self._source, first, reason, _QUOTES))
        return text

    def _fresh(self) -> tuple[int, str]:
        while True:
            text = next(self._text, None)
            if text is not None:
                self._next += 1
                return self._next - 1, text
            block = next(self._blocks)
            if isinstance(block, Fault):
                raise _FaultError(block)
            self._next, self._text = block[0], iter(StringIO(block[1], newline="\n"))

    def begin(self) -> None:
        """A record is complete: the next line begins another."""
        self.record, self._size = [], 0

    def retry(self) -> None:
        """Drop the first line of the record being read and read the others again."""
        self._again.extendleft(reversed(self.record[1:]))
        self.begin()


_QUOTES = 'close it, double quotes inside quoted fields (""), or set quotes = false if they are plain characters'


def _quoted_rows(source: Source, delimiter: str, config: SourceConfig) -> Iterator[tuple[int, list[str]] | Fault]:
    csv.field_size_limit(max(csv.field_size_limit(), config.max_document_bytes))
    feed, file = _Feed(source, config), str(source.path)
    while True:
        try:
            for fields in csv.reader(feed, delimiter=delimiter, strict=True):
                line = feed.record[0][0]
                feed.begin()
                yield line, fields
            return
        except csv.Error as error:
            line = feed.record[0][0]
            feed.retry()
            what = "a quote is not closed before the end" if "unexpected end" in str(error) else str(error)
            yield Fault(file, line, f"broken quotes: {what}", _QUOTES)
        except _FaultError as error:
            if feed.record and error.fault.line != feed.record[0][0]:
                yield Fault(
                    file, feed.record[0][0], f"record broken by line {error.fault.line}", "mend that line first"
                )
            feed.retry()
            yield error.fault


def read_parquet(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[Row | Fault]:
    """A record for each row of a Parquet file."""
    from pretune.text.parquet import parquet_rows

    return parquet_rows(source, columns, config)


DECODERS: dict[Format, Callable[[Source, Sequence[Column], SourceConfig], Iterator[Row | Fault]]] = {
    "txt": read_txt,
    "jsonl": read_jsonl,
    "csv": read_table,
    "tsv": read_table,
    "parquet": read_parquet,
}
