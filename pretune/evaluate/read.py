"""Reads a model for use, with all its heads, and again where its weights were rounded when it was loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from pretune.errors import DataError
from pretune.evaluate.recorded import head_makers
from pretune.interop.deltas import is_delta, load_delta, read_record
from pretune.interop.huggingface import load_model
from pretune.interop.metadata import read_metadata
from pretune.models.model import LanguageModel
from pretune.text.tokenizer.tokenizer import Tokenizer


def read_network(path: Path, tokenizer: Tokenizer) -> LanguageModel:
    """A model with all its heads, those of its recorded task and objectives too."""
    if is_delta(path):
        metadata = read_record(path).metadata
        return load_delta(path, makers=head_makers(metadata, path, tokenizer.vocabulary))
    makers = head_makers(read_metadata(path), path, tokenizer.vocabulary) if path.is_dir() else {}
    return load_model(path, makers=makers)


def read_unrounded(network: LanguageModel, folder: Path, tokenizer: Tokenizer) -> LanguageModel:
    """Reads a model again whose weights were rounded to bf16 for use.

    Raises:
        DataError: its files have changed since.
        MissingInputError: they are gone.
    """
    exact = read_network(folder, tokenizer).eval()
    weights = dict(exact.named_parameters())
    for name, rounded in network.named_parameters():
        same = name in weights and weights[name].shape == rounded.shape
        if not same or not torch.equal(weights[name].detach().to(rounded.dtype), rounded.detach().cpu()):
            raise DataError(
                f"{folder}: weight {name!r} is another than when the model was loaded, which was rounded to bf16; load "
                "it again to export"
            )
    return exact
