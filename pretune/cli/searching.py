"""Verbs that search in one's own texts: search, answer; those that make and change an index are in `indexing`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from pretune.cli import indexing
from pretune.cli.answers import WORKBOOK, AnswerRow, open_answers
from pretune.cli.inputs import NO_FLAGS, RowFlags, RowInputs, Rows, TextRow, read_task_records, split_texts
from pretune.cli.loading import written
from pretune.cli.outputs import check_output
from pretune.cli.session import DEFAULT, Common, Session
from pretune.errors import UsageError
from pretune.wording import counted, quoted

if TYPE_CHECKING:
    from pretune.search.answers import Answer
    from pretune.search.hits import Hit
    from pretune.search.index import SearchIndex

_DIGITS = 5  # significant ones of a score
_ANSWER_NAMES = {"text": "passage"}  # fields of a hit, beside the query, whose column is "text"
Mode = Literal["words", "vectors", "fused"]
Where = Annotated[
    tuple[str, ...],
    Parameter(help="condition on a field of the documents, such as language=zh or year>=1990; may be given again."),
]
OfIndex = Annotated[
    Path | None, Parameter(name="--model", help="model that made the index's vectors, where it was moved.")
]


def register(app: App) -> None:
    """Adds these verbs to the command line."""
    group = Group("Search", sort_key=4)
    indexing.register(app, group)
    app.command(search, group=group, sort_key=1, usage='pretune search INDEX "QUERY"... [--flag VALUE]...')
    app.command(answer, group=group, sort_key=2, usage='pretune answer INDEX "QUESTION"... [--flag VALUE]...')


def search(
    index: Path,
    /,
    *queries: str,
    rows: Rows = NO_FLAGS,
    count: int = 10,
    mode: Mode | None = None,
    where: Where = (),
    reranker: Path | None = None,
    per_document: bool = False,
    model: OfIndex = None,
    session: Common = DEFAULT,
) -> None:
    """Find the passages that fit a query best.

    Args:
        index: folder made by `pretune index`.
        queries: queries, or files of such; without any, standard input is read, one per line.
        count: passages for each query at most.
        mode: by words (BM25), by vectors, or by both (fused); by default as the index was tuned.
        reranker: folder of a model that orders the best passages anew; by default the index's, if one helped.
        per_document: the best passage of each document alone.
    """
    check_output(rows.output, WORKBOOK)
    queries, rows = split_texts(queries, rows, session)
    opened = open_for(index, model, session)
    session.say(_described(opened, mode))
    nothing = 0
    with open_answers(rows.output, rows.as_json, _DIGITS) as writer:
        for row in _read_queries(queries, rows):
            hits = opened.search(row.text, count, mode=mode, where=where, reranker=reranker, per_document=per_document)
            nothing += not hits
            for rank, hit in enumerate(hits, 1):
                writer.write(_hit_row(row, rank, hit))
    if nothing:
        session.say(f"queries for which nothing was found: {nothing:,}")
    written(session, rows.output)


def answer(
    index: Path,
    /,
    *questions: str,
    rows: Rows = NO_FLAGS,
    reader: Path | None = None,
    writer: Path | None = None,
    count: int = 5,
    max_new_tokens: int = 128,
    mode: Mode | None = None,
    where: Where = (),
    model: OfIndex = None,
    session: Common = DEFAULT,
) -> None:
    """Answer a question from an index, by a model that quotes or one that writes and names its sources.

    Args:
        index: folder made by `pretune index`.
        questions: questions, or files of such; without any, standard input is read, one per line.
        reader: folder of a model that was fine-tuned with --task reading: it quotes.
        writer: folder of a language model: it writes, and the passages that it names are checked.
        count: passages that are read.
        max_new_tokens: maximal number of new tokens of a written answer.
        mode: by words, by vectors, or by both (fused); by default as the index was tuned.
    """
    if (reader is None) == (writer is None):
        raise UsageError("give a model that answers: --reader RUN quotes, --writer MODEL writes")
    check_output(rows.output, WORKBOOK)
    questions, rows = split_texts(questions, rows, session)
    opened = open_for(index, model, session)
    session.say(_described(opened, mode))
    with open_answers(rows.output, rows.as_json, _DIGITS) as out:
        for row in _read_queries(questions, rows):
            reply = opened.answer(
                row.text,
                count,
                reader=reader,
                writer=writer,
                max_new_tokens=max_new_tokens,
                mode=mode,
                where=where,
            )
            if reply.note:
                session.say(f"{row.text[:60]}: {reply.note}")
            fields = {"answer" if name == "text" else name: value for name, value in reply.to_json().items()}
            out.write(AnswerRow(row.inputs, fields, row.shown, _brief(reply)))
    written(session, rows.output)


def _read_queries(queries: Sequence[str], rows: RowFlags) -> Iterator[TextRow]:
    """Queries from arguments, files, or the lines of standard input."""
    from pretune.config import validate
    from pretune.text.readers.labelled import LabelledConfig
    from pretune.text.readers.records import Column

    named = {} if rows.text is None else {"text": rows.text}
    config = validate(LabelledConfig, {**named, **rows.files.settings()}, "columns")
    fields = [Column(config.text, "columns.text")]
    inputs = RowInputs(fields, config, rows)
    for record in read_task_records(fields, config, queries, rows):
        text = record.text(config.text, "columns.text")
        yield TextRow(text, None, inputs.of(record), inputs.shown, record.origin)


def open_for(index: Path, model: Path | None, session: Session) -> SearchIndex:
    """Opens an index, after the process is set up for models."""
    session.start()
    session.say(f"opening {index}")
    from pretune.searching import open_index

    return open_index(index, model, device=session.device or "auto", precision=session.precision or "auto")


def _described(index: SearchIndex, mode: Mode | None) -> str:
    """What is searched, and how."""
    ranking = index.ranking
    chosen = mode or ranking.mode
    how = {"words": "words (BM25)", "vectors": "vectors", "fused": "words and vectors"}[chosen]
    tuned = "" if ranking.measured or chosen != "fused" else f"; untuned: {tune_hint(index.folder)} chooses the weights"
    passages, documents = counted(index.passages, "passage"), counted(index.documents, "document")
    return f"searching {passages} of {documents} by {how}{tuned}"


def tune_hint(folder: Path) -> str:
    """The command that chooses how an index ranks."""
    return f"pretune index tune {quoted(str(folder)) if ' ' in str(folder) else folder} --queries FILE --qrels FILE"


def _hit_row(row: TextRow, rank: int, hit: Hit) -> AnswerRow:
    fields = {_ANSWER_NAMES.get(name, name): value for name, value in hit.to_json().items()}
    extra = {f"field.{name}": value for name, value in fields.pop("fields").items()}
    brief = {"rank": rank, "document": hit.document, "score": hit.score, "passage": hit.text}
    return AnswerRow(row.inputs, {"rank": rank, **fields, **extra}, row.shown, brief)


def _brief(reply: Answer) -> dict[str, object]:
    """What a terminal shows of an answer."""
    sources: Sequence[str] = [f"[{source.number}] {source.document}" for source in reply.sources]
    if reply.document is not None:
        return {"answer": reply.text, "document": reply.document, "start": reply.start, "score": reply.score}
    return {"answer": reply.text or reply.note, "sources": ", ".join(sources)}
