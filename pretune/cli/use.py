"""Verbs that use any finished model: evaluate, predict, embed, export; those of language models are in `language`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from pretune.cli.export import Pooling, export
from pretune.cli.inputs import (
    NO_FLAGS,
    RowFlags,
    Rows,
    TextRow,
    chunks,
    columns_of,
    ids_of,
    named_rows,
    read_rows,
    read_task_records,
    refuse_column,
    say_columns,
    text_column_of,
)
from pretune.cli.language import fill, generate, score
from pretune.cli.loading import OfStep, load_model, unknown_said_once, written
from pretune.cli.outputs import check_output, open_rows, suffix_of
from pretune.cli.session import DEFAULT, Common
from pretune.cli.verify import verify
from pretune.disk import new_file
from pretune.errors import UsageError
from pretune.wording import quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pretune.text.readers.labelled import LabelledConfig

Truncate = Literal["head", "tail", "head+tail", "error"]
Pairs = Annotated[tuple[tuple[str, str], ...], Parameter(show_default=False, allow_leading_hyphen=True)]


def register(app: App) -> None:
    """Adds these verbs to the command line."""
    group = Group("Use", sort_key=3)
    verbs: Sequence[Callable[..., None]] = (evaluate, predict, fill, generate, score, embed, export, verify)
    for position, verb in enumerate(verbs):
        app.command(verb, group=group, sort_key=position)


def evaluate(
    model: Path,
    data: Path,
    /,
    *,
    text: str | None = None,
    label: str | None = None,
    second: str | None = None,
    third: str | None = None,
    task: str | None = None,
    truncate: Truncate | None = None,
    objective: str | None = None,
    split: Literal["validation", "train"] = "validation",
    length: int | None = None,
    pack: Literal["stream", "document"] | None = None,
    step: OfStep = None,
    session: Common = DEFAULT,
) -> None:
    """Evaluate a model on a labelled file or a token store.

    Prints JSON: a task's scores, or the loss, perplexity and accuracy of each objective on the store's held-out split.

    Args:
        model: folder of a model.
        data: a labelled .csv, .tsv, .jsonl or .parquet file, or a store made by `pretune prepare`.
        text: column of the texts in a labelled file; by default, like the columns below, as in training.
        label: column of the labels in a labelled file.
        second: column of the second texts in a labelled file of pairs.
        third: column of the third texts in a labelled file of triplets.
        task: task of a labelled file, such as classification, or similarity, whose labels say how alike two texts are.
        truncate: which part of a too long text is kept; error refuses it. By default as in training.
        objective: what to evaluate on a store, such as "span" or "mlm,sop"; by default those that it was trained on.
        split: split of a store.
        length: tokens per window of a store.
        pack: how documents of a store are packed into windows.
    """
    session.say(f"evaluating {model} on {data}")
    loaded = load_model(model, session, step=step)
    flags = {"text": text, "label": label, "second": second, "third": third}
    columns = columns_of(loaded, flags) if any(flags.values()) else None
    if not (data / "manifest.json").is_file():
        fields = loaded.task(task, columns=columns).columns(needs_labels=True)
        config = columns or columns_of(loaded, {})
        say_columns(session, data, config, [column.name for column in fields])
    chosen = None if objective is None else {name.strip(): 1.0 for name in objective.split(",")}
    scores = loaded.evaluate(
        data, columns=columns, task=task, truncate=truncate, objective=chosen, split=split, length=length, pack=pack
    )
    print(json.dumps(scores, indent=2))


def predict(
    model: Path,
    /,
    *texts: str,
    rows: Rows = NO_FLAGS,
    pair: Pairs = (),
    second: str | None = None,
    third: str | None = None,
    truncate: Truncate | None = None,
    step: OfStep = None,
    session: Common = DEFAULT,
) -> None:
    """Predict with a fine-tuned model's task, such as the label of a text with the probability of every label.

    Prints one line of JSON per text, or writes a table.

    Args:
        model: folder of a fine-tuned model.
        texts: texts to predict on; without texts and --input, standard input is read, one text per line.
        pair: two texts that belong together, in place of texts; may be given several times.
        second: column of the second texts in a file of pairs; by default as in training.
        third: column of the third texts in a file of triplets; by default as in training.
        truncate: which part of a too long text is kept; error refuses it. By default as in training.
    """
    check_output(rows.output)
    if rows.input is None:
        refuse_column("--second", second)
        refuse_column("--third", third)
    if pair:
        texts, seconds = _texts_of_pairs(pair, texts, rows)
    else:
        seconds = ()
    loaded = load_model(model, session, step=step)
    from pretune.tasks.task import prediction_fields

    config = columns_of(loaded, {"text": rows.text, "second": second, "third": third})
    if rows.input is None:
        config = _columns_of_arguments(config, seconds)
    task = loaded.task(columns=config, truncate=truncate)
    session.say(f"predicting {task.name} with {model}: {', '.join(getattr(task, 'labels', ())) or task.main_metric}")
    fields = [column for column in task.columns(needs_labels=False) if column.required]
    say_columns(session, rows.input, config, [*(column.name for column in fields), rows.id])
    names = {config.text: "text", config.second: "second", config.third: "third"}
    with open_rows(rows.output) as writer, unknown_said_once(loaded):
        for part in chunks(read_task_records(fields, config, texts, rows, seconds)):
            predictions = loaded.predict(part, truncate=truncate, columns=config)
            for record, prediction in zip(part, predictions, strict=True):
                inputs = {names.get(column.name, column.name): record[column.name] for column in fields}
                writer.write(ids_of(record, rows) | inputs | prediction_fields(prediction))
    written(session, rows.output)


def _texts_of_pairs(
    pairs: Sequence[tuple[str, str]], texts: Sequence[str], rows: RowFlags
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first and the second texts of `--pair`.

    Raises:
        UsageError: texts or a file beside them.
    """
    if texts:
        raise UsageError(f"expected texts, such as {texts[0]!r}, or --pair, not both")
    if rows.input is not None:
        raise UsageError(
            f"--pair would not be read beside --input {rows.input}; name the column of the second texts with --second"
        )
    return tuple(first for first, _ in pairs), tuple(second for _, second in pairs)


