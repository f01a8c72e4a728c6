"""Reads a model for use, with all its heads, and again where its weights were rounded when it was loaded."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pretune.errors import DataError, UsageError
from pretune.evaluate.recorded import head_makers, recorded_tasks
from pretune.interop.adapter_files import ExportedAdapter, is_adapter
from pretune.interop.adapter_folder import export_adapter, find_base, merge_adapter
from pretune.interop.adapter_folder import read_adapter as read_adapter_folder
from pretune.interop.deltas import RECORD, is_delta, read_record
from pretune.interop.huggingface import load_model
from pretune.interop.metadata import read_metadata
from pretune.interop.recorded_heads import HeadMakers
from pretune.interop.rounded_files import widened, with_weights
from pretune.interop.run_folder import Step, StepOfRun, check_is_model, choose_step, describe_run, fill_from_checkpoint
from pretune.interop.tuned_model import base_folder, load_delta, merge_delta
from pretune.models.metadata import Metadata
from pretune.models.model import LanguageModel, get_family
from pretune.nn.rounded import formats_of
from pretune.text.tokenizer.files import TOKENIZER_FILES
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import counted

_log = logging.getLogger("pretune")
AdapterFormat = Literal["peft", "adapters"]
"""Libraries whose adapters are written."""


@dataclass(frozen=True)
class Source:
    """Where a model is read.

    Attributes:
        folder: of the model, or of its run; no code in it is run.
        checkpoint: the step of the run; None for the model in the folder.
        notes: what the user should know of it.
        base: folder of the model that deltas belong to, where it is no longer where it was.
    """

    folder: Path
    checkpoint: StepOfRun | None = None
    notes: tuple[str, ...] = ()
    base: Path | None = None

    @property
    def files(self) -> Path:
        """Folder of the model's files: of a checkpoint, those of the model that its run began with."""
        return self.folder if self.checkpoint is None else self.checkpoint.initial


def find_source(path: Path, step: Step | None = None, base: Path | None = None) -> Source:
    """Where a path and a step mean that a model is read.

    Args:
        base: folder of the model that deltas belong to, where it is no longer where it was.

    Raises:
        UsageError, MissingInputError, DataError: as `check_is_model` and `choose_step`.
    """
    if step is None or not path.exists():
        check_is_model(path)
    checkpoint = choose_step(path, step)
    if checkpoint is None:
        source = Source(path, notes=tuple(describe_run(path)), base=base)
    else:
        note = f"weights of step {checkpoint.step} of {checkpoint.run}"
        source = Source(checkpoint.run, checkpoint, (note,), base)
    if base is not None and not is_tuned(source.files):
        raise UsageError(f"--base {base}: {source.files} is a whole model, which has no base; leave it out")
    return source


def is_tuned(folder: Path) -> bool:
    """Whether a folder holds no whole model, but deltas, or an adapter of another library."""
    return is_delta(folder) or is_adapter(folder)


def _segment_notes(network: LanguageModel, tokenizer: Tokenizer) -> list[str]:
    """That others give a decoder segments, which pretune does not, where its tokenizer's file names them."""
    inputs = tokenizer.settings.get("model_input_names") or ()
    if not getattr(get_family(network.family), "EMBEDS_SEGMENTS_AS_TOKENS", False) or "token_type_ids" not in inputs:
        return []
    return [
        "tokenizer_config.json: field 'model_input_names' names token_type_ids, by which transformers adds the "
        f"vector of a token to every token of {network.family}; none is added here: take it out of the field"
    ]


def read_with_tokenizer(source: Source, tokenizer: Path | str | None) -> tuple[LanguageModel, Tokenizer]:
    """A model and its tokenizer.

    Args:
        tokenizer: folder or file, where it is not in the model's folder.

    Raises:
        MissingInputError: nothing there.
        DataError: files that are not a model or a tokenizer, or a tokenizer that does not fit the model.
    """
    own = Tokenizer.load(_tokenizer_folder(source) if tokenizer is None else tokenizer)
    network = read_network(source, own)
    if own.vocabulary.size > network.vocab_size:
        raise DataError(
            f"{tokenizer or source.folder}: the tokenizer has {own.vocabulary.size} tokens, the model of "
            f"{source.folder} only {network.vocab_size}; use the tokenizer that the model was trained with"
        )
    if network.loaded is not None:
        network.loaded.notes += [*own.notes, *_segment_notes(network, own)]
    return network, own


def _tokenizer_folder(source: Source) -> Path:
    """Where the tokenizer is: beside the model, or, of an adapter without one, beside its base."""
    files = source.files
    if not is_adapter(files) or any((files / name).is_file() for name in TOKENIZER_FILES):
        return files
    return find_base(files, source.base)


def read_adapter(name: str, folder: Path, base: Source, tokenizer: Tokenizer) -> tuple[LanguageModel, Source]:
    """A base with what was tuned on it.

    Args:
        name: of the adapter, for messages.
        folder: what a tuning method learned.
        base: where the base was read.
        tokenizer: of the base.

    Raises:
        UsageError: a whole model.
        MissingInputError: nothing there.
        DataError: tuned on another base, or with another tokenizer; damaged files.
    """
    try:
        source = find_source(folder, base=base.files)
    except UsageError as error:
        raise UsageError(f"adapter {name!r}: {error}") from None
    network, own = read_with_tokenizer(source, None)
    if own.hash != tokenizer.hash:
        raise DataError(
            f"adapter {name!r}: {folder} has another tokenizer ({own.hash[:12]}) than its base {base.folder} "
            f"({tokenizer.hash[:12]}), so that texts of both cannot be read together; load it alone"
        )
    return network, source


