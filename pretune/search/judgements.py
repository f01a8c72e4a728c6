"""Reads queries and what is relevant to them: BEIR's files, TREC's, and the questions of SQuAD's.

    queries.jsonl  {"_id": "q1", "text": "..."}         or CSV, TSV with the columns id and text
    qrels.tsv      query-id  corpus-id  score           BEIR's, with this header
    qrels.txt      q1 0 d7 1                            TREC's, without one
    dev.json       SQuAD's: each question is a query, the text that it is about is relevant

The ids are those of documents of the index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pretune.errors import DataError, UsageError
from pretune.field_table import read_file
from pretune.missing_paths import no_such_folder
from pretune.search.documents import ID_COLUMNS, DocumentConfig, is_squad_file, squad_id, squad_records
from pretune.text.readers.files import Source, find_sources
from pretune.text.readers.labelled import field_names, read_records
from pretune.text.readers.records import Column

_LIMIT = 1 << 29  # bytes of a file of judgements: MS MARCO's largest has 8 MB
_HEADERS = ("query-id", "query_id", "qid", "query")  # first names of a header row


@dataclass(frozen=True)
class Judged:
    """Queries with what is relevant to them.

    Attributes:
        texts: of the queries, by their ids.
        grades: by query, how relevant documents are: 0 is not at all.
        origins: where each pair of query and document was read.
        unjudged: queries of the file that nothing is said of, which are left out.
    """

    texts: Mapping[str, str]
    grades: Mapping[str, Mapping[str, int]]
    origins: Mapping[tuple[str, str], str] = field(default_factory=dict)
    unjudged: int = 0

    def check(self, documents: Collection[str]) -> None:
        """Compares the ids with those of an index.

        Raises:
            DataError: a relevant document is not in the index; the line is named.
        """
        missing = [
            (query, name)
            for query, grades in self.grades.items()
            for name, grade in grades.items()
            if grade > 0 and name not in documents
        ]
        if missing:
            where = self.origins.get(missing[0], "judgements")
            example = next(iter(documents), "")
            raise DataError(
                f"{where}: document {missing[0][1]!r} of query {missing[0][0]!r} is not in the index, whose ids are "
                f"such as {example!r} (such lines: {len(missing):,}); index the same collection, or leave them out"
            )


def read_judged(queries: Path, judgements: Path | None = None, config: DocumentConfig | None = None) -> Judged:
    """The queries of a file, with what is relevant to them.

    Args:
        queries: a file of queries; or of SQuAD, which needs no judgements.
        judgements: file of BEIR or TREC.
        config: columns of the queries' file: `id` and `text`.

    Raises:
        UsageError: no judgements where they are needed.
        DataError: a bad line; an id that is missing or comes twice; a judged query that is not in the file.
    """
    config = config or DocumentConfig()
    sources = find_sources(queries, config.format)
    if len(sources) != 1:
        raise UsageError(f"{queries}: holds {len(sources)} files; give one file of queries")
    if is_squad_file(sources[0], config):
        return _of_squad(queries, sources[0])
    if judgements is None:
        raise UsageError(f"{queries}: give the judgements too (--qrels): which documents are relevant to which query")
    texts = _texts(queries, config)
    grades: dict[str, dict[str, int]] = {}
    origins: dict[tuple[str, str], str] = {}
    for line, query, name, grade in _rows(judgements):
        where = f"{judgements}:{line}"
        if query not in texts:
            raise DataError(f"{where}: query {query!r} is not in {queries}; add it there, or remove the line")
        if (query, name) in origins:
            raise DataError(f"{where}: document {name!r} of query {query!r} is judged in {origins[query, name]} too")
        origins[query, name] = where
        grades.setdefault(query, {})[name] = grade
    if not any(grade > 0 for each in grades.values() for grade in each.values()):
        raise DataError(f"{judgements}: names no relevant document; give one to each query")
    chosen = {query: text for query, text in texts.items() if query in grades}
    return Judged(chosen, grades, origins, len(texts) - len(chosen))


def _texts(path: Path, config: DocumentConfig) -> dict[str, str]:
    names = field_names(path, config)
    column = config.id or next((name for name in ID_COLUMNS if name in names), None)
    if column is None:
        raise DataError(f"{path}: no column of ids among {', '.join(names) or 'none'}; name it: --id")
    texts: dict[str, str] = {}
    for record in read_records(path, [Column(config.text, "text"), Column(column, "id")], config, needs_labels=False):
        name = record.get(column)
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            raise DataError(f"{record.origin}: the id (field {column!r}) is {name!r}; fill it in")
        if str(name) in texts:
            raise DataError(f"{record.origin}: id {str(name)!r} comes twice; give each query an id of its own")
        texts[str(name)] = record.text(config.text, "text")
    return texts


def _rows(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Line, query, document and grade of each judgement."""
    if not path.exists():
        raise no_such_folder(path, "file of judgements")
    try:
        lines = read_file(path, _LIMIT).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error}; convert it first (iconv -t utf-8)") from None
    for number, line in enumerate(lines, 1):
        fields = line.split("\t") if "\t" in line else line.split()
        fields = [each.strip() for each in fields]
        if not any(fields) or (number == 1 and fields[0].lower() in _HEADERS):
            continue
        if len(fields) == 4:
            del fields[1]  # TREC's iteration, which nobody uses
        try:
            query, name, grade = fields
            yield number, query, name, int(grade)
        except ValueError:
            raise DataError(
                f"{path}:{number}: {line[:80]!r} is no judgement; write query, document and grade (BEIR), or query, 0, "
                "document and grade (TREC)"
            ) from None


def _of_squad(path: Path, source: Source) -> Judged:
    numbers: dict[str, int] = {}
    texts: dict[str, str] = {}
    grades: dict[str, dict[str, int]] = {}
    origins: dict[tuple[str, str], str] = {}
    for line, fields in squad_records(source):
        number = numbers.setdefault(str(fields["text"]), len(numbers) + 1)
        query, where = str(fields.get("id") or line), f"{path}:{line}"
        if query in texts:
            raise DataError(f"{where}: id {query!r} comes twice; give each question an id of its own")
        name = squad_id(source, number)
        texts[query], grades[query], origins[query, name] = str(fields["question"]), {name: 1}, where
    return Judged(texts, grades, origins)
