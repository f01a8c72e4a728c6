"""Joins two encoders in a folder: one reads, the other writes, and attention from the second to the first is new."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pretune.errors import CannotCreateError, DataError, UsageError
from pretune.evaluate.read import Source, is_tuned, read_with_tokenizer
from pretune.interop.huggingface import save_model
from pretune.interop.model_tokenizer import fit_tokenizer, token_ids
from pretune.models import bert2bert
from pretune.models.flops import count_parameters
from pretune.new_folder import contents, settle


@dataclass(frozen=True)
class Joined:
    """What was written.

    Attributes:
        weights: numbers of the joined model.
        new: of them, those that begin at random, as neither model has them.
        parts: which parts these are, such as `cross-attention`.
    """

    weights: int
    new: int
    parts: list[str]


def join_folders(encoder: Source, decoder: Source, output: Path, seed: int = 0) -> Joined:
    """Writes a model that reads with one encoder and writes with another.

    Args:
        encoder, decoder: folders of BERTs with one tokenizer; they may be the same one.
        output: folder to write: a new or an empty one.
        seed: of the weights that neither model has.

    Raises:
        UsageError: models that cannot be joined.
        DataError: damaged files, or two tokenizers.
        CannotCreateError: the folder holds something.
    """
    settle(output)
    if output.is_dir() and contents(output):
        raise CannotCreateError(f"{output}: holds something already; give a new or empty folder")
    for source in (encoder, decoder):
        if is_tuned(source.files):
            raise UsageError(f"{source.folder}: holds what a tuning method learned; merge it first (pretune merge)")
    (reading, tokenizer), (writing, other) = (read_with_tokenizer(source, None) for source in (encoder, decoder))
    if tokenizer.hash != other.hash:
        raise DataError(
            f"{decoder.folder}: its tokenizer ({other.hash[:12]}) is not that of {encoder.folder} "
            f"({tokenizer.hash[:12]}); both sides must have one, as the model reads and writes the same tokens"
        )
    ids = token_ids(bert2bert.Config, tokenizer.vocabulary)
    model = bert2bert.join(reading, writing, ids, seed)
    new = bert2bert.new_weights(model, writing)
    save_model(model, output, fit_tokenizer(tokenizer, model))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    parts = ["cross-attention", *(["the layer before the vocabulary"] if any("heads." in name for name in new) else [])]
    return Joined(count_parameters(model), sum(sizes[name] for name in new), parts)
