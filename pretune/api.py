"""What `import pretune` hands on: `pretrain(...)` and `finetune(...)` train and give back a model for use.

`load(path)` gives any finished model in the same form (`pretune/model.py`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pretune.adapted_model import AdaptedModel
from pretune.baselines.folder import is_tfidf
from pretune.compress.at_load import round_for_use
from pretune.errors import UsageError
from pretune.evaluate.fill import Guess
from pretune.evaluate.joining import Joined, join_folders
from pretune.evaluate.likelihood import Score
from pretune.evaluate.merging import Merged, merge_folder
from pretune.evaluate.read import Source, find_source, makers_of, read_adapter, read_with_tokenizer
from pretune.evaluate.results import Evaluation, Mistake
from pretune.generate.options import Continuation
from pretune.interop.delta_sums import HeadChoice, parse_weights
from pretune.interop.delta_sums import combine as combine_deltas
from pretune.interop.run_folder import Step
from pretune.interop.run_names import FACTS
from pretune.interop.tuned_model import base_folder
from pretune.model import Model
from pretune.models.adapters import SharedModels
from pretune.models.model import LanguageModel
from pretune.nn.cast import cast_to_bf16
from pretune.report.spread import Spread
from pretune.runtime.device import choose
from pretune.runtime.precision import Name as Precision
from pretune.runtime.precision import choose_precision
from pretune.seals import read_facts
from pretune.tasks.shared.predictions import IndependentPrediction, Prediction, Predictions, Values
from pretune.text.readers.labelled import NamedData
from pretune.tfidf_model import TfidfModel
from pretune.train.keywords import RecipeLike, read_call
from pretune.train.recipe import Recipe

__all__ = [
    "Continuation",
    "Evaluation",
    "Guess",
    "IndependentPrediction",
    "Joined",
    "Mistake",
    "Model",
    "Prediction",
    "Predictions",
    "Score",
    "Spread",
    "Values",
    "combine",
    "compress_model",
    "cross_validate",
    "finetune",
    "join",
    "load",
    "merge",
    "pretrain",
]
_log = logging.getLogger("pretune")


def load(
    path: Path | str,
    device: str = "auto",
    precision: Precision = "auto",
    tokenizer: Path | str | None = None,
    step: Step | None = None,
    base: Path | str | None = None,
    adapters: Mapping[str, Path | str] | None = None,
    format: str | None = None,
) -> Model:
    """Read a model and its tokenizer, for use.

        pretune.load("bert", adapters={"topic": "runs/topic", "tone": "runs/tone"}).predict(texts, adapter="tone")

    Args:
        path: a folder in the Hugging Face layout, such as a finished run directory; or a checkpoint of a run; or what a
            tuning method learned, which is put on its base.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: dtype of matmuls; `auto` uses bf16 where the hardware has a unit for it.
        tokenizer: folder or file, where it is not in the model's folder.
        step: of a run, finished or not, the weights of a checkpoint: `best`, `last` or its number.
        base: of what a tuning method learned, the folder of the model that was tuned, where it is no longer where it
            was.
        adapters: folders of what was tuned on this model, by names; all share its weights: see `AdaptedModel`.
        format: of `nn/formats/`, such as `q8_0`, to which matrices are rounded to the nearest in memory.

    Raises:
        MissingInputError, DataError, UsageError: see `find_source` and `read_with_tokenizer`; or no such device.
    """
    if is_tfidf(Path(path)):
        return TfidfModel.read(Path(path))
    torch_device = choose(device)
    source = find_source(Path(path), step, None if base is None else Path(base))
    network, own = read_with_tokenizer(source, tokenizer)
    if format is not None:
        network = round_for_use(network, own, format)
    for note in [*source.notes, *(network.loaded.messages() if network.loaded is not None else ())]:
        _log.warning("%s", note)
    chosen = choose_precision(precision, torch_device)
    _log.info("%s", chosen)
    origins: dict[str, Source] = {}

    def forms() -> Iterator[LanguageModel]:
        for name, folder in (adapters or {}).items():
            form, origins[name] = read_adapter(name, Path(folder), source, own)
            yield form

    shared = SharedModels.of(network, forms())
    for each in (network, *shared.forms, *([shared.network] if origins else [])):
        if chosen.name == "bf16":
            cast_to_bf16(each)
        each.to(torch_device).eval()
    if origins:
        return AdaptedModel(shared, own, origins, source)
    return Model(network, own, source)


def merge(path: Path | str, output: Path | str, *, step: Step | None = None, base: Path | str | None = None) -> Merged:
    """Write what a tuning method learned and its base as one plain model, which needs neither; `transformers` reads it.

    Args:
        path: a folder of deltas, such as the directory of a run that ended with some.
        output: folder to write: a new or an empty one.
        step: of a run, the weights of a checkpoint: `best`, `last` or its number.
        base: folder of the model that was tuned, where it is no longer where it was.

    Raises:
        UsageError: a whole model, or a method that cannot be merged.
        MissingInputError, DataError: as `load`; or the merged model computes something else.
        CannotCreateError: the folder holds something.
    """
    source = find_source(Path(path), step, None if base is None else Path(base))
    return merge_folder(source, Path(output))


def join(encoder: Path | str, decoder: Path | str, output: Path | str, *, seed: int = 0) -> Joined:
    """Write a model that reads with one encoder and writes with another, joined by new cross-attention.

    It is an encoder-decoder from then on: train it to write (`task="generation"`) before it is used.

    Args:
        encoder: folder of the BERT that reads.
        decoder: folder of the BERT that writes; it may be the same one.
        output: folder to write: a new or an empty one.
        seed: of the weights that neither model has.

    Raises:
        UsageError: models that cannot be joined.
        MissingInputError, DataError: as `load`; or the two have other tokenizers.
        CannotCreateError: the folder holds something.
    """
    return join_folders(find_source(Path(encoder)), find_source(Path(decoder)), Path(output), seed)


def combine(
    operation: Literal["add", "average", "subtract"],
    folders: Sequence[Path | str],
    output: Path | str,
    *,
    weights: str | None = None,
    heads: HeadChoice = "sum",
    base: Path | str | None = None,
) -> list[str]:
    """Write the sum, the mean or the difference of what a tuning method learned in several runs on one base.

    Args:
        folders: of deltas; the result has the tokenizer and the task of the first.
        output: folder to write: a new or an empty one.
        weights: a number for each folder, with commas between them.
        heads: whose heads the result has: `sum`, those of the `first` folder, or their `average`.
        base: folder of the model that was tuned, where it is no longer where it was.

    Returns:
        What to know of the result.

    Raises:
        UsageError, DataError, CannotCreateError: see `interop/delta_sums.py`.
    """
    paths = [Path(folder) for folder in folders]
    numbers = parse_weights(weights, operation, len(paths))
    chosen = None if base is None else Path(base)
    return combine_deltas(paths, numbers, Path(output), heads, chosen, makers_of)


def compress_model(
    model: Path | str,
    *steps: str | Mapping[str, Any],
    output: Path | str,
    calibration: Path | str | Sequence[str] = (),
    evaluate: Path | str | Sequence[str] = (),
    **fields: Any,
) -> Model:
    """Make a model smaller or faster, in steps; returns the result, with its `compression.json`.

    Args:
        model: its folder.
        steps: names of methods, or tables with `method`, its fields, and perhaps `training`, fields of a recipe.
        output: folder to write: a new or an empty one.
        calibration: texts, labelled files or a token store that methods measure on.
        evaluate: held-out ones on which the model is measured before and after.
        fields: of the only step's method; or of the compression, such as `teacher`, `seed`, by their dotted names.
    """
    from pretune.report.compression import write_page
    from pretune.train.compression.run import compress_call

    recipe = compress_call(str(model), steps, str(output), {"calibration": calibration, "evaluation": evaluate}, fields)
    write_page(Path(recipe.output))
    return load(recipe.output, recipe.device)


def pretrain(recipe: RecipeLike | None = None, **fields: Any) -> Model:
    """Pretrain a model, or continue with one; returns the finished model.

        pretune.pretrain(objective="mlm", stores="store", steps=1000, output="bert")

    Args:
        recipe: a typed recipe, a TOML file, or plain values; not needed where `fields` say all.
        fields: of the recipe, over its own, by the names that flags have: `model`, `stores`, `steps`, `lr`, `seed`,
            `output` ..., the end of a dotted name (`dropout`), a dotted name (`**{"optimizer.lr": 1e-4}`) or a table
            (`optimizer={"lr": 1e-4}`).
    """
    from pretune.train.run import pretrain as run

    call = read_call(recipe, None, None, fields)
    return _present(run(call.recipe), call.recipe)


def finetune(
    recipe: RecipeLike | None = None, train: NamedData | None = None, validation: NamedData | None = None, **fields: Any
) -> Model:
    """Fine-tune a model on a task; returns the finished model, or the base with the adapters of several tasks.

        pretune.finetune(model="bert", task="classification", train=[("good", "pos"), ("bad", "neg")], epochs=10)

    Args:
        recipe: a typed recipe, a TOML file, or plain values; not needed where `fields` say all.
        train: files, or rows: a list of dicts or of tuples such as (text, label), a DataFrame, an Arrow table, a
            `datasets.Dataset`; fields of rows have the names that `text`, `label`, `second` ... say. Of several tasks,
            rows for all of them, or a dict of rows by the names of the tasks.
        validation: the same; without it, some of the training rows are held out (`holdout`).
        fields: of the recipe, over its own, by the names that flags have: `model`, `task`, `text`, `label`, `epochs`,
            `lr`, `batch`, `length`, `seed`, `output` ..., the end of a dotted name (`dropout`), a dotted name
            (`**{"optimizer.lr": 1e-4}`) or a table (`optimizer={"lr": 1e-4}`).
    """
    from pretune.train.run import finetune as run
    from pretune.train.tfidf import finetune_tfidf

    call = read_call(recipe, train, validation, fields)
    if call.recipe.model.is_tfidf:
        return TfidfModel.read(finetune_tfidf(call.recipe, call.train, call.validation))
    return _present(run(call.recipe, call.train, call.validation), call.recipe, call.train, call.validation)


def cross_validate(
    recipe: RecipeLike | None = None, train: NamedData | None = None, validation: NamedData | None = None, **fields: Any
) -> Spread:
    """Make several runs of one recipe, for each of its `seeds` and `folds`; returns scores and their spread.

        pretune.cross_validate(model="bert", task="classification", train="labels.csv", folds=5)

    Each run has a folder of its own in `output`, with its model and report; started again, what has finished stays. The
    scores are in `output`/spread.json too.

    Args:
        recipe: a typed recipe, a TOML file, or plain values; with a task it fine-tunes, else it pretrains.
        train: files or rows, as in `finetune`.
        validation: the same; not with folds, each of which is held out in turn.
        fields: as in `finetune`.

    Raises:
        UsageError: the recipe asks for one run alone.
    """
    from pretune.disk import replace_file
    from pretune.report import spread
    from pretune.train.repeats import asks_for_several, expand

    call = read_call(recipe, train, validation, fields)
    if not asks_for_several(call.recipe):
        raise UsageError("recipe: one run has no spread; give seeds or folds, such as folds = 5")
    output = Path(call.recipe.output)
    spread.check_folder(output)
    scores = []
    runs = expand(call.recipe)
    for number, each in enumerate(runs, 1):
        _log.info("run %d of %d: %s", number, len(runs), each.output)
        if each.task:
            finetune(each, call.train, call.validation)
        else:
            pretrain(each)
        scores.append(spread.read_scores(Path(each.output)))
    result = spread.Spread.of(scores)
    replace_file(output / spread.FILE, json.dumps(result.to_json(), ensure_ascii=False, indent=2).encode())
    return result


def _present(run: Path, recipe: Recipe, train: NamedData | None = None, validation: NamedData | None = None) -> Model:
    """The finished model of a run, after its page is written.

    Args:
        train, validation: labelled data in memory, instead of the files of the recipe.
    """
    from pretune.report.finished import report_finished

    notes: list[str] = []
    with _unsaid():
        model = _load_finished(run, recipe)
        if recipe.track.report and os.environ.get("RANK", "0") == "0":
            notes = report_finished(run, model, recipe, train, validation)
    for note in notes:
        logging.getLogger("pretune").info("%s", note)
    return model


def _load_finished(run: Path, recipe: Recipe) -> Model:
    """The model of a run; where each task has an adapter of its own, their base with all of them."""
    adapters = {name: run / name for name in read_facts(run / FACTS).get("adapters", {})}
    if not adapters:
        return load(run, recipe.device, recipe.precision)
    base = base_folder(next(iter(adapters.values())))
    return load(base, recipe.device, recipe.precision, adapters=adapters)


@contextmanager
def _unsaid() -> Iterator[None]:
    """Keeps out of the log what the run said of all its texts: its precision, what was cut, what is unknown."""
    log = logging.getLogger("pretune")

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    log.addFilter(is_error)
    try:
        yield
    finally:
        log.removeFilter(is_error)
