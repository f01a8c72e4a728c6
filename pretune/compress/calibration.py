"""Calibration data: some thousand tokens on which a compression method measures activations, importance and error.

    a token store ----------------------------\\
    text files --a store in memory's place ----> windows of the model's objective --\\
    labelled files --> rows of the model's task ------------------------------------> keyed choice -> batches, counted

Which samples are read is a function of the draw alone. A model whose files name no objective and no task still has
batches, of plain texts, but no loss.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from pretune import config as configuration
from pretune.batch import Batch, ragged
from pretune.draw import Draw, Permutation
from pretune.errors import DataError, UsageError
from pretune.evaluate.engine import by_length
from pretune.evaluate.recorded import trained_task
from pretune.evaluate.stores import own_objective
from pretune.generate.session import context_length
from pretune.models.model import LanguageModel
from pretune.objectives.objective import Objective, wrap
from pretune.scratch import ScratchFolder
from pretune.tasks.shared.records import read_examples
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Row
from pretune.text.samples.views.view import View, build_view
from pretune.text.store.manifest import MANIFEST
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.store.store import TokenSplit, TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.vocabulary import Vocabulary

MINIMUM = 256  # tokens, of any method
_BUDGET = 4096  # tokens of a batch
_LENGTH = 512
_log = logging.getLogger("pretune")


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class CalibrationConfig(configuration.Config):
    """Which data are read for calibration, and how much of them.

    Attributes:
        data: text files, labelled files of the model's task, or the folder of one token store.
        tokens: number of tokens that are read, special ones included; fewer where there are no more.
        length: tokens of a window; by default what the model may read, up to 512.
        columns: fields of labelled records; by default as in training.
    """

    data: Paths = ()
    tokens: int = Field(32768, ge=MINIMUM)
    length: int | None = Field(None, ge=8)
    columns: LabelledConfig | None = None


@dataclass(frozen=True)
class Calibration:
    """Batches on the host, and the loss of the model's own objective or task on them.

    Attributes:
        batches: in the order in which they are read; with targets where there is an objective.
        objective: that the model was trained on, set up and on its device; None where its files tell none.
        source: what was read, for people.
        samples: number of windows or examples.
        tokens: number of tokens, special ones included.
        available: number of samples that the data have.
    """

    batches: tuple[Batch, ...]
    objective: Objective | None
    source: str
    samples: int
    tokens: int
    available: int

    def loss(self, model: LanguageModel, batch: Batch) -> Tensor:
        """The mean loss of one batch, with a gradient where gradients are enabled. Shape: return: ().

        Raises:
            UsageError: there is no objective.
        """
        if self.objective is None:
            raise UsageError(f"{self.source}: neither an objective nor a task of this model is known, so no loss")
        terms = self.objective(model, batch.to(model.device))
        return torch.stack([term.weight * term.sum.float() / max(1, term.count) for term in terms]).sum()

    def mean_loss(self, model: LanguageModel) -> float:
        """The mean loss over all batches, each weighted by its tokens, without gradients."""
        with torch.no_grad():
            losses = [float(self.loss(model, batch)) for batch in self.batches]
        return float(np.average(losses, weights=[len(batch.tokens) for batch in self.batches]))


def read_calibration(
    model: LanguageModel, tokenizer: Tokenizer, config: CalibrationConfig, draw: Draw, folder: Path
) -> Calibration:
    """Reads calibration data for a model.

    Args:
        draw: which samples are read is a function of it.
        folder: where the model was read, for what its files record.

    Raises:
        MissingInputError: a file that is not there.
        DataError: a store of another tokenizer, records that the task cannot read, or too little text.
    """
    length = min(context_length(model, tokenizer), _LENGTH if config.length is None else config.length)
    paths = [Path(name) for name in config.data]
    if not paths:
        raise UsageError("calibration: field 'data' is missing; name texts, labelled data or a token store")
    if any((path / MANIFEST).is_file() for path in paths):
        if len(paths) > 1:
            raise UsageError(f"calibration: data {', '.join(config.data)}: name one token store, or files alone")
        store = TokenStore.open(paths[0])
        store.check_tokenizer(tokenizer)
        return _calibrate_on_split(model, tokenizer, store.split("train"), config, draw, folder, length)
    if _is_labelled(model, paths):
        return _calibrate_on_examples(model, tokenizer, paths, config, draw, folder, length)
    with ScratchFolder("calibration") as scratch:
        store = prepare(paths, tokenizer, scratch / "store", PrepareConfig(validation=0, processes=1))
        return _calibrate_on_split(
            model, tokenizer, store.split("train"), config, draw, folder, length, ", ".join(config.data)
        )


def _is_labelled(model: LanguageModel, paths: Sequence[Path]) -> bool:
    """Whether files are records of the model's task: they are no plain text, and it has learned a task."""
    plain = all(path.suffix.lower() in ("", ".txt", ".md", ".html") or path.is_dir() for path in paths)
    metadata = model.metadata
    return not plain and (bool(metadata.tasks) or metadata.task is not None or "classification" in model.heads)


