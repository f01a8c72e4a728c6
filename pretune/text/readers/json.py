"""Reads .json files: an array of records, one JSON object each, one JSON object a line as in .jsonl, or SQuAD's form.

An array is read piece by piece, so that memory holds one record of it, and a piece of the file, at a time.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence

from pretune.text.readers import jsonl, squad
from pretune.text.readers.files import Source, SourceConfig, UnreadableError, read_chunks
from pretune.text.readers.lines import CHUNK
from pretune.text.readers.records import Column, RecordError, SourceRow, absent, describe, too_long

SUFFIXES = (".json",)
_SPACE = re.compile(r"[ \t\r\n]*")
_TAIL = 16  # characters at the end of what was read that may be half of a name or a number


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """The records of an array, each with the line on which it begins, or those of lines."""
    if not _is_array(source, config):
        reader = squad if squad.is_squad(source, config) else jsonl
        yield from reader.read(source, columns, config)
        return
    required = [column for column in columns if column.required]
    for item in _Array(source, config).records():
        if isinstance(item, RecordError):
            yield item
        else:
            yield absent(str(source.path), item[0], required, item[1], "field") or item


def names(source: Source, config: SourceConfig) -> list[str]:
    """The names of the fields of the first record; none where it cannot be read."""
    if not _is_array(source, config):
        return squad.names(source, config) if squad.is_squad(source, config) else jsonl.names(source, config)
    first = next(_Array(source, config).records(), None)
    return [] if first is None or isinstance(first, RecordError) else list(first[1])


def _is_array(source: Source, config: SourceConfig) -> bool:
    """Whether the file begins as an array does; what cannot be read is none, and has its error as lines."""
    try:
        chunks = read_chunks(source, CHUNK, config.max_compression_ratio)
        start = next((chunk for chunk in chunks if chunk.removeprefix(codecs.BOM_UTF8).strip()), b"")
    except UnreadableError:
        return False
    return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


class _ArrayError(Exception):
    """What is wrong with an array, and what to do."""

    def __init__(self, reason: str, remedy: str = "fix the record, or write one object a line: jq -c '.[]'") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class _Array:
    """Reads the objects of an array one after the other, with their lines."""

    def __init__(self, source: Source, config: SourceConfig) -> None:
        self._source, self._config = source, config
        self._chunks = read_chunks(source, CHUNK, config.max_compression_ratio)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder(object_pairs_hook=_without_doubles)
        self._text, self._place, self._line, self._has_more = "", 0, 1, True

    def records(self) -> Iterator[SourceRow | RecordError]:
        """The objects; an error is the last item, as nobody knows where the next object would begin."""
        file = str(self._source.path)
        try:
            self._take("[")
            is_first = True
            while self._peek() != "]":
                if not is_first:
                    self._take(",")
                    self._peek()
                is_first, line = False, self._line
                yield line, self._object()
            self._take("]")
            if self._peek():
                raise _ArrayError("there is more after the end of the array", "leave one array in the file")
        except _ArrayError as error:
            yield RecordError(file, self._line, error.reason, error.remedy)
        except UnreadableError as error:
            yield RecordError(file, 0, str(error), "fetch or write the file again")

    def _read(self) -> None:
        """Brings in the next piece of the file, and forgets what was read before."""
        chunk = next(self._chunks, b"")
        self._has_more = bool(chunk)
        try:
            piece = self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError:
            raise _ArrayError("not UTF-8", "convert the file to UTF-8") from None
        self._text, self._place = self._text[self._place :] + piece, 0

    def _peek(self) -> str:
        """The next character that is not white space; nothing at the end."""
        while True:
            space = _SPACE.match(self._text, self._place)
            assert space is not None  # white space may be empty
            self._line += space.group().count("\n")
            self._place = space.end()
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._has_more:
                return ""
            self._read()

    def _take(self, wanted: str) -> None:
        """Passes over a character that must come now."""
        actual = self._peek()
        if actual != wanted:
            what = f"{actual!r}" if actual else "the end of the file"
            raise _ArrayError(f"not JSON: {what} where {wanted!r} belongs")
        self._place += 1

    def _object(self) -> dict[str, object]:
        """The object that begins here."""
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._place)
                break
            except json.JSONDecodeError as error:
                is_open = error.pos >= len(self._text) - _TAIL or error.msg.startswith("Unterminated")
                if not self._has_more or not is_open:
                    raise _ArrayError(f"not JSON: {error.msg}") from None
            except ValueError as error:  # a number that is too long
                raise _ArrayError(f"not usable JSON: {error}") from None
            except RecursionError:
                raise _ArrayError("not usable JSON: nested too deep") from None
            self._check_size(len(self._text))
            self._read()
        self._check_size(end)
        if not isinstance(value, dict):
            raise _ArrayError(f"an item of the array is {describe(value)}, not an object")
        self._line += self._text.count("\n", self._place, end)
        self._place = end
        return value

    def _check_size(self, end: int) -> None:
        """Refuses an object that is too long; a character has a byte at least, which is tested first."""
        limit, size = self._config.max_document_bytes, end - self._place
        if size > limit or (4 * size > limit and len(self._text[self._place : end].encode("utf-8", "replace")) > limit):
            error = too_long(str(self._source.path), self._line, limit)
            raise _ArrayError(error.reason, error.remedy)


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The fields of an object, none of which is there twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        known = [name for name, _ in pairs]
        twice = next(name for name in known if known.count(name) > 1)
        raise _ArrayError(f"field {twice!r} is there twice", "leave one of the two out")
    return fields
