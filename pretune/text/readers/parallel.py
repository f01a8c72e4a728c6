"""Reads parallel files: a text on each line of one file, what it becomes on the same line of the other.

    train.en    A dog runs.            train.de    Ein Hund rennt.

Both are named at once, with braces around what differs, which every part of a recipe may do: `train.{en,de}`,
`{source,target}-train.txt`, `corpus.{zh,en}.gz`. Or the first one is named with `--format parallel`, and
`data.columns.target` gives the other's suffix or path (`--target de`). Lines that are empty in both are left out.

Source: the layout of the corpora of Moses (Koehn et al. 2007, P07-2045).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from pretune.text.readers.files import COMPRESSIONS, Source, SourceConfig
from pretune.text.readers.lines import split_lines, text_blocks
from pretune.text.readers.records import Column, RecordError, SourceRow

SUFFIXES = ()  # of whatever the languages are called
Line = tuple[int, str]


def read(source: Source, columns: Sequence[Column], config: SourceConfig) -> Iterator[SourceRow | RecordError]:
    """A record for each pair of lines."""
    partner = source.partner or _partner(source.path, getattr(config, "target", None))
    if partner is None or not partner.is_file():
        missing = "it has none" if partner is None else f"there is no {partner}"
        remedy = "name both as in 'train.{en,de}', or give the suffix of the other with --target (columns.target)"
        yield RecordError(str(source.path), 0, f"a parallel file needs its partner, and {missing}", remedy)
        return
    other = replace(source, path=partner, compression=COMPRESSIONS.get(partner.suffix.lower(), ""))
    text, target = names(source, config)
    lines = (_lines(each, config) for each in (source, other))
    for number, (first, second) in enumerate(zip_longest(*lines), 1):
        if first is None or second is None:
            yield _unequal(source, other, number, is_first_longer=second is None)
            return
        broken = next((item for item in (first, second) if isinstance(item, RecordError)), None)
        if broken is not None:
            yield broken
        elif not isinstance(first, RecordError) and not isinstance(second, RecordError):
            yield _record(number, (source.path, first[1]), (partner, second[1]), (text, target))


def names(source: Source, config: SourceConfig) -> list[str]:
    """The fields of its records."""
    return [getattr(config, "text", "text"), getattr(config, "target", "target")]


def _record(
    line: int, first: tuple[Path, str], second: tuple[Path, str], names: tuple[str, str]
) -> SourceRow | RecordError:
    """The record of two lines; one that is empty alone is an error of its file."""
    empty = [path for path, text in (first, second) if not text.strip()]
    if len(empty) == 2:
        return line, {}
    if empty:
        other = second[0] if empty[0] == first[0] else first[0]
        remedy = f"fill it in, or remove this line of both files; {other} has a text there"
        return RecordError(str(empty[0]), line, "the line is empty", remedy)
    return line, dict(zip(names, (first[1].strip(), second[1].strip()), strict=True))


def _lines(source: Source, config: SourceConfig) -> Iterator[Line | RecordError]:
    """The lines of a file, a bad one as an error in its place."""
    for item in text_blocks(source, config):
        if isinstance(item, RecordError):
            yield item
        else:
            yield from enumerate(split_lines(item[1]), item[0])


def _unequal(source: Source, other: Source, line: int, *, is_first_longer: bool) -> RecordError:
    """The error of the first line that has no partner."""
    longer, shorter = (source, other) if is_first_longer else (other, source)
    count = f"{line - 1:,} line{'' if line == 2 else 's'}"
    return RecordError(
        str(longer.path), line, f"the line has no partner: {shorter.path} has {count}", "align the files line by line"
    )


def _partner(path: Path, target: str | None) -> Path | None:
    """The other file: of a path, or of the suffix that it has in place of this one's."""
    if target is None or not target.strip():
        return None
    if Path(target).is_file() or Path(target).name != target:
        return Path(target)
    ending = target if target.startswith(".") else f".{target}"
    stem = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    compressed = path.suffix if stem != path else ""
    sibling = stem.with_suffix(ending)
    return sibling.with_name(sibling.name + compressed)
