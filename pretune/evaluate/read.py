"""Reads a model for use, with all its heads, and again where its weights were rounded when it was loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pretune.errors import DataError
from pretune.evaluate.recorded import head_makers
from pretune.interop.deltas import is_delta, load_delta, read_record
from pretune.interop.huggingface import load_model
from pretune.interop.metadata import read_metadata, resolve
from pretune.interop.run_folder import Step, StepOfRun, check_is_model, choose_step, describe_run, fill_from_checkpoint
from pretune.models.model import LanguageModel, get_family
from pretune.text.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Source:
    """Where a model is read.

    Attributes:
        folder: of the model, or of its run; no code in it is run.
        checkpoint: the step of the run; None for the model in the folder.
        notes: what the user should know of it.
    """

    folder: Path
    checkpoint: StepOfRun | None = None
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> Path:
        """Folder of the model's files: of a checkpoint, those of the model that its run began with."""
        return self.folder if self.checkpoint is None else self.checkpoint.initial


def find_source(path: Path, step: Step | None = None) -> Source:
    """Where a path and a step mean that a model is read.

    Raises:
        UsageError, MissingInputError, DataError: as `check_is_model` and `choose_step`.
    """
    if step is None or not path.exists():
        check_is_model(path)
    checkpoint = choose_step(path, step)
    if checkpoint is None:
        return Source(path, notes=tuple(describe_run(path)))
    return Source(checkpoint.run, checkpoint, (f"weights of step {checkpoint.step} of {checkpoint.run}",))


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
    own = Tokenizer.load(source.files if tokenizer is None else tokenizer)
    network = read_network(source, own)
    if own.vocabulary.size > network.vocab_size:
        raise DataError(
            f"{tokenizer or source.folder}: the tokenizer has {own.vocabulary.size} tokens, the model of "
            f"{source.folder} only {network.vocab_size}; use the tokenizer that the model was trained with"
        )
    if network.loaded is not None:
        network.loaded.notes += [*own.notes, *_segment_notes(network, own)]
    return network, own


def read_network(source: Source, tokenizer: Tokenizer) -> LanguageModel:
    """A model with all its heads, those of its recorded task and objectives too."""
    folder, files = source.folder, source.files
    if is_delta(files):
        record = read_record(files)
        resolve(record.method, "tune", folder, "method")
        model = load_delta(files, makers=head_makers(record.metadata, folder, tokenizer.vocabulary))
    else:
        makers = head_makers(read_metadata(files), folder, tokenizer.vocabulary) if files.is_dir() else {}
        model = load_model(files, makers=makers)
    return model if source.checkpoint is None else fill_from_checkpoint(model, source.checkpoint)


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
    return exact
