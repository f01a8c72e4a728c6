"""Reads the records of rerankers: a query with one passage or several, and how relevant each is.

text, second, label             a pair; the pairs of one query are joined afterwards
text, second = [...], label = [...]
text, second, third             relevant passages and others, each a text or a list; `label` may hold a number for each
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pretune.errors import DataError
from pretune.tasks.shared.vector_task import is_number
from pretune.tasks.task import Example
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.readers.records import Column, Record, is_missing, label_text

_NO_SECOND = "name the column of the passages with --second (data.columns.second)"


@dataclass(frozen=True, slots=True)
class RankingExample(Example):
    """A query with its passages.

    Attributes:
        text: the query, never empty.
        passages: one at least, none empty.
        grades: how relevant each is; None where it is not known.
    """

    text: str
    passages: tuple[str, ...]
    grades: tuple[float, ...] | None = None

    @property
    def held_together(self) -> str:
        """The query: its passages are all held out or none."""
        return self.text

    @property
    def second(self) -> str | None:
        """The passage, where there is one."""
        return self.passages[0] if len(self.passages) == 1 else None


def ranking_columns(columns: LabelledConfig, needs_labels: bool) -> list[Column]:
    """The fields of a record."""
    read = [Column(columns.text, "columns.text")]
    read += [Column(columns.second, "columns.second")] if columns.second else []
    read += [Column(columns.third, "columns.third", required=False)] if columns.third else []
    needs = needs_labels and columns.third is None
    return [*read, Column(columns.label, "columns.label", required=needs)]


def read_ranking(record: Mapping[str, object], columns: LabelledConfig) -> RankingExample:
    """A query, its passages, and their grades.

    Raises:
        DataError: no passage, an empty one, or labels that are no numbers or of another number than the passages.
    """
    fields = Record.of(record)
    query = fields.text(columns.text, "columns.text")
    if columns.second is None:
        raise fields.error("a reranker reads a query and a passage", _NO_SECOND)
    passages = _texts(fields, columns.second, "columns.second")
    others: list[str] = []
    if columns.third is not None and not is_missing(fields.get(columns.third)):
        others = _texts(fields, columns.third, "columns.third", may_be_empty=True)
    count = len(passages) + len(others)
    label = fields.get(columns.label)
    has_third = columns.third is not None and columns.third in fields
    if is_missing(label) or label == "":
        if has_third:
            grades: tuple[float, ...] | None = (1.0,) * len(passages) + (0.0,) * len(others)
        elif fields.needs_labels:
            fields.label(columns.label, "columns.label")  # says what is missing
            raise fields.missing(columns.label)
        else:
            grades = None
    else:
        grades = _grades(fields, columns.label, label, count)
    return RankingExample(query, (*passages, *others), grades, origin=fields.origin)


def join_queries(examples: Sequence[RankingExample]) -> list[RankingExample]:
    """One example for each query, where it first stands, with the passages of all of its records.

    Raises:
        DataError: a passage with two grades, or a query with grades here and none there.
    """
    lists: dict[str, list[RankingExample]] = {}
    for example in examples:
        lists.setdefault(example.text, []).append(example)
    return [_joined(records) if len(records) > 1 else records[0] for records in lists.values()]


def _joined(records: Sequence[RankingExample]) -> RankingExample:
    """The passages of a query's records, each once."""
    seen: dict[str, tuple[float | None, RankingExample]] = {}
    for record in records:
        grades: Sequence[float | None] = record.grades or (None,) * len(record.passages)
        for passage, grade in zip(record.passages, grades, strict=True):
            known, first = seen.setdefault(passage, (grade, record))
            if known != grade:
                raise DataError(
                    f"{record.origin}: label {_shown(grade)} for a passage that has {_shown(known)} for the same query "
                    f"at {first.origin}: {passage[:40]!r}; correct one of them, or remove it"
                )
    known_grades = [grade for grade, _ in seen.values() if grade is not None]
    if known_grades and len(known_grades) < len(seen):
        missing = next(record for record in records if record.grades is None)
        raise DataError(f"{missing.origin}: no label, where other passages of this query have one; label all of them")
    return replace(records[0], passages=tuple(seen), grades=tuple(known_grades) or None)


def check_lists(examples: Sequence[RankingExample], purpose: str, remedy: str) -> None:
    """Refuses queries whose passages have one grade, so that no order of them is better than another.

    Args:
        purpose: what cannot be done with such a query.
        remedy: beyond another passage.

    Raises:
        DataError: naming the first such query.
    """
    for example in examples:
        if example.grades is None:
            raise DataError(f"{example.origin}: no label; say how relevant each passage is")
        if len(set(example.grades)) > 1:
            continue
        count, grade = len(example.passages), _shown(example.grades[0])
        what = "one passage" if count == 1 else f"{count} passages, all with label {grade}"
        missing = "that is relevant" if example.grades[0] <= 0 else "that is not relevant"
        raise DataError(
            f"{example.origin}: query {example.text[:40]!r} has {what}, so that {purpose}; add a passage {missing}, "
            f"{remedy}"
        )


def _texts(fields: Record, name: str, setting: str, may_be_empty: bool = False) -> list[str]:
    """A field that holds a text or a list of texts.

    Raises:
        DataError: it is missing, empty, or holds something else.
    """
    value = fields.get(name)
    if isinstance(value, str):  # of a table, whose cell may hold a list; a passage may begin with a bracket too
        items = _json_list(value)
        if items is None:
            return [fields.text(name, setting)]
        fields = Record({**fields, name: items}, fields.origin, max_bytes=fields.max_bytes)
    texts = fields.strings(name, setting)
    if not texts and not may_be_empty:
        raise fields.error(f"field {name!r} is a list without passages", "give at least one, or remove the record")
    return texts


def _json_list(text: str) -> list[str] | None:
    """The texts of a JSON list; None of what is none."""
    if not text.lstrip().startswith('["'):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return items if all(isinstance(item, str) for item in items) else None


def _grades(fields: Record, name: str, label: object, count: int) -> tuple[float, ...]:
    """The label of each passage as a number.

    Raises:
        DataError: another number of them, or one that is no finite number.
    """
    items = fields.items_of(name, label)
    items = [label] if items is None else items
    texts = [label_text(item) for item in items]
    for number, (text, item) in enumerate(zip(texts, items, strict=True)):
        if not is_number(text) or not math.isfinite(float(text)):
            where = f"{name}[{number}]" if len(items) > 1 else name
            raise fields.error(
                f"label {str(item)[:40]!r} in field {where!r} is not a finite number",
                "write how relevant the passage is, such as 0 or 1, or name the column of the labels with --label",
            )
    if len(texts) != count:
        raise fields.error(
            f"field {name!r} has {len(texts)} labels for {count} passages", "give one to each, or remove the record"
        )
    return tuple(float(text) for text in texts)


def _shown(grade: float | None) -> str:
    return "none" if grade is None else f"{grade:g}"