def _columns_of_arguments(config: LabelledConfig, seconds: Sequence[str]) -> LabelledConfig:
    """The columns of texts that are not of a file: one, or two where second texts are given.

    Raises:
        UsageError: a model of pairs without second texts.
    """
    if config.second and not seconds:
        raise UsageError(
            f"this model was trained on pairs ({config.text!r} and {config.second!r}); give --pair TEXT TEXT for each "
            "pair, or a file with both columns (--input)"
        )
    second = config.second or "second"
    return config.model_copy(update={"second": second if seconds else None, "third": None})


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
    session: Common = DEFAULT,
) -> None:
    """Embed texts as vectors.

    Writes a .npy file of shape (texts, width) in float32, lines of JSON, or a table.

    Args:
        model: folder of any model.
        texts: texts to embed; without texts and --input, standard input is read, one text per line.
        second: column of the file with second texts, which are embedded too: a .npy file has the shape
            (texts, 2, width) then.
        pooling: of the rows of all tokens, in place of the modules that the model's files name; by default as these
            files say, or as the model was trained; else the mean, of a ...ForCausalLM the last row.
        prompt: text before each text; by default the default prompt of the model's files, if they name one.
        prompt_name: of one of the prompts in the model's files, such as query.
        normalize: scale each vector to length 1.
    """
    check_output(rows.output, ".npy")
    is_array = suffix_of(rows.output) == ".npy"
    if is_array and rows.id is not None:
        raise UsageError(f"--id {rows.id}: a .npy file has no place for it; write .jsonl or .csv")
    loaded = load_model(model, session, step=step)
    config = text_column_of(loaded, rows).model_copy(update={"second": second})
    say_columns(session, rows.input, config, [config.text, second, rows.id])
    options: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name, "normalize": normalize}

    def vectors(part: list[TextRow]) -> list[NDArray[np.float32]]:
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
    with open_rows(rows.output) as writer:
        for part, sides in parts:
            for number, row in enumerate(part):
                vectors = [side[number].tolist() for side in sides]
                second = {} if row.second is None else {"second": row.second, "second_vector": vectors[-1]}
                writer.write({**row.ids, "text": row.text, "vector": vectors[0], **second})


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
