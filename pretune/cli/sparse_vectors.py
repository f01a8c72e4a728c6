"""Writes sparse vectors of texts: lines of JSON with a weight by token, or a matrix of scipy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretune.cli.answers import AnswerRow, open_answers
from pretune.cli.inputs import RowFlags, TextRow, chunks, named_rows, read_rows
from pretune.cli.loading import unknown_said_once, written
from pretune.cli.outputs import suffix_of
from pretune.cli.session import Session
from pretune.disk import new_file
from pretune.errors import UsageError
from pretune.table import readable
from pretune.wording import counted, quoted

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from pretune.api import Model

SUFFIX = ".npz"
_SHOWN = 5  # tokens of a text, on a terminal


def refuse_dense(rows: RowFlags, flags: Mapping[str, object]) -> None:
    """Refuses what only dense vectors have.

    Args:
        flags: by name; those of dense vectors must not be there.

    Raises:
        UsageError: one of them, or a file of dense vectors, is asked for.
    """
    if suffix_of(rows.output) == ".npy":
        raise UsageError(f"{rows.output}: this model's vectors are sparse; write {SUFFIX} or .jsonl")
    if suffix_of(rows.output) == SUFFIX and rows.id is not None:
        raise UsageError(f"--id {rows.id}: a {SUFFIX} file has no place for it; write .jsonl")
    for flag, value in flags.items():
        if value and flag != "combine":  # which is of several layers
            raise UsageError(f"--{flag}: this model's vectors are sparse; leave it out, or name a --pooling")


def embed_sparse(
    loaded: Model,
    texts: Sequence[str],
    rows: RowFlags,
    prompt: str | None,
    prompt_name: str | None,
    session: Session,
) -> None:
    """Writes the sparse vectors of texts, of arguments or of files."""

    def vectors(part: Sequence[TextRow]) -> csr_matrix:
        with named_rows(part):
            return loaded.embed_sparse([row.text for row in part], prompt=prompt, prompt_name=prompt_name)

    embedded = ((part, vectors(part)) for part in chunks(read_rows(texts, rows, loaded)))
    is_matrix = suffix_of(rows.output) == SUFFIX
    with unknown_said_once(loaded):
        if is_matrix:
            assert rows.output is not None  # it has a suffix
            count, weights = _save(rows.output, [matrix for _, matrix in embedded])
        else:
            count, weights = _write_lines(loaded, rows, embedded)
    session.say(
        f"{weights / max(count, 1):,.1f} tokens of a text have a weight, on average over {counted(count, 'text')}"
    )
    written(session, rows.output)
    if is_matrix:
        code = f"import scipy.sparse; print(scipy.sparse.load_npz({str(rows.output)!r}).shape)"
        session.say(f"next: python -c {quoted(code)}")


def _write_lines(
    loaded: Model, rows: RowFlags, embedded: Iterable[tuple[Sequence[TextRow], csr_matrix]]
) -> tuple[int, int]:
    """A line of JSON for each text; how many texts and weights there are."""
    count = weights = 0
    with open_answers(rows.output, rows.as_json) as writer:
        for part, matrix in embedded:
            count, weights = count + len(part), weights + matrix.nnz
            for row, vector in zip(part, loaded.token_weights(matrix), strict=True):
                writer.write(AnswerRow(row.inputs, {"vector": vector}, row.shown, {"vector": _brief(vector)}))
    return count, weights


def _save(path: Path, matrices: Sequence[csr_matrix]) -> tuple[int, int]:
    """Writes a matrix with a row for each text, whole or not at all; how many texts and weights there are."""
    from scipy.sparse import csr_matrix, save_npz, vstack

    whole = csr_matrix(vstack(matrices, format="csr"))
    with new_file(path) as file:
        save_npz(file, whole)
    return len(whole.indptr) - 1, int(whole.nnz)


def _brief(vector: dict[str, float]) -> str:
    """The heaviest tokens, for a terminal."""
    first = ", ".join(f"{token} {readable(weight)}" for token, weight in list(vector.items())[:_SHOWN])
    return f"{first}, ... ({len(vector):,} tokens)" if len(vector) > _SHOWN else first or "no token"
