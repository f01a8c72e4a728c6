"""Compresses a model: steps in order, each result a model that reloads, measured before and after.

folder --read, merged--> model --step 1: surgery--> [training run] --step 2--> ... --written, read again--> measured
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pretune import __version__
from pretune.compress.calibration import Calibration, read_calibration
from pretune.compress.method import CompressContext, CompressionMethod, Fact, find_compression
from pretune.disk import storage_errors
from pretune.draw import Draw
from pretune.errors import CannotCreateError, PretuneError, UsageError
from pretune.evaluate.read import Source, find_source, plain_network, read_with_tokenizer
from pretune.interop.head_labels import labels_of
from pretune.interop.huggingface import write_model
from pretune.interop.weights import SHARD_BYTES, write_json
from pretune.models.model import LanguageModel
from pretune.new_folder import NewFolder, contents, settle
from pretune.nn.model_protocol import find_language_head
from pretune.runtime.device import choose
from pretune.runtime.precision import choose_precision
from pretune.seals import write_seal
from pretune.text.store.manifest import MANIFEST
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.compression.early_checks import check_needs, check_order, check_training
from pretune.train.compression.measure import (
    compare_speed,
    count_weights,
    file_bytes,
    operations,
    score,
)
from pretune.train.compression.recipe import (
    CompressRecipe,
    Step,
    recipe_of_call,
    whole_recipe,
    with_task,
)
from pretune.train.run import finetune, pretrain

RECORD = "compression.json"
_log = logging.getLogger("pretune")


@dataclass
class _Work:
    """A model on its way through the steps.

    Attributes:
        folder: which reloads the model, and says what it was trained on.
        scratch: where models between steps are kept.
        records: of the steps that are done.
    """

    recipe: CompressRecipe
    model: LanguageModel
    tokenizer: Tokenizer
    folder: Path
    scratch: Path
    half: bool
    records: list[dict[str, Any]] = field(default_factory=list)


def compress(recipe: CompressRecipe) -> dict[str, Any]:
    """Runs all steps and writes the model that they give, with `compression.json` beside it.

    Returns:
        What `compression.json` holds.

    Raises:
        UsageError: an unknown method or field, or something that a method needs and that was not given.
        MissingInputError, DataError: of the model or the data.
        CannotCreateError: the output holds something; nothing was written.
    """
    output = Path(recipe.output)
    settle(output)
    if output.exists() and (not output.is_dir() or contents(output)):
        raise CannotCreateError(f"{output}: exists already; remove it, or give another --output")
    steps = recipe.steps
    methods = [find_compression(step.method, step.settings) for step in steps]
    check_needs(recipe, methods)
    check_order(methods)
    with NewFolder(output) as folder:  # first of all: hours of work must not end at a folder that cannot be made
        return _compress(recipe, steps, methods, folder)


def _compress(
    recipe: CompressRecipe, steps: list[Step], methods: list[CompressionMethod], folder: NewFolder
) -> dict[str, Any]:
    """Runs all steps, and fills the folder of the result."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    source = find_source(Path(recipe.model))
    device = choose(recipe.device)
    precision = choose_precision(recipe.precision, device)  # type: ignore[arg-type]  # it refuses unknown ones
    model, tokenizer = _read(source, device)
    check_training(recipe, steps, methods, model, source.files)
    held_out = _held_out(recipe, tokenizer)
    before = _measure(model, tokenizer, held_out, source.files, source.files)
    scratch = folder.path / "steps"  # if this process is killed, the next one of this output clears it away
    scratch.mkdir()
    work = _Work(recipe, model, tokenizer, source.files, scratch, precision.name == "bf16")
    for number, (step, method) in enumerate(zip(steps, methods, strict=True), 1):
        _run_step(work, step, method, number)
    record = _record(recipe, source, before, work)
    shutil.rmtree(scratch)
    _write(work, folder, record, held_out)
    return record