def read_network(source: Source, tokenizer: Tokenizer) -> LanguageModel:
    """A model with all its heads, those of its recorded task and objectives too."""
    folder, files = source.folder, source.files
    if is_delta(files):
        _check_tokenizer(files, tokenizer)
        model = load_delta(files, source.base, makers_of=makers_of)
    elif is_adapter(files):
        base = find_base(files, source.base)
        model = read_adapter_folder(files, base, makers=head_makers(read_metadata(base), base, tokenizer.vocabulary))
    else:
        makers = head_makers(read_metadata(files), folder, tokenizer.vocabulary) if files.is_dir() else {}
        model = load_model(files, makers=makers)
    return model if source.checkpoint is None else fill_from_checkpoint(model, source.checkpoint)


def makers_of(metadata: Metadata, folder: Path) -> HeadMakers:
    """What makes the heads of a folder that are not standard, with the tokenizer that it holds."""
    return head_makers(metadata, folder, Tokenizer.load(folder).vocabulary)


def _check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuses another tokenizer than the one that deltas were learned with."""
    expected = read_record(folder).tokenizer
    if expected is not None and tokenizer.hash != expected:
        raise DataError(
            f"{folder}: the tokenizer ({tokenizer.hash[:12]}) is not the one that it was tuned with ({expected[:12]}, "
            f"as {RECORD} says); use the one that was saved beside it"
        )


def finalize_tasks(network: LanguageModel, folder: Path, tokenizer: Tokenizer) -> None:
    """Lets the recorded tasks put into the weights what other software would not know, as at the end of a run."""
    for task in recorded_tasks(network.metadata, folder, tokenizer.vocabulary):
        before, after = task.config, task.finalize(network)
        settings = after.model_dump(mode="json", exclude={"columns"})
        if settings != before.model_dump(mode="json", exclude={"columns"}):
            network.metadata = network.metadata.with_settings(task.name, settings)


def plain_network(
    network: LanguageModel, source: Source, tokenizer: Tokenizer, *, is_rounded: bool, keeps_formats: bool = False
) -> LanguageModel:
    """A plain model in fp32 that computes what a model in use computes, which stays as it is.

    Args:
        is_rounded: it was cast to bf16 for use.
        keeps_formats: matrices in a format of `nn/formats/` stay packed; else they become plain ones, which is said.

    Raises:
        UsageError: it is deltas of a method that cannot be merged.
        DataError, MissingInputError: as `read_unrounded`, where it was rounded to bf16 for use.
    """
    if is_rounded:
        network = read_unrounded(network, source, tokenizer)
    if is_tuned(source.files) and not (is_delta(source.files) and network.metadata.base is None):
        network = merged(network if is_rounded else copy.deepcopy(network), source.files)
        finalize_tasks(network, source.files, tokenizer)
    formats = formats_of(network)
    if not formats or keeps_formats:
        return network
    matrices = counted(sum(formats.values()), "matrix", "matrices")
    _log.warning("%s in %s are written in fp32, as other software has no such bricks", matrices, ", ".join(formats))
    return widened(network)


def merged(network: LanguageModel, folder: Path) -> LanguageModel:
    """Makes a tuned model a plain one that computes the same; it is changed in place.

    Args:
        folder: of what was learned.

    Raises:
        UsageError: what was learned cannot be merged.
    """
    return merge_adapter(network, folder) if is_adapter(folder) else merge_delta(network, folder)


def export_tuned(
    network: LanguageModel,
    directory: Path,
    source: Source,
    tokenizer: Tokenizer,
    *,
    is_rounded: bool,
    format: AdapterFormat = "peft",
) -> ExportedAdapter:
    """Writes what was learned as an adapter of another library; see `export_adapter`.

    Raises:
        UsageError: a whole model, or no such format.
    """
    files = source.files
    if not is_tuned(files):
        raise UsageError(f"{files}: is a whole model, and no adapter of one; export it as it is, --format fp32")
    if is_rounded:
        network = read_unrounded(network, source, tokenizer)
    base = find_base(files, source.base) if is_adapter(files) else source.base or base_folder(files)
    if formats_of(network):
        _log.warning(
            "%s has rounded matrices, which %s and transformers do not open: merge for them instead", base, format
        )
    return export_adapter(format, network, directory, base, tokenizer)


def read_unrounded(network: LanguageModel, source: Source, tokenizer: Tokenizer) -> LanguageModel:
    """Reads a model again whose weights were rounded to bf16 for use.

    Raises:
        DataError: its files have changed since.
        MissingInputError: they are gone.
    """
    exact = read_network(source, tokenizer).eval()
    weights = dict(exact.named_parameters())
    for name, rounded in network.named_parameters():
        same = name in weights and weights[name].shape == rounded.shape
        if not same or not torch.equal(weights[name].detach().to(rounded.dtype), rounded.detach().cpu()):
            raise DataError(
                f"{source.folder}: weight {name!r} is another than when the model was loaded, rounded to bf16; "
                "load it again to export"
            )
    if formats_of(network):  # which it may have got when it was loaded
        return with_weights(network, weights)
    return exact
