"""The verb that makes an index, and those that change and measure it: index, index add, delete, compact, tune."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from pretune.cli.answers import is_terminal
from pretune.cli.inputs import NO_FILE_FLAGS, Files
from pretune.cli.outputs import open_output
from pretune.cli.session import DEFAULT, Common, Session
from pretune.errors import UsageError
from pretune.table import Table
from pretune.wording import counted

if TYPE_CHECKING:
    from pretune.search.index import SearchIndex
    from pretune.search.judgements import Judged
    from pretune.search.tuning import Measured


@dataclass(frozen=True)
class DocumentFlags:
    """How files of documents are read.

    Attributes:
        text: column of the texts.
        title: column of the titles, which are searched too; empty for none.
        id: column of the ids; by default _id or id, where the file has it, else ids are made.
        documents: what ends a document of a .txt file: the file, a blank line, or each line.
        files: how files are read.
    """

    text: str | None = None
    title: str | None = None
    id: str | None = None
    documents: Literal["file", "blank-line", "line"] | None = None
    files: Files = NO_FILE_FLAGS

    def settings(self) -> dict[str, object]:
        """The flags that are given."""
        values = {"text": self.text, "title": self.title, "id": self.id, "documents": self.documents}
        return {name: value for name, value in values.items() if value is not None} | self.files.settings()


Documents = Annotated[DocumentFlags, Parameter(name="*")]
NO_DOCUMENT_FLAGS = DocumentFlags()


@dataclass(frozen=True)
class QueryFlags:
    """Queries with what is relevant to them.

    Attributes:
        queries: file of queries with ids: .jsonl, .csv or .tsv; or a SQuAD file, which needs no judgements.
        qrels: file of judgements, as BEIR or TREC write them.
        text: column of the queries' texts.
        id: column of the queries' ids.
        reranker: folder of a model that orders the best passages anew.
        measures: as ir-measures names them, with commas between them.
        output: file to write the scores to as well, as JSON.
    """

    queries: Path
    qrels: Path | None = None
    text: str | None = None
    id: str | None = None
    reranker: Path | None = None
    measures: str = "nDCG@10,R@1,R@5,R@10,R@100,RR@10"
    output: Path | None = None

    def read(self) -> Judged:
        """The queries."""
        from pretune.config import validate
        from pretune.search.documents import DocumentConfig
        from pretune.search.judgements import read_judged

        columns = {name: value for name, value in (("text", self.text), ("id", self.id)) if value is not None}
        return read_judged(self.queries, self.qrels, validate(DocumentConfig, columns, "columns"))

    @property
    def names(self) -> list[str]:
        """Of the measures.

        Raises:
            UsageError: none.
        """
        names = [name.strip() for name in self.measures.split(",") if name.strip()]
        if not names:
            raise UsageError(f"--measures {self.measures!r}: names no measure; give some, such as nDCG@10,R@1")
        return names


Queries = Annotated[QueryFlags, Parameter(name="*")]


def register(app: App, group: Group) -> None:
    """Adds these verbs to the command line."""
    usage = "pretune index FILE... --output INDEX [--model MODEL] [--flag VALUE]..."
    indexing = App(name="index", group=group, sort_key=0, usage=usage)
    indexing.default(make)
    indexing.command(add, usage="pretune index add INDEX FILE... [--flag VALUE]...")
    indexing.command(delete, usage="pretune index delete INDEX ID...")
    indexing.command(compact, usage="pretune index compact INDEX")
    indexing.command(evaluate, usage="pretune index evaluate INDEX --queries FILE [--qrels FILE] [--flag VALUE]...")
    indexing.command(tune, usage="pretune index tune INDEX --queries FILE [--qrels FILE] [--flag VALUE]...")
    app.command(indexing)


def make(
    *data: Path,
    output: Path,
    model: Path | None = None,
    size: int | None = None,
    overlap: int | None = None,
    unit: Literal["tokens", "characters"] | None = None,
    columns: Documents = NO_DOCUMENT_FLAGS,
    tokenization: str = "bigrams",
    backend: str | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    replace: bool = False,
    session: Common = DEFAULT,
) -> None:
    """Make an index of documents, in which `pretune search` finds passages by words and by vectors.

    A build that was killed goes on when the same command is started again.

    Args:
        data: files and folders of documents: text, Markdown, HTML, JSONL, CSV, TSV, Excel, Parquet, SQuAD.
        output: folder of the index.
        model: folder of a model whose vectors are searched; without one passages are found by words alone.
        size: tokens, or characters, of a passage at most; 0 for whole documents; by default 200 tokens, without a model
            1,000 characters.
        overlap: tokens, or characters, that a passage shares with the one before, at most.
        unit: what is counted; by default tokens, without a model characters.
        tokenization: what words Chinese is cut into: bigrams, characters, jieba; or a file of your own.
        backend: what finds the nearest vectors: exact, usearch, faiss; or a file of your own; by default exact, of
            more than 20,000 passages usearch.
        query_prompt: text before each query; by default that of the model's files.
        passage_prompt: text before each passage; by default that of the model's files.
        replace: replace an index that is there, when the new one is whole.
    """
    if not data:
        raise UsageError("name a file or a folder of documents, such as handbook/")
    session.start()
    how = "by words alone" if model is None else f"by words and by vectors of {model}"
    session.say(f"indexing {', '.join(map(str, data))} {how} -> {output}")
    from pretune.search.documents import DocumentStats
    from pretune.searching import index

    stats = DocumentStats()
    built = index(
        list(data),
        output,
        model=model,
        size=size,
        overlap=overlap,
        unit=unit,
        tokenization=tokenization,
        backend=backend,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        replace=replace,
        device=session.device or "auto",
        precision=session.precision or "auto",
        stats=stats,
        **columns.settings(),
    )
    _say_stats(session, stats.notes())
    documents = counted(built.documents, "document")
    session.say(f"written: {output}: {documents}, {counted(built.passages, 'passage')}")
    session.say(f'next: pretune search {shlex.quote(str(output))} "a query"')


def add(
    index: Path,
    /,
    *data: Path,
    model: Path | None = None,
    columns: Documents = NO_DOCUMENT_FLAGS,
    update: bool = False,
    session: Common = DEFAULT,
) -> None:
    """Add documents to an index.

    Args:
        index: folder made by `pretune index`.
        data: files and folders of documents.
        model: model that made the index's vectors, where it was moved.
        update: a document whose id is there takes the place of the old one; else it is an error.
    """
    if not data:
        raise UsageError("name a file or a folder of documents to add")
    from pretune.search.documents import DocumentStats

    opened, stats = _open(index, model, session), DocumentStats()
    count = opened.add(list(data), update=update, stats=stats, **columns.settings())
    _say_stats(session, stats.notes())
    session.say(f"added: {counted(count, 'document')}; {_size(opened)}")


def delete(index: Path, /, *ids: str, session: Common = DEFAULT) -> None:
    """Take documents out of an index; `pretune index compact` frees their space.

    Args:
        index: folder made by `pretune index`.
        ids: of the documents.
    """
    if not ids:
        raise UsageError("name the ids of the documents to delete")
    opened = _open(index, None, session)
    count = opened.delete(ids)
    session.say(f"deleted: {counted(len(set(ids)), 'document')}, {counted(count, 'passage')}; {_size(opened)}")


def compact(index: Path, /, *, backend: str | None = None, session: Common = DEFAULT) -> None:
    """Write an index anew without what was deleted; no vector is computed again.

    Args:
        index: folder made by `pretune index`.
        backend: what finds the nearest vectors from now on: exact, usearch, faiss; by default as before.
    """
    opened = _open(index, None, session)
    count = opened.compact(backend)
    session.say(f"freed: {counted(count, 'deleted passage')}; {_size(opened)}")


def evaluate(
    index: Path,
    /,
    *,
    judged: Queries,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    model: Path | None = None,
    session: Common = DEFAULT,
) -> None:
    """Measure an index on judged queries: by words, by vectors, by both, and with a reranker.

    Args:
        index: folder made by `pretune index`.
        as_json: print JSON on a terminal too.
        model: model that made the index's vectors, where it was moved.
    """
    opened = _open(index, model, session)
    queries = judged.read()
    _say_queries(session, queries)
    from pretune.search.tuning import evaluate_index

    rows = evaluate_index(opened, queries, judged.reranker, judged.names)
    _show(rows, as_json, judged.output, session)


def tune(
    index: Path,
    /,
    *,
    judged: Queries,
    held_out: float = 0.5,
    fusion: tuple[str, ...] = (),
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    model: Path | None = None,
    session: Common = DEFAULT,
) -> None:
    """Choose by judged queries how an index ranks: by words, by vectors or by both, and with a reranker if one helps.

    Some of the queries choose how words and vectors are joined; the others measure, and decide what is used.

    Args:
        index: folder made by `pretune index`.
        held_out: share of the queries that measure.
        fusion: how words and vectors may be joined: rrf, weighted, or a file of your own; may be given several times.
            All are tried by default.
        as_json: print JSON on a terminal too.
        model: model that made the index's vectors, where it was moved.
    """
    opened = _open(index, model, session)
    queries = judged.read()
    _say_queries(session, queries)
    from pretune.search.tuning import tune_index

    choice = tune_index(opened, queries, judged.reranker, held_out, judged.names, fusion)
    session.say(f"{choice.tuning:,} queries chose, {choice.held_out:,} held-out ones measured:")
    _show(choice.measured, as_json, judged.output, session)
    for reason in choice.reasons:
        session.say(reason)
    session.say(f"from now on {index} ranks by {choice.ranking.mode}")
    session.say(f'next: pretune search {shlex.quote(str(index))} "a query"')


def _open(index: Path, model: Path | None, session: Session) -> SearchIndex:
    session.start()
    session.say(f"opening {index}")
    from pretune.searching import open_index

    return open_index(index, model, device=session.device or "auto", precision=session.precision or "auto")


def _size(index: SearchIndex) -> str:
    documents, passages = counted(index.documents, "document"), counted(index.passages, "passage")
    return f"{index.folder} has {documents}, {passages}"


def _say_stats(session: Session, notes: Sequence[str]) -> None:
    for note in notes:
        session.say(note)


def _say_queries(session: Session, judged: Judged) -> None:
    left_out = f"; left out, as nothing is said of them: {judged.unjudged:,}" if judged.unjudged else ""
    session.say(f"measuring on {counted(len(judged.texts), 'query', 'queries')}{left_out}")


def _show(rows: Sequence[Measured], as_json: bool, output: Path | None, session: Session) -> None:
    """Prints scores as a table on a terminal, as JSON in a pipe; writes them to a file as well."""
    text = json.dumps({row.name: dict(row.scores) for row in rows}, indent=1)
    if is_terminal() and not as_json:
        names = list(dict.fromkeys(name for row in rows for name in row.scores))
        cells = [
            [row.name, *(f"{row.scores[name]:.4f}" if name in row.scores else "" for name in names)] for row in rows
        ]
        Table(["ranking", *names], cells).print(sys.stdout)
    else:
        print(text)
    sys.stdout.flush()
    if output is not None:
        with open_output(output) as file:
            file.write(text + "\n")
        session.say(f"written: {output}")
