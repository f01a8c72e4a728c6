"""Verbs that use any finished model: evaluate, predict, embed, export; those of language models are in `language`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, Group

from pretune.cli import judging
from pretune.cli.adapters import NO_ADAPTERS, Adapters
from pretune.cli.answers import WORKBOOK, AnswerRow, open_answers
from pretune.cli.compressing import USAGE, compress
from pretune.cli.deltas import join, merge, register_delta
from pretune.cli.evaluating import evaluate
from pretune.cli.export import Pooling, export
from pretune.cli.inputs import (
    NO_FLAGS,
    RowFlags,
    Rows,
    TextRow,
    chunks,
    named_rows,
    read_rows,
    say_columns,
    split_texts,
    text_column_of,
)
from pretune.cli.language import fill, generate, score
from pretune.cli.loading import OfBase, OfStep, unknown_said_once, written
from pretune.cli.outputs import check_output, suffix_of
from pretune.cli.predicting import predict
from pretune.cli.session import DEFAULT, Common
from pretune.cli.suites import CLUE_USAGE, clue
from pretune.cli.verify import verify
from pretune.disk import new_file
from pretune.errors import UsageError
from pretune.table import readable
from pretune.wording import quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def register(app: App) -> None:
    """Adds these verbs to the command line."""
    group = Group("Use", sort_key=3)
    evaluating = App(name="evaluate", group=group, sort_key=0, usage="pretune evaluate MODEL [DATA] [--flag VALUE]...")
    evaluating.default(evaluate)
    evaluating.command(clue, usage=CLUE_USAGE)
    app.command(evaluating)
    verbs: Sequence[Callable[..., None]] = (predict, fill, generate, score, embed, export, merge, join, verify)
    for position, verb in enumerate(verbs, 1):
        app.command(verb, group=group, sort_key=position)
    register_delta(app, group, len(verbs) + 1)
    app.command(compress, group=group, sort_key=len(verbs) + 2, usage=USAGE)
    judging.register(app, group, len(verbs) + 3)


def embed(
    model: Path,
    /,
    *texts: str,
    rows: Rows = NO_FLAGS,
    second: str | None = None,
    pooling: Pooling | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize: bool = False,
    step: OfStep = None,
    base: OfBase = None,
    adapters: Adapters = NO_ADAPTERS,
    session: Common = DEFAULT,
) -> None:
    """Embed texts as vectors.

    Writes a .npy file of shape (texts, width) in float32, lines of JSON, or a table.

    Args:
        model: folder of any model.
        texts: texts to embed, or files of texts; without any, standard input is read, one text per line.
        second: column of the file with second texts, which are embedded too: a .npy file has the shape
            (texts, 2, width) then.
        pooling: of the rows of all tokens, in place of the modules that the model's files name; by default as these
            files say, or as the model was trained; else the mean, of a ...ForCausalLM the last row.
        prompt: text before each text; by default the default prompt of the model's files, if they name one.
        prompt_name: of one of the prompts in the model's files, such as query.
        normalize: scale each vector to length 1.
    """
    check_output(rows.output, ".npy", WORKBOOK)
    texts, rows = split_texts(texts, rows, session)
    is_array = suffix_of(rows.output) == ".npy"
    if is_array and rows.id is not None:
        raise UsageError(f"--id {rows.id}: a .npy file has no place for it; write .jsonl or .csv")
    loaded = adapters.load(model, session, rows, step, base)
    config = text_column_of(loaded, rows).model_copy(update={"second": second})
    say_columns(session, rows.input, config, [config.text, second, rows.id])
    options: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name, "normalize": normalize}

    def vectors(part: list[TextRow]) -> list[NDArray[np.float32]]:
        if adapters.adapter_column is not None:
            options["adapter"] = adapters.names((row.inputs, row.origin) for row in part)
        with named_rows(part):
            return [loaded.embed(texts, pooling, **options) for texts in _sides(part)]

    parts = ((part, vectors(part)) for part in chunks(read_rows(texts, rows, loaded, second)))
    with unknown_said_once(loaded):
        if is_array:
            assert rows.output is not None  # it has a suffix
            _save_array(rows.output, (sides for _, sides in parts))
        else:
            _write_vectors(rows, parts)
    written(session, rows.output)
    if is_array:
        code = f"import numpy; print(numpy.load({str(rows.output)!r}).shape)"
        session.say(f"next: python -c {quoted(code)}")


def _sides(part: Sequence[TextRow]) -> list[list[str]]:
    """The texts of some rows, and their second texts where they have some."""
    seconds = [row.second for row in part if row.second is not None]
    return [[row.text for row in part], *([seconds] if seconds else [])]


def _write_vectors(rows: RowFlags, parts: Iterable[tuple[list[TextRow], list[NDArray[np.float32]]]]) -> None:
    with open_answers(rows.output, rows.as_json) as writer:
        for part, sides in parts:
            vectors = [_shortest(side) for side in sides]
            for number, row in enumerate(part):
                answer = {"vector": vectors[0][number]}
                answer |= {"second_vector": vectors[-1][number]} if row.second is not None else {}
                brief = {name: _brief(vector) for name, vector in answer.items()}
                writer.write(AnswerRow(row.inputs, answer, row.shown, brief))


def _shortest(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Numbers whose text is the shortest that is read as the same float32: 0.1 and not 0.10000000149011612."""
    import pyarrow as pa

    return [pa.array(row).cast(pa.string()).cast(pa.float64()).to_pylist() for row in vectors]


def _brief(vector: Sequence[float]) -> str:
    """The first numbers of a vector, for a terminal."""
    first = ", ".join(readable(value) for value in vector[:4])
    return f"{first}, ... ({len(vector):,} numbers)"


def _save_array(path: Path, parts: Iterable[list[NDArray[np.float32]]]) -> None:
    """Writes vectors as `numpy.save` does, which needs all of them in memory twice."""
    import numpy as np

    with new_file(path) as file:
        arrays = [sides[0] if len(sides) == 1 else np.stack(sides, axis=1) for sides in parts]
        arrays = arrays or [np.zeros((0, 0), np.float32)]
        shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for array in arrays:
            file.write(np.ascontiguousarray(array, "<f4").data)