def _calibrate_on_examples(
    model: LanguageModel,
    tokenizer: Tokenizer,
    paths: Sequence[Path],
    config: CalibrationConfig,
    draw: Draw,
    folder: Path,
    length: int,
) -> Calibration:
    """Reads labelled examples of the task that a model was trained for."""
    overrides = {} if config.columns is None else {"columns": config.columns}
    task = trained_task(model, tokenizer.vocabulary, folder, None, overrides)
    examples = read_examples(task, list(map(str, paths)))
    view = ExampleView(task.encode(examples, tokenizer, length))
    task.setup(model, draw)
    return _draw_samples(view, task, model, ", ".join(map(str, paths)), config.tokens, draw, tokenizer.vocabulary)


def _calibrate_on_split(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: TokenSplit,
    config: CalibrationConfig,
    draw: Draw,
    folder: Path,
    length: int,
    source: str = "",
) -> Calibration:
    """Reads windows of a token store as the model's objective wants them.

    Args:
        source: what was read, where it is not the store.
    """
    source = source or split.where
    try:
        objective: Objective | None = own_objective(model, tokenizer.vocabulary, folder).alternatives[0]
        assert objective is not None
        objective.setup(model, draw)
        if objective.auxiliary_models():
            objective = None
    except UsageError as error:
        _log.info("calibration without a loss: %s", error)
        objective = None
    if objective is None:
        view = build_view(split, "stream", length - tokenizer.vocabulary.overhead(False), pack="document")
        return _draw_samples(view, None, model, source, config.tokens, draw, tokenizer.vocabulary)
    width = length - objective.overhead
    view = build_view(split, objective.view, width, objective.lookahead, objective.pack, objective.words)
    objective.to(model.device)
    return _draw_samples(view, objective, model, source, config.tokens, draw, tokenizer.vocabulary)


def _draw_samples(
    view: View,
    objective: Objective | None,
    model: LanguageModel,
    source: str,
    wanted: int,
    draw: Draw,
    vocabulary: Vocabulary,
) -> Calibration:
    """Chooses samples by key until there are enough tokens, and makes batches of similar length."""
    count = len(view)
    if not count:
        raise DataError(f"{source}: no text for calibration; at least {MINIMUM:,} tokens are needed")
    order = Permutation(count, draw.at("calibration"))(np.arange(min(count, wanted)))
    lengths = view.lengths(order)
    stop = int(np.searchsorted(np.cumsum(lengths), wanted)) + 1
    chosen, lengths = order[:stop], lengths[:stop]
    build = partial(_plain_batch, model, vocabulary) if objective is None else objective.build_batch
    batches = tuple(
        build(view.read(chosen[index], 0, 0, draw), draw) for index in by_length(lengths, min(_BUDGET, wanted))
    )
    tokens = sum(_token_count(batch) for batch in batches)
    if tokens < MINIMUM:
        raise DataError(
            f"{source}: {tokens:,} tokens are too few for calibration; at least {MINIMUM:,} are needed, and "
            f"{wanted:,} are asked for: give more text"
        )
    if tokens < wanted:
        _log.info("calibration: %s has %s tokens, fewer than the %s asked for", source, f"{tokens:,}", f"{wanted:,}")
    return Calibration(batches, objective, source, len(chosen), tokens, count)


def _plain_batch(model: LanguageModel, vocabulary: Vocabulary, rows: Iterable[Row], draw: Draw) -> Batch:
    """Texts between special tokens; an encoder-decoder writes what it reads."""
    del draw
    rows = list(rows)
    if not model.has_encoder:
        return wrap(rows, vocabulary)
    runs = [vocabulary.with_end(row.tokens) for row in rows]
    start = np.array([model.decoder_start or 0])
    return replace(ragged([np.concatenate([start, run[:-1]]) for run in runs]), source=ragged(runs))


def _token_count(batch: Batch) -> int:
    return len(batch.tokens) + (0 if batch.source is None else len(batch.source.tokens))
