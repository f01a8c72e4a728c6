"""Verbs of language models: fill, generate, score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pretune.cli.adapters import NO_ADAPTERS, AdapterFlags, Adapters
from pretune.cli.answers import WORKBOOK, AnswerRow, open_answers
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
    split_texts,
    text_column_of,
)
from pretune.cli.loading import OfBase, OfStep, digits_of, load_model, unknown_said_once, written
from pretune.cli.outputs import LINES, TABLES, check_output, open_output, suffix_of
from pretune.cli.session import DEFAULT, Common, Session
from pretune.errors import UsageError
from pretune.table import readable
from pretune.wording import counted

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.generate.options import Continuation, GenerateOptions

Special = Annotated[bool | None, Parameter(negative="--no-special-tokens")]


def fill(
    model: Path,
    /,
    *texts: str,
    rows: Rows = NO_FLAGS,
    second: str | None = None,
    top: int = 5,
    step: OfStep = None,
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Predict the token at each mask of a text, such as "Paris is the [MASK] of France."

    Args:
        model: folder of a masked language model.
        texts: texts with one or more masks each, or files of such; without any, standard input is read, one per line.
        second: column of the file with second texts, which stand behind the first as in a pair.
        top: how many predictions to show per mask.
    """
    if top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    check_output(rows.output, WORKBOOK)
    texts, rows = split_texts(texts, rows, session)
    loaded = load_model(model, session, step=step, base=base)
    _say_columns(session, rows, loaded, second, SECOND_COLUMN)
    with open_answers(rows.output, rows.as_json, digits_of(loaded)) as writer, unknown_said_once(loaded):
        for row in read_rows(texts, rows, loaded, second):
            with named_rows([row]), _named_in_file(row, rows):
                masks = loaded.fill(row.text, top, second=row.second)
            guesses = [[{"token": g.token, "probability": g.probability} for g in guesses] for guesses in masks]
            brief = {
                "mask" if len(masks) == 1 else f"mask {number}": "  ".join(
                    f"{guess.token} {readable(guess.probability)}" for guess in of_mask
                )
                for number, of_mask in enumerate(masks, 1)
            }
            writer.write(AnswerRow(row.inputs, {"masks": guesses}, row.shown, brief))
    written(session, rows.output)


@contextmanager
def _named_in_file(row: TextRow, rows: RowFlags) -> Iterator[None]:
    """Names the line of a file in an error that speaks of a text."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{row.origin}: {error}" if rows.input else str(error)) from None


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
        lookup: number of tokens that are guessed at most in a step, from what came before, and checked; the text is the
            same; 0 for none.
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
    lookup: int | None = None
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
    step: OfStep = None,
    base: OfBase = None,
    adapters: Adapters = NO_ADAPTERS,
    session: Common = DEFAULT,
) -> None:
    """Continue prompts, or generate from them with an encoder-decoder.

    A single prompt's text is shown as it is generated. Decoding is as the model's generation_config.json says, and
    greedy where it says nothing.

    Args:
        model: folder of a causal language model or an encoder-decoder.
        prompts: texts to continue, or files of texts; without any, standard input is read, one prompt per line.
    """
    options: Any = decoding.options()
    check_output(rows.output, WORKBOOK, ".txt")
    prompts, rows = split_texts(prompts, rows, session)
    loaded = adapters.load(model, session, rows, step, base)
    _say_columns(session, rows, loaded)
    _say_decoding(session, loaded, options)
    with unknown_said_once(loaded):
        if rows.as_json or suffix_of(rows.output) in (*LINES, *TABLES, WORKBOOK):
            with open_answers(rows.output, as_json=True) as writer:
                for part in chunks(read_rows(prompts, rows, loaded)):
                    for row, continuation in _continuations(loaded, part, options, adapters):
                        answer = {"generated_text": continuation.text, "reason": continuation.reason}
                        writer.write(AnswerRow(row.inputs, answer))
        else:
            with open_output(rows.output) as file:
                _write_text(file, prompts, rows, loaded, options, adapters)
    written(session, rows.output)


def _write_text(
    file: IO[str],
    prompts: Sequence[str],
    rows: RowFlags,
    loaded: Model,
    options: GenerateOptions,
    adapters: AdapterFlags,
) -> None:
    """Writes prompts and what follows them as text; of a single prompt as it is generated."""
    if len(prompts) == 1:
        (row,) = read_rows(prompts, rows, loaded)
        with named_rows([row]):
            for piece in _stream(loaded, row.text, options):
                file.write(piece)
                file.flush()
        file.write("\n")
        return
    for part in chunks(read_rows(prompts, rows, loaded)):
        for row, continuation in _continuations(loaded, part, options, adapters):
            name = f"{row.inputs[rows.id]}: " if rows.id else ""
            file.write(f"{name}{row.text if loaded.continues else ''}{continuation.text}\n\n")


def _continuations(
    loaded: Model, part: list[TextRow], options: GenerateOptions, adapters: AdapterFlags
) -> Iterator[tuple[TextRow, Continuation]]:
    """What follows each of some prompts."""
    more: Any = {}
    if adapters.adapter_column is not None:
        more["adapter"] = adapters.names((row.inputs, row.origin) for row in part)
    with named_rows(part):
        continuations = loaded.continuations([row.text for row in part], **options, **more)
    yield from zip(part, continuations, strict=True)


def _say_decoding(session: Session, loaded: Model, options: GenerateOptions) -> None:
    """Says which decoding options the model's files decide."""
    from pretune.generate.defaults import stated_options

    stated = stated_options(loaded.network, options)
    if stated:
        listed = ", ".join(f"{name} {value}" for name, value in stated.items())
        session.say(f"decoding as the model's files say: {listed}")


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
    base: OfBase = None,
    session: Common = DEFAULT,
) -> None:
    """Score texts by log probability and by bits per byte, which is comparable across tokenizers.

    Prints one line of JSON per text, or writes a table. For masked language models the score is the
    pseudo-likelihood, and is named so.

    Args:
        model: folder of a language model.
        texts: texts to score, or files of texts; without any, standard input is read, one text per line.
        source: source text of an encoder-decoder, the same for all texts.
        second: column of the file with each text's source, for an encoder-decoder.
        masking: mask one token at a time, or with it the rest of its word.
        special_tokens: read names of special tokens, such as <extra_id_0>, as the tokens; by default as in generate.
    """
    check_output(rows.output, WORKBOOK)
    texts, rows = split_texts(texts, rows, session)
    loaded = load_model(model, session, "fp32", step, base=base)  # scores are compared, so they are not rounded
    source_flag = (
        "--second names the column of the source of an encoder-decoder" if loaded.network.has_encoder else None
    )
    _say_columns(session, rows, loaded, second, source_flag)
    total, count = None, 0
    with open_answers(rows.output, rows.as_json, digits_of(loaded)) as writer, unknown_said_once(loaded):
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
                writer.write(AnswerRow(row.inputs, {**scores, **counts}, row.shown))
                total, count = result if total is None else total + result, count + 1
    if total is not None:
        session.say(f"{counted(count, 'text')}: {total.bits_per_byte:.4f} bits per byte ({total.kind})")
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