def compress_call(
    model: str,
    steps: Sequence[str | Mapping[str, Any]],
    output: str,
    common: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> CompressRecipe:
    """As `compress`, of a Python call; returns its recipe. Arguments and errors as of `recipe_of_call`."""
    recipe = recipe_of_call(model, steps, output, common, fields)
    compress(recipe)
    return recipe


def _read(source: Source, device: torch.device) -> tuple[LanguageModel, Tokenizer]:
    """A plain model in fp32, on its device."""
    model, tokenizer = read_with_tokenizer(source, None)
    for note in [*source.notes, *(model.loaded.messages() if model.loaded is not None else ())]:
        _log.warning("%s", note)
    return plain_network(model, source, tokenizer, is_rounded=False, keeps_formats=True).to(device).eval(), tokenizer


def _held_out(recipe: CompressRecipe, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The data on which the model is measured; those of the calibration store where none are named."""
    if recipe.evaluation.data:
        return recipe.evaluation.data
    data = recipe.calibration.data
    if len(data) == 1 and (Path(data[0]) / MANIFEST).is_file():
        store = TokenStore.open(data[0])
        store.check_tokenizer(tokenizer)
        if store.split("validation").token_count:
            return data
    return ()


def _measure(
    model: LanguageModel, tokenizer: Tokenizer, held_out: tuple[str, ...], files: Path, folder: Path
) -> dict[str, Any]:
    """Size and scores of a model.

    Args:
        files: of its weights.
        folder: for messages, and for what its files record.
    """
    scores = score(model, tokenizer, held_out, folder) if held_out else {}
    return {
        "bytes": file_bytes(files),
        "weights": count_weights(model),
        "operations": operations(model),
        "scores": scores,
    }


def _run_step(work: _Work, step: Step, method: CompressionMethod, number: int) -> None:
    """Runs the rounds of a step: surgery, and a training run where there is one."""
    began = time.monotonic()
    facts: dict[str, dict[str, Fact]] = {}
    notes: list[str] = []
    trained: dict[str, Any] = {}
    rounds = method.rounds() if step.training else [method]
    for part, each in enumerate(rounds, 1):
        _log.info("step %d of %d: %s", number, len(work.recipe.compress), step.method)
        context = _context(work, each, number, part)
        work.model = each.apply(work.model, context).eval()
        facts |= context.facts
        notes += context.notes
        more = each.training(context)
        if step.training or more:
            trained = _train(work, step, dict(more or {}), f"{number}-{part}")
    work.records.append(
        {
            "method": step.method,
            "config": method.config.model_dump(mode="json"),
            "seconds": round(time.monotonic() - began, 1),
            "notes": notes,
            "acted": method.acted(work.model) or [],
            "places": facts,
            "training": trained,
        }
    )


def _context(work: _Work, method: CompressionMethod, number: int, part: int) -> CompressContext:
    """What a step may use; its calibration data are read for the model as it is now."""
    recipe, draw = work.recipe, Draw(work.recipe.seed).at("compress", number, part)
    calibration: Calibration | None = None
    if recipe.calibration.data:
        calibration = read_calibration(work.model, work.tokenizer, recipe.calibration, draw, work.folder)
        counts = f"{calibration.samples:,} of {calibration.available:,} samples, {calibration.tokens:,} tokens"
        _log.info("calibration: %s of %s", counts, calibration.source)
    teacher_folder = None if recipe.teacher is None else Path(recipe.teacher)
    teacher = None
    if teacher_folder is not None and "teacher" in method.needs():
        teacher, own = read_with_tokenizer(find_source(teacher_folder), None)
        if own.hash != work.tokenizer.hash:
            raise UsageError(
                f"--teacher {teacher_folder}: its vocabulary is not that of {recipe.model}; name a model that has it"
            )
        teacher = teacher.to(work.model.device).eval().requires_grad_(False)
    return CompressContext(
        work.tokenizer, draw, calibration, teacher, folder=work.folder, teacher_folder=teacher_folder, half=work.half
    )


def _train(work: _Work, step: Step, more: dict[str, Any], name: str) -> dict[str, Any]:
    """Runs the training of a step on the model as it is, whose place its result takes."""
    start, run = work.scratch / f"{name}-start", work.scratch / f"{name}-run"
    start.mkdir()
    write_model(work.model, start, work.tokenizer, max_shard_bytes=SHARD_BYTES)
    recipe = whole_recipe(step, with_task(work.model, step, more), start, run, work.recipe)
    if recipe.task:
        finetune(recipe)
    else:
        pretrain(recipe)
    source = find_source(run)
    work.model, work.tokenizer = _read(source, work.model.device)
    work.folder = run
    return dict(recipe.model_dump(mode="json", exclude={"model", "output"}, exclude_none=True, exclude_defaults=True))


def _record(recipe: CompressRecipe, source: Source, before: Mapping[str, Any], work: _Work) -> dict[str, Any]:
    """What `compression.json` says, but for the result."""
    is_writer = find_language_head(work.model, "next") is not None
    able = {"generate": is_writer, "classify": labels_of(work.model) is not None}
    return {
        "version": 1,
        "able": [name for name, has in able.items() if has],
        "pretune": __version__,
        "model": str(source.folder),
        "recipe": recipe.model_dump(mode="json", exclude_none=True, exclude={"threads"}),
        "steps": work.records,
        "before": dict(before),
    }


def _write(work: _Work, folder: NewFolder, record: dict[str, Any], held_out: tuple[str, ...]) -> None:
    """Writes the model, reads it again, and measures what was read; the folder appears whole or not at all."""
    recipe = work.recipe
    with storage_errors(folder.target, "save the model"):
        write_model(work.model, folder.path, work.tokenizer, max_shard_bytes=SHARD_BYTES)
        again, tokenizer = read_with_tokenizer(Source(folder.path), None)
        again = again.to(work.model.device).eval()
        record["after"] = _measure(again, tokenizer, held_out, folder.path, folder.path)
        record["speed"] = _speed(recipe, again, tokenizer, work.half) if recipe.evaluation.speed else None
        write_json(folder.path / RECORD, record)
        write_seal(folder.path)
        folder.publish(last="config.json")


def _speed(recipe: CompressRecipe, after: LanguageModel, tokenizer: Tokenizer, half: bool) -> dict[str, Any] | None:
    """The speed of both models, in turns; None, with the reason in the log, where one of them cannot do the work."""
    try:
        before, _ = _read(find_source(Path(recipe.model)), after.device)
        return vars(compare_speed(before, after, tokenizer, half=half)).copy()
    except PretuneError as error:
        _log.warning("the speed was not compared: %s", error)
        return None
