"""The verb that finds hard negatives for pairs of texts: mine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from pretune.cli.data import GROUP, split_args
from pretune.cli.loading import load_model, unknown_said_once, written
from pretune.cli.outputs import TABLES, check_output, open_rows, suffix_of
from pretune.cli.session import DEFAULT, Args, Common
from pretune.errors import DataError, UsageError

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.search.negatives import EmbedTexts, MinedPair
    from pretune.text.readers.records import Record

NEGATIVES = "negatives"


def register(app: App) -> None:
    """Adds this verb to the command line."""
    usage = "pretune mine MODEL PAIRS... --output FILE [--flag VALUE]..."
    app.command(mine, group=GROUP, sort_key=4, usage=usage)


def mine(
    model: Path,
    /,
    *args: Args,
    output: Path,
    text: str = "text",
    second: str = "second",
    corpus: Path | None = None,
    scorer: Path | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    session: Common = DEFAULT,
) -> None:
    """Find hard negatives for pairs: texts that a model takes for near, and that do not belong together.

    Writes each pair with its columns, the field "negatives" (a list of texts) and "cosines"; a pair for which there is
    none is left out, and counted.

    Args:
        model: folder of the model that makes the vectors.
        args: files of pairs.
        output: file to write, .jsonl.
        text: column of the first texts.
        second: column of the texts that belong to them.
        corpus: file of further texts that may be negatives; those of its column of the name of --second, or "text".
        scorer: folder of a model that scores pairs, such as a reranker; its scores of the second text and of each
            negative are written as "scores".
        query_prompt: name of the model's prompt for first texts, such as query.
        document_prompt: name of the model's prompt for all others.
    """
    session.start()
    check_output(output)
    if suffix_of(output) in TABLES:
        raise UsageError(f"--output {output}: a table has no place for lists of negatives; write .jsonl")
    paths, fields = split_args(args)
    if not paths:
        raise UsageError("mine: name a file of pairs, such as pairs.jsonl")
    from pretune import config as configuration
    from pretune.search.negatives import MiningConfig, MiningStats, mine_negatives

    settings = configuration.load(MiningConfig, None, fields, name="mine")
    session.say(f"mining negatives for {', '.join(paths)} with {model} -> {output}")
    records, pairs = _read_pairs(paths, text, second)
    further = [] if corpus is None else _read_corpus(corpus, second)
    loaded = load_model(model, session)
    stats = MiningStats()
    with unknown_said_once(loaded):
        mined = mine_negatives(
            pairs, further, _embed(loaded, document_prompt), settings, stats, _embed(loaded, query_prompt)
        )
    session.say(stats.summary())
    if stats.without == stats.pairs:
        raise DataError("no pair has a negative; raise --ratio or --depth, name --corpus, or add some with --random 2")
    mined = [pair for pair in mined if pair.negatives]
    scores = [] if scorer is None else _scores(load_model(scorer, session), scorer, pairs, mined)
    with open_rows(output) as writer:
        for pair, own in zip_longest(mined, scores):
            fields_of_pair: dict[str, Any] = {NEGATIVES: pair.negatives, "cosines": pair.cosines}
            writer.write({**records[pair.number], **fields_of_pair, **({} if own is None else {"scores": own})})
    written(session, output)
    columns = [*(["--text", text] if text != "text" else []), "--second", second, "--third", NEGATIVES]
    columns += [] if scorer is None else ["--label", "scores"]
    train = shlex.join(["--model", str(model), "--train", str(output), *columns])
    session.say(f"next: pretune finetune --task similarity {train} --output run")


def _embed(model: Model, prompt_name: str | None) -> EmbedTexts:
    """What makes vectors of texts behind one of the model's prompts."""
    return lambda texts: model.embed(list(texts), prompt_name=prompt_name)


def _scores(
    judge: Model, folder: Path, pairs: Sequence[tuple[str, str]], mined: Sequence[MinedPair]
) -> list[list[float]]:
    """A model's scores of the second text and of each negative, for each pair.

    Raises:
        UsageError: it gives a pair no number.
    """
    from pretune.evaluate.pair_scoring import score_pairs

    further = [[pairs[pair.number][1], *pair.negatives] for pair in mined]
    firsts = [pairs[pair.number][0] for pair, own in zip(mined, further, strict=True) for _ in own]
    seconds = [text for own in further for text in own]
    scores = iter(score_pairs(judge.network, judge.tokenizer, folder, firsts, seconds).tolist())
    return [list(islice(scores, len(own))) for own in further]


def _read_pairs(paths: Sequence[str], text: str, second: str) -> tuple[list[dict[str, object]], list[tuple[str, str]]]:
    """The rows of files with all their columns, and their pairs of texts.

    Raises:
        UsageError: one column for both.
        DataError: a text that is missing or empty; a column that would be written over.
    """
    from pretune.config import validate
    from pretune.text.readers.labelled import LabelledConfig, field_names, read_records
    from pretune.text.readers.records import Column

    config = validate(LabelledConfig, {"text": text, "second": second, "label": ""}, "columns")  # no labels are read
    names = dict.fromkeys(name for path in paths for name in field_names(path, config))
    for taken in (NEGATIVES, "cosines", "scores"):
        if taken in names:
            raise DataError(
                f"{paths[0]}: has a column {taken!r}, which mine writes; rename it, or mine the pairs alone"
            )
    columns = [Column(text, "columns.text"), Column(second, "columns.second")]
    columns += [Column(name, "", required=False) for name in names if name not in (text, second)]
    records: list[Record] = list(read_records(list(paths), columns, config, needs_labels=False))
    pairs = [(each.text(text, "columns.text"), each.text(second, "columns.second")) for each in records]
    return [dict(record) for record in records], pairs


def _read_corpus(path: Path, second: str) -> list[str]:
    """The texts of a file: those of the column of second texts, where it has one, else "text"."""
    from pretune.text.readers.labelled import LabelledConfig, field_names, read_texts_of_file

    names = field_names(path, LabelledConfig())
    return read_texts_of_file(path, second if second in names else "text")
