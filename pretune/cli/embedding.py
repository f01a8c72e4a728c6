"""The verb that embeds texts, their tokens or their words as vectors: embed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pretune.cli.adapters import NO_ADAPTERS, Adapters
from pretune.cli.answers import WORKBOOK, AnswerRow, open_answers
from pretune.cli.export import Pooling
from pretune.cli.inputs import (
    NO_FLAGS,
    RowFlags,
    Rows,
    TextRow,
    chunks,
    named_rows,
    read_rows,
    say_columns,
    split_names,
    split_texts,
    text_column_of,
)
from pretune.cli.loading import OfBase, OfStep, unknown_said_once, written
from pretune.cli.outputs import check_output, suffix_of
from pretune.cli.session import DEFAULT, Common
from pretune.cli.sparse_vectors import embed_sparse, refuse_dense
from pretune.disk import new_file
from pretune.errors import UsageError
from pretune.table import readable
from pretune.wording import quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pretune.api import Model
    from pretune.evaluate.embed_parts import EmbeddedText


@dataclass(frozen=True)
class PartFlags:
    """Flags that say what has a vector, and of which layers.

    Attributes:
        of: what has a vector; tokens and words of long texts are read in windows.
        layers: layers whose rows are read, such as -1,-2: 0 is the embedding, -1 the last; of an encoder-decoder the
            encoder's. By default the last one.
        combine: what becomes of several layers: their mean, one long vector, or a vector each.
        word_vector: of a word's tokens, their mean or the first.
        segmenter: finds Chinese words, such as jieba; by default each Chinese character is a word.
        dim: numbers of a vector that are kept, the first ones, as of a model trained with dims.
    """

    of: Literal["texts", "tokens", "words"] = "texts"
    layers: Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True)] = ()
    combine: Literal["mean", "concat", "list"] = "mean"
    word_vector: Literal["mean", "first"] = "mean"
    segmenter: str | None = None
    dim: int | None = None

    def options(self) -> dict[str, Any]:
        """The flags as options of `Model.embed`.

        Raises:
            UsageError: a layer that is no number, or a flag of words for texts.
        """
        if self.of != "words" and (self.segmenter is not None or self.word_vector != "mean"):
            raise UsageError("--segmenter and --word-vector are for words; use --of words")
        layers = [_layer(name) for name in split_names(self.layers)] or None
        shared: dict[str, Any] = {"layers": layers, "combine": self.combine}
        if self.of == "words":
            shared |= {"word_vector": self.word_vector, "segmenter": self.segmenter}
        return {**shared, "dim": self.dim} if self.of == "texts" or self.dim is not None else shared


Parts = Annotated[PartFlags, Parameter(name="*")]
_TEXTS = PartFlags()


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
    parts: Parts = _TEXTS,
    step: OfStep = None,
    base: OfBase = None,
    adapters: Adapters = NO_ADAPTERS,
    session: Common = DEFAULT,
) -> None:
    """Embed texts, their tokens or their words as vectors.

    Writes a .npy file of shape (texts, width) in float32, lines of JSON, or a table; of tokens and words lines of JSON,
    or a .npz file. Sparse vectors, of a model that was trained for them (--task sparse), are written as a weight by
    token, or as a matrix of scipy in a .npz file.

    Args:
        model: folder of any model.
        texts: texts to embed, or files of texts; without any, standard input is read, one text per line.
        second: column of second texts, which are embedded too; a .npy file then is (texts, 2, width).
        pooling: of the rows of all tokens, in place of the modules that the model's files name; by default as these
            files say, or as the model was trained; else the mean, of a ...ForCausalLM the last row.
        prompt: text before each text; by default the default prompt of the model's files, if they name one.
        prompt_name: of one of the prompts in the model's files, such as query.
        normalize: scale each vector to length 1.
    """
    check_output(rows.output, ".npy", ".npz", WORKBOOK)
    own_options = parts.options()
    _check_form(rows.output, parts)
    if parts.of != "texts":
        for flag, value in {"pooling": pooling, "prompt": prompt, "prompt-name": prompt_name, "second": second}.items():
            if value is not None:
                raise UsageError(f"--{flag} is for vectors of texts; leave it out, or use --of texts")
    texts, rows = split_texts(texts, rows, session)
    is_array = suffix_of(rows.output) == ".npy"
    if is_array and rows.id is not None:
        raise UsageError(f"--id {rows.id}: a .npy file has no place for it; write .jsonl or .csv")
    loaded = adapters.load(model, session, rows, step, base)
    config = text_column_of(loaded, rows).model_copy(update={"second": second})
    say_columns(session, rows.input, config, [config.text, second, rows.id])
    if parts.of != "texts":
        _write_parts(loaded, adapters, texts, rows, parts, {**own_options, "normalize": normalize})
        written(session, rows.output)
        return
    options: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name, "normalize": normalize, **own_options}
    if loaded.is_sparse and pooling is None:
        refuse_dense(
            rows, {"second": second, "layers": own_options["layers"], "dim": parts.dim, "normalize": normalize}
        )
        embed_sparse(loaded, texts, rows, prompt, prompt_name, session)
        return
    if suffix_of(rows.output) == ".npz":
        raise UsageError(f"--output {rows.output}: a .npz file holds vectors of tokens or words; write .npy")
    _write_texts(loaded, adapters, read_rows(texts, rows, loaded, second), rows, pooling, options)
    written(session, rows.output)
    if is_array:
        code = f"import numpy; print(numpy.load({str(rows.output)!r}).shape)"
        session.say(f"next: python -c {quoted(code)}")


def _write_texts(
    model: Model,
    adapters: Adapters,
    text_rows: Iterable[TextRow],
    rows: RowFlags,
    pooling: Pooling | None,
    options: dict[str, Any],
) -> None:
    """Writes the vector of each text, and of each second one: as one array, or beside the texts."""

    def vectors(part: list[TextRow]) -> list[NDArray[np.float32]]:
        if adapters.adapter_column is not None:
            options["adapter"] = adapters.names((row.inputs, row.origin) for row in part)
        with named_rows(part):
            return [model.embed(texts, pooling, **options) for texts in _sides(part)]

    embedded = ((part, vectors(part)) for part in chunks(text_rows))
    with unknown_said_once(model):
        if suffix_of(rows.output) == ".npy":
            assert rows.output is not None  # it has a suffix
            _save_array(rows.output, (sides for _, sides in embedded))
        else:
            _write_vectors(rows, embedded)


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


def _shortest(vectors: NDArray[np.float32]) -> list[Any]:
    """Numbers whose text is the shortest that is read as the same float32: 0.1 and not 0.10000000149011612."""
    import pyarrow as pa

    if vectors.ndim == 3:  # of a list of layers
        return [_shortest(row) for row in vectors]
    return [pa.array(row).cast(pa.string()).cast(pa.float64()).to_pylist() for row in vectors]


def _layer(name: str) -> int:
    """The number of a layer.

    Raises:
        UsageError: it is none.
    """
    try:
        return int(name)
    except ValueError:
        raise UsageError(f"--layers {name}: expected numbers of layers, such as -1,-2") from None


def _check_form(output: Path | None, parts: PartFlags) -> None:
    """Refuses a file that cannot hold what is asked for.

    Raises:
        UsageError: as said.
    """
    suffix = suffix_of(output)
    if parts.of == "texts":
        if parts.combine == "list" and suffix not in ("", ".npy", ".npz", ".jsonl", ".ndjson", ".json"):
            raise UsageError(f"--output {output}: a table has no place for a list of layers; write .npy or .jsonl")
    elif suffix not in ("", ".npz", ".jsonl", ".ndjson", ".json"):
        raise UsageError(f"--output {output}: vectors of {parts.of} are as many as there are; write .npz or .jsonl")


def _write_parts(
    model: Model, adapters: Adapters, texts: Sequence[str], rows: RowFlags, parts: PartFlags, options: dict[str, Any]
) -> None:
    """Writes the vectors of tokens or words: a line of JSON for each text, or all in one .npz file."""
    if adapters.adapter_column is not None:
        raise UsageError("--adapter-column is for vectors of texts; name one --adapter, or use --of texts")

    def embedded() -> Iterator[tuple[TextRow, EmbeddedText]]:
        for part in chunks(read_rows(texts, rows, model)):
            with named_rows(part):
                yield from zip(part, model.embed([row.text for row in part], of=parts.of, **options), strict=True)

    with unknown_said_once(model):
        if suffix_of(rows.output) == ".npz":
            assert rows.output is not None  # it has a suffix
            _save_parts(rows.output, (each for _, each in embedded()))
            return
        with open_answers(rows.output, rows.as_json) as writer:
            for row, each in embedded():
                answer = {
                    parts.of: each.parts,
                    "offsets": each.offsets.tolist(),
                    "vectors": _shortest(each.vectors),
                }
                count = f"{len(each):,} vectors of {each.vectors.shape[-1]:,} numbers"
                brief = {parts.of: ", ".join(each.parts[:8]) + (", ..." if len(each) > 8 else ""), "vectors": count}
                writer.write(AnswerRow(row.inputs, answer, row.shown, brief))


def _save_parts(path: Path, texts: Iterator[EmbeddedText]) -> None:
    """Writes `vectors` (all parts of all texts), `offsets`, `parts`, and `lengths`: how many each text has."""
    import numpy as np

    each = list(texts)
    with new_file(path) as file:
        np.savez(
            file,
            vectors=np.concatenate([text.vectors for text in each]) if each else np.zeros((0, 0), np.float32),
            offsets=np.concatenate([np.zeros((0, 2), np.int64), *(text.offsets for text in each)]),
            parts=np.array([part for text in each for part in text.parts], dtype=np.str_),
            lengths=np.array([len(text) for text in each], np.int64),
        )


def _brief(vector: Sequence[float]) -> str:
    """The first numbers of a vector, for a terminal."""
    if vector and not isinstance(vector[0], float):
        return f"{len(vector)} layers"
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
