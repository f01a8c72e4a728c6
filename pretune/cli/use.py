"""Verbs that use a finished model: evaluate, predict, fill, generate, score, embed, export."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from pretune.cli.export import Pooling, export
from pretune.cli.inputs import chunks, open_output, read_task_records, read_texts, write_line
from pretune.cli.session import DEFAULT, Common, Session
from pretune.disk import new_file, storage_errors
from pretune.errors import UsageError

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.generate.options import GenerateOptions
    from pretune.text.readers.labelled import LabelledConfig

Truncate = Literal["head", "tail", "head+tail", "error"]
Json = Annotated[bool, Parameter(name="--json")]


def register(app: App) -> None:
    """Adds these verbs to the command line."""
    group = Group("Use", sort_key=3)
    verbs: Sequence[Callable[..., None]] = (evaluate, predict, fill, generate, score, embed, export)
    for position, verb in enumerate(verbs):
        app.command(verb, group=group, sort_key=position)


def evaluate(
    model: Path,
    data: Path,
    /,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    second_column: str | None = None,
    task: str | None = None,
    truncate: Truncate | None = None,
    objective: str | None = None,
    split: Literal["validation", "train"] = "validation",
    length: int | None = None,
    pack: Literal["stream", "document"] | None = None,
    session: Common = DEFAULT,
) -> None:
    """Evaluate a model on a labelled file or a token store.

    Prints JSON: a task's scores, or the loss, perplexity and accuracy of each objective on the store's held-out split.

    Args:
        model: folder of a model.
        data: a labelled .csv, .tsv, .jsonl or .parquet file, or a store made by `pretune prepare`.
        text_column: column of the texts in a labelled file; by default, like the columns below, as in training.
        label_column: column of the labels in a labelled file.
        second_column: column of the second texts in a labelled file of pairs.
        task: task of a labelled file, such as classification, or similarity, whose labels say how alike two texts are.
        truncate: which part of a too long text is kept; error refuses it. By default as in training.
        objective: what to evaluate on a store, such as "span" or "mlm,sop"; by default what the model's heads are for.
        split: split of a store.
        length: tokens per window of a store.
        pack: how documents of a store are packed into windows.
    """
    session.say(f"evaluating {model} on {data}")
    loaded = _load(model, session)
    columns = _columns(
        loaded, {"text_column": text_column, "label_column": label_column, "second_column": second_column}
    )
    chosen = None if objective is None else {name.strip(): 1.0 for name in objective.split(",")}
    scores = loaded.evaluate(
        data, columns=columns, task=task, truncate=truncate, objective=chosen, split=split, length=length, pack=pack
    )
    print(json.dumps(scores, indent=2))


def predict(
    model: Path,
    /,
    *texts: str,
    input: Path | None = None,
    output: Path | None = None,
    text_column: str | None = None,
    second_column: str | None = None,
    truncate: Truncate | None = None,
    session: Common = DEFAULT,
) -> None:
    """Predict with a fine-tuned model's task, such as the label of a text with the probability of every label.

    Prints one line of JSON per text.

    Args:
        model: folder of a fine-tuned model.
        texts: texts to predict on; without texts and --input, standard input is read, one text per line.
        input: file of texts: .txt (one per line), .jsonl, .csv, .tsv or .parquet with the columns of the training data.
        output: file to write, instead of standard output.
        text_column: column of the texts in the file; by default as in training.
        second_column: column of the second texts in a file of pairs; by default as in training.
        truncate: which part of a too long text is kept; error refuses it. By default as in training.
    """
    loaded = _load(model, session)
    from pretune.tasks.task import prediction_fields

    columns = _columns(loaded, {"text_column": text_column, "second_column": second_column})
    task = loaded.task(columns=columns, truncate=truncate)
    config = task.config.columns
    if input is None and config.second_column:  # texts alone
        config = config.model_copy(update={"second_column": None, "third_column": None})
        task = loaded.task(columns=config, truncate=truncate)
    session.say(f"predicting {task.name} with {model}: {', '.join(getattr(task, 'labels', ())) or task.main_metric}")
    fields = [column for column in task.columns(needs_labels=False) if column.required]
    names = {config.text_column: "text", config.second_column: "second", config.third_column: "third"}
    with open_output(output) as file:
        for part in chunks(read_task_records(fields, config, texts, input)):
            predictions = loaded.predict(part, truncate=truncate, columns=config)
            for record, prediction in zip(part, predictions, strict=True):
                inputs = {names.get(column.name, column.name): record[column.name] for column in fields}
                write_line(file, inputs | prediction_fields(prediction))
    _written(session, output)


def _columns(model: Model, flags: Mapping[str, str | None]) -> LabelledConfig | None:
    """The columns that a model reads, with those that are given laid over them; None where none is."""
    from pretune.text.readers.labelled import LabelledConfig

    names = {name: value for name, value in flags.items() if value is not None}
    recorded = model.network.metadata.task
    return LabelledConfig.model_validate({**(recorded.columns if recorded else {}), **names}) if names else None


def fill(
    model: Path,
    /,
    *texts: str,
    input: Path | None = None,
    top: int = 5,
    output: Path | None = None,
    as_json: Json = False,
    session: Common = DEFAULT,
) -> None:
    """Predict the token at each mask of a text, such as "Paris is the [MASK] of France."

    Args:
        model: folder of a masked language model.
        texts: texts with one or more masks each; without texts and --input, standard input is read, one text per line.
        input: file of texts.
        top: how many predictions to show per mask.
        output: file to write, instead of standard output.
        as_json: print one line of JSON per text.
    """
    if top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    loaded = _load(model, session)
    with open_output(output) as file:
        for text, _ in read_texts(texts, input):
            masks = loaded.fill(text, top)
            if as_json:
                rows = [[{"token": g.token, "probability": g.probability} for g in guesses] for guesses in masks]
                write_line(file, {"text": text, "masks": rows})
                continue
            file.write(f"{text}\n")
            for guesses in masks:
                file.write("  " + "  ".join(f"{g.token} {g.probability:.3f}" for g in guesses) + "\n")
    _written(session, output)


def generate(
    model: Path,
    /,
    *prompts: str,
    input: Path | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int | None = None,
    length_penalty: float | None = None,
    stop: tuple[str, ...] = (),
    seed: int | None = None,
    output: Path | None = None,
    as_json: Json = False,
    session: Common = DEFAULT,
) -> None:
    """Continue prompts, or generate from them with an encoder-decoder.

    A single prompt's text is shown as it is generated. Decoding is greedy unless a temperature or beams are given.

    Args:
        model: folder of a causal language model or an encoder-decoder.
        prompts: texts to continue; without prompts and --input, standard input is read, one prompt per line.
        input: file of prompts.
        max_new_tokens: maximal number of new tokens (64).
        temperature: above 0 samples; 0 chooses the most probable token.
        top_k: sample only among the k most probable tokens.
        top_p: sample among the fewest tokens whose probabilities add up to p.
        beams: number of beams of beam search.
        length_penalty: exponent of the length by which a beam's score is divided.
        stop: text that ends a continuation; may be given several times.
        seed: seed of the sampling.
        output: file to write, instead of standard output.
        as_json: print one line of JSON per prompt.
    """
    fields = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "beams": beams,
        "length_penalty": length_penalty,
        "seed": seed,
        "stop": stop or None,
    }
    options: Any = {name: value for name, value in fields.items() if value is not None}
    loaded = _load(model, session)
    with open_output(output) as file:
        if len(prompts) == 1 and not as_json:
            for piece in _stream(loaded, prompts[0], options):
                file.write(piece)
                file.flush()
            file.write("\n")
        else:
            for part in chunks(read_texts(prompts, input)):
                _write_continuations(file, loaded, [text for text, _ in part], options, as_json)
    _written(session, output)


def _write_continuations(
    file: IO[str], loaded: Model, prompts: list[str], options: GenerateOptions, as_json: bool
) -> None:
    for prompt, continuation in zip(prompts, loaded.continuations(prompts, **options), strict=True):
        if as_json:
            write_line(file, {"prompt": prompt, "text": continuation.text, "reason": continuation.reason})
        else:
            file.write(f"{prompt if loaded.continues else ''}{continuation.text}\n\n")


def _stream(loaded: Model, prompt: str, options: GenerateOptions) -> Iterator[str]:
    """Yields the prompt, once it is known that it can be continued, and then the text that follows it."""
    chunks = loaded.stream(prompt, **options)
    first = next(iter(chunks), "")
    yield prompt + first if loaded.continues else first
    yield from chunks


def score(
    model: Path,
    /,
    *texts: str,
    source: str | None = None,
    source_column: str | None = None,
    masking: Literal["token", "word"] = "token",
    input: Path | None = None,
    output: Path | None = None,
    session: Common = DEFAULT,
) -> None:
    """Score texts by log probability and by bits per byte, which is comparable across tokenizers.

    Prints one line of JSON per text. For masked language models the score is the pseudo-likelihood, and is named so.

    Args:
        model: folder of a language model.
        texts: texts to score; without texts and --input, standard input is read, one text per line.
        source: source text of an encoder-decoder, the same for all texts.
        source_column: column of the file with each text's source.
        masking: mask one token at a time, or with it the rest of its word.
        input: file of texts: .txt (one text per line), or .jsonl, .csv, .tsv or .parquet with a column "text".
        output: file to write, instead of standard output.
    """
    loaded = _load(model, session, "fp32")  # scores are compared, so they are not rounded
    total, count = None, 0
    with open_output(output) as file:
        for part in chunks(read_texts(texts, input, source_column)):
            batch = [text for text, _ in part]
            origins = [source if second is None else second for _, second in part]
            sources = [origin for origin in origins if origin is not None]
            for text, result in zip(batch, loaded.score(batch, sources or None, masking=masking), strict=True):
                name = "log_prob" if result.kind == "likelihood" else "pseudo_log_prob"
                counts = {"tokens": result.tokens, "unknown": result.unknown, "bytes": result.bytes}
                write_line(file, {"text": text, name: result.log_prob, "bits_per_byte": result.bits_per_byte, **counts})
                total, count = result if total is None else total + result, count + 1
    if total is not None:
        session.say(f"{count} texts: {total.bits_per_byte:.4f} bits per byte ({total.kind})")
    _written(session, output)


def embed(
    model: Path,
    /,
    *texts: str,
    input: Path | None = None,
    output: Path | None = None,
    pooling: Pooling | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize: bool = False,
    session: Common = DEFAULT,
) -> None:
    """Embed texts as vectors.

    Writes a .npy file of shape (texts, width) in float32, or lines of JSON.

    Args:
        model: folder of any model.
        texts: texts to embed; without texts and --input, standard input is read, one text per line.
        input: file of texts.
        output: a .npy or .jsonl file; lines of JSON on standard output by default.
        pooling: of the rows of all tokens, in place of the modules that the model's files name; by default as these
            files say, or as the model was trained; else the mean, of a ...ForCausalLM the last row.
        prompt: text before each text; by default the default prompt of the model's files, if they name one.
        prompt_name: of one of the prompts in the model's files, such as query.
        normalize: scale each vector to length 1.
    """
    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise UsageError(f"--output {output}: expected a name that ends in .npy or .jsonl")
    loaded = _load(model, session)
    options: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name, "normalize": normalize}
    parts = (
        ([text for text, _ in part], loaded.embed([text for text, _ in part], pooling, **options))
        for part in chunks(read_texts(texts, input))
    )
    if output is not None and output.suffix == ".npy":
        _save_array(output, [vectors for _, vectors in parts])
    else:
        with open_output(output) as file:
            for lines, vectors in parts:
                for text, vector in zip(lines, vectors.tolist(), strict=True):
                    write_line(file, {"text": text, "vector": vector})
    _written(session, output)
    if output is not None and output.suffix == ".npy":
        session.say(f"next: python -c \"import numpy; print(numpy.load('{output}').shape)\"")


def _save_array(path: Path, parts: list[Any]) -> None:
    import numpy as np

    with new_file(path) as file, storage_errors(path, "write the file"):
        np.save(file, np.concatenate(parts) if parts else np.zeros((0, 0), np.float32))


def _load(path: Path, session: Session, precision: Literal["auto", "fp32"] = "auto") -> Model:
    """Loads a model, after the process is set up for it."""
    session.start()
    session.say(f"loading {path}")
    from pretune import api

    return api.load(path, device=session.device or "auto", precision=precision)


def _written(session: Session, output: Path | None) -> None:
    if output is not None:
        session.say(f"written: {output}")
    sys.stdout.flush()
