"""Verbs of language models: fill, generate, score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pretune.cli.inputs import (
    NO_FLAGS,
    SECOND_COLUMN,
    RowFlags,
    Rows,
    TextRow,
    chunks,
    named_rows,
    read_rows,
    say_columns,
    text_column_of,
)
from pretune.cli.loading import OfStep, load_model, unknown_said_once, written
from pretune.cli.outputs import LINES, TABLES, RowWriter, check_output, open_output, open_rows, suffix_of
from pretune.cli.session import DEFAULT, Common, Session
from pretune.errors import UsageError

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.generate.options import GenerateOptions

Json = Annotated[bool, Parameter(name="--json")]
Special = Annotated[bool | None, Parameter(negative="--no-special-tokens")]


def fill(
    model: Path,
    /,
    *texts: str,
    rows: Rows = NO_FLAGS,
    second: str | None = None,
    top: int = 5,
    as_json: Json = False,
    step: OfStep = None,
    session: Common = DEFAULT,
) -> None:
    """Predict the token at each mask of a text, such as "Paris is the [MASK] of France."

    Args:
        model: folder of a masked language model.
        texts: texts with one or more masks each; without texts and --input, standard input is read, one text per line.
        second: column of the file with second texts, which stand behind the first as in a pair.
        top: how many predictions to show per mask.
        as_json: print one line of JSON per text.
    """
    if top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    check_output(rows.output)
    loaded = load_model(model, session, step=step)
    _say_columns(session, rows, loaded, second, SECOND_COLUMN)
    with open_output(rows.output) as file, unknown_said_once(loaded):
        writer = _row_writer(file, rows, as_json)
        for row in read_rows(texts, rows, loaded, second):
            with named_rows([row]):
                masks = loaded.fill(row.text, top, second=row.second)
            if writer is not None:
                guesses = [[{"token": g.token, "probability": g.probability} for g in guesses] for guesses in masks]
                writer.write({**_inputs(row), "masks": guesses})
                continue
            file.write(" ".join([*map(str, row.ids.values()), row.text, *([row.second] if row.second else [])]) + "\n")
            for guesses_of_mask in masks:
                file.write("  " + "  ".join(f"{g.token} {g.probability:.3f}" for g in guesses_of_mask) + "\n")
    written(session, rows.output)


@dataclass(frozen=True)
class DecodingFlags:
    """How generate decodes; what no flag says is as in the model's generation_config.json.

    Attributes:
        max_new_tokens: maximal number of new tokens (64, where the model's files say nothing).
        min_new_tokens: number of new tokens before an end token may come.
        temperature: above 0 samples; 0 chooses the most probable token.
        top_k: sample only among the k most probable tokens.
        top_p: sample among the fewest tokens whose probabilities add up to p.
        min_p: sample only among tokens with this fraction of the best one's probability.
        beams: number of beams of beam search.
        length_penalty: exponent of the length by which a beam's score is divided.
        repetition_penalty: number by which the scores of tokens that came before are divided.
        no_repeat_ngram_size: length of runs of tokens that come once at most.
        stop: text that ends a continuation; may be given several times.
        seed: seed of the sampling.
        special_tokens: read names of special tokens in prompts, such as <extra_id_0>, as the tokens; by default where
            the tokenizer has some for prompts.
        keep_special: leave special tokens in the text that is written.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    beams: int | None = None
    length_penalty: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    special_tokens: Special = None
    keep_special: bool = False

    def options(self) -> dict[str, Any]:
        """Returns the options that are given."""
        given = {name: value for name, value in vars(self).items() if value is not None and value != ()}
        return given if self.keep_special else {n: v for n, v in given.items() if n != "keep_special"}


Decoding = Annotated[DecodingFlags, Parameter(name="*")]
NO_DECODING = DecodingFlags()


def generate(
    model: Path,
    /,
    *prompts: str,
    rows: Rows = NO_FLAGS,
    decoding: Decoding = NO_DECODING,
    as_json: Json = False,
    step: OfStep = None,
    session: Common = DEFAULT,
) -> None:
    """Continue prompts, or generate from them with an encoder-decoder.

    A single prompt's text is shown as it is generated. Decoding is as the model's generation_config.json says, and
    greedy where it says nothing.

    Args:
        model: folder of a causal language model or an encoder-decoder.
        prompts: texts to continue; without prompts and --input, standard input is read, one prompt per line.
        as_json: print one line of JSON per prompt.
    """
    options: Any = decoding.options()
    check_output(rows.output)
    loaded = load_model(model, session, step=step)
    _say_columns(session, rows, loaded)
    _say_decoding(session, loaded, options)
    with open_output(rows.output) as file, unknown_said_once(loaded):
        writer = _row_writer(file, rows, as_json)
        if len(prompts) == 1 and writer is None:
            (row,) = read_rows(prompts, rows, loaded)
            with named_rows([row]):
                for piece in _stream(loaded, row.text, options):
                    file.write(piece)
                    file.flush()
            file.write("\n")
        else:
            for part in chunks(read_rows(prompts, rows, loaded)):
                _write_continuations(file, writer, loaded, part, options)
    written(session, rows.output)


def _say_decoding(session: Session, loaded: Model, options: GenerateOptions) -> None:
    """Says which decoding options the model's files decide."""
    from pretune.generate.defaults import stated_options

    stated = stated_options(loaded.network, options)
    if stated:
        listed = ", ".join(f"{name} {value}" for name, value in stated.items())
        session.say(f"decoding as the model's files say: {listed}")


def _write_continuations(
    file: IO[str], writer: RowWriter | None, loaded: Model, part: list[TextRow], options: GenerateOptions
) -> None:
    with named_rows(part):
        continuations = loaded.continuations([row.text for row in part], **options)
    for row, continuation in zip(part, continuations, strict=True):
        if writer is not None:
            fields = {"prompt": row.text, "text": continuation.text, "reason": continuation.reason}
            writer.write({**row.ids, **fields})
        else:
            ids = "".join(f"{value}: " for value in row.ids.values())
            file.write(f"{ids}{row.text if loaded.continues else ''}{continuation.text}\n\n")


def _stream(loaded: Model, prompt: str, options: GenerateOptions) -> Iterator[str]:
    """Yields the prompt, once it is known that it can be continued, and then the text that follows it."""
    parts = loaded.stream(prompt, **options)
    first = next(iter(parts), "")
    yield prompt + first if loaded.continues else first
    yield from parts


def score(
    model: Path,
    /,
    *texts: str,
    rows: Rows = NO_FLAGS,
    source: str | None = None,
    second: str | None = None,
    masking: Literal["token", "word"] = "token",
    special_tokens: Special = None,
    step: OfStep = None,
    session: Common = DEFAULT,
) -> None:
    """Score texts by log probability and by bits per byte, which is comparable across tokenizers.

    Prints one line of JSON per text, or writes a table. For masked language models the score is the
    pseudo-likelihood, and is named so.

    Args:
        model: folder of a language model.
        texts: texts to score; without texts and --input, standard input is read, one text per line.
        source: source text of an encoder-decoder, the same for all texts.
        second: column of the file with each text's source, for an encoder-decoder.
        masking: mask one token at a time, or with it the rest of its word.
        special_tokens: read names of special tokens, such as <extra_id_0>, as the tokens; by default as in generate.
    """
    check_output(rows.output)
    loaded = load_model(model, session, "fp32", step)  # scores are compared, so they are not rounded
    source_flag = (
        "--second names the column of the source of an encoder-decoder" if loaded.network.has_encoder else None
    )
    _say_columns(session, rows, loaded, second, source_flag)
    total, count = None, 0
    with open_rows(rows.output) as writer, unknown_said_once(loaded):
        for part in chunks(read_rows(texts, rows, loaded, second)):
            origins = [source if row.second is None else row.second for row in part]
            sources = [origin for origin in origins if origin is not None]
            texts_of_part = [row.text for row in part]
            with named_rows(part):
                results = loaded.score(texts_of_part, sources or None, masking=masking, special_tokens=special_tokens)
            for row, result in zip(part, results, strict=True):
                name = "log_prob" if result.kind == "likelihood" else "pseudo_log_prob"
                scores = {name: result.log_prob, "bits_per_byte": result.bits_per_byte}
                counts = {"tokens": result.tokens, "unknown": result.unknown, "bytes": result.bytes}
                writer.write({**row.ids, "text": row.text, **scores, **counts})
                total, count = result if total is None else total + result, count + 1
    if total is not None:
        session.say(f"{count} texts: {total.bits_per_byte:.4f} bits per byte ({total.kind})")
    written(session, rows.output)


def _say_columns(
    session: Session, rows: RowFlags, loaded: Model, second: str | None = None, hint: str | None = None
) -> None:
    """Says which columns are read.

    Args:
        second: the second column that is read.
        hint: the flag that names it, and what it is for; None where the verb has none.
    """
    config = text_column_of(loaded, rows)
    read = [config.text, second, rows.id]
    say_columns(session, rows.input, config, read, hint if second is None else None)


def _row_writer(file: IO[str], rows: RowFlags, as_json: bool) -> RowWriter | None:
    """A writer of rows where JSON is asked for, or the file's name says so or says that it is a table; else None."""
    suffix = suffix_of(rows.output)
    if suffix in TABLES:
        return RowWriter(file, TABLES[suffix])
    return RowWriter(file, None) if as_json or suffix in LINES else None


def _inputs(row: TextRow) -> dict[str, object]:
    return {**row.ids, "text": row.text, **({} if row.second is None else {"second": row.second})}
