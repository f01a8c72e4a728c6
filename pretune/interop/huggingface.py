"""Reads and writes model folders as `transformers` keeps them, without `transformers`: `load_model`, `save_model`.

Each family's `WEIGHT_MAP` says which tensor of a file is which of ours; this module only walks that table. Nothing is
allocated before the shapes in the files have been found to be those of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from pretune.disk import storage_errors
from pretune.errors import DataError
from pretune.interop.cross_encoder import pair_head, read_cross_encoder, write_cross_encoder
from pretune.interop.description import Description, describe, interpret, read_description
from pretune.interop.file_fields import GENERATION, check_files
from pretune.interop.gguf import GgufWeights
from pretune.interop.model_tokenizer import fit_tokenizer, move_positions
from pretune.interop.read_model import read_model
from pretune.interop.recorded_heads import HeadMakers
from pretune.interop.sealed_model import check_config, checks_model
from pretune.interop.sentence_transformers import read_vectors, stale_modules, write_vectors
from pretune.interop.weight_names import export_weights
from pretune.interop.weights import SHARD_BYTES, Weights, stale, write_json, write_weights
from pretune.missing_paths import no_such_folder
from pretune.models.metadata import Loaded
from pretune.models.model import LanguageModel, MakeHeads, construct
from pretune.models.size_check import undescribed
from pretune.models.text_vectors import TextVectors
from pretune.new_folder import NewFolder
from pretune.nn.vectors import PoolingMode
from pretune.seals import write_seal
from pretune.text.tokenizer.folder import transformer_folder
from pretune.text.tokenizer.tokenizer import Tokenizer


@checks_model
def load_model(
    path: Path | str,
    *,
    heads: Sequence[str] | MakeHeads | None = None,
    labels: Sequence[str] | None = None,
    makers: HeadMakers = MappingProxyType({}),
    dtype: torch.dtype = torch.float32,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LanguageModel:
    """Reads a model folder.

    Args:
        path: a folder with `config.json` and weights, or a `.gguf` file.
        heads: roles of standard heads, or what makes them, such as a task's method `heads`; by default all heads that
            the files carry. One that they lack gets initial weights.
        labels: names of the classes of standard heads; by default the file's. The same ones in another order keep
            what each has learned; a head whose labels are others is made anew.
        makers: what makes the heads that are not standard, where `heads` is left out.
        dtype: of the weights in memory.
        overrides: fields of the configuration to change, such as dropout rates.
        seed: of weights that the files lack.

    Returns:
        The model; `model.loaded` says what was initialised, what was left over and what to know.

    Raises:
        MissingInputError: no folder, no configuration, no weights, or a user's file that is gone.
        DataError: files that are damaged, hostile, of an unknown family, or that do not fit each other; a head in them
            that nobody here makes.
        UsageError: a head or an override that the family does not have.
    """
    folder = Path(path)
    weights, description = open_files(folder, overrides or {})
    model = read_model(folder, weights, description, heads, labels, makers, dtype, overrides, seed)
    assert model.loaded is not None  # it was just read
    if isinstance(weights, GgufWeights):
        model.vectors = None if weights.pooling is None else TextVectors.pooled(weights.pooling)
    else:
        model.vectors = read_vectors(folder, model.width, model.loaded.notes)
        read_cross_encoder(folder, model, model.loaded.notes)
    return model


def read_body(path: Path | str, overrides: Mapping[str, Any]) -> LanguageModel:
    """Builds the model that files describe without heads and without memory, to be looked at.

    Raises:
        MissingInputError, DataError, UsageError: as `load_model`.
    """
    check_config(Path(path))
    _, description = open_files(Path(path), overrides)
    model = construct(description.family, description.config)
    model.loaded = Loaded()
    return model


def open_files(path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[Weights | GgufWeights, Description]:
    """The tensors of a model's files, none of which is read yet, and what their configuration describes.

    Raises:
        MissingInputError, DataError, UsageError: as `load_model`.
    """
    overrides = overrides or {}
    if path.suffix == ".gguf":
        gguf = GgufWeights(path)
        description = interpret(path, gguf.config(), gguf.shapes, overrides)
        description.notes += gguf.notes
        return gguf, description
    path = transformer_folder(path)
    if not path.is_dir():
        raise no_such_folder(path, "model folder")
    check_files(path)
    weights = Weights(path)
    return weights, read_description(path, weights.shapes, overrides)


def save_model(
    model: LanguageModel,
    directory: Path | str,
    tokenizer: Tokenizer | None = None,
    *,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a model folder that `transformers` and `load_model` read; it is complete or not there.

    Args:
        tokenizer: written beside it; its special tokens go into the configuration.
        max_shard_bytes: of one file of weights.

    Raises:
        DataError: the tokenizer has more tokens than the model.
        StorageError: the disk is full or fails; nothing is left half-written.
        CannotCreateError: no permission, or a file in the way.
    """
    with model_folder(Path(directory)) as folder:
        write_model(model, folder, tokenizer, max_shard_bytes=max_shard_bytes)


@contextmanager
def model_folder(directory: Path) -> Iterator[Path]:
    """Gives an empty folder whose files take their place in `directory` when the block ends without an error.

    Files of the same name are replaced, `config.json` last, and weights that the new ones make
    obsolete are removed; other files stay.

    Raises:
        StorageError: the disk is full or fails.
        CannotCreateError: no permission, a file in the way, or another process is saving there.
    """
    kept = "nothing was changed there"
    with storage_errors(directory, "save the model", kept), NewFolder(directory, "merge") as folder:
        yield folder.path

        def obsolete(names: Sequence[str]) -> list[Path]:
            return [*stale(directory, names), *stale_modules(directory, names)]

        write_seal(folder.path, directory, obsolete)
        folder.publish(last="config.json", obsolete=obsolete)


def write_model(
    model: LanguageModel,
    folder: Path,
    tokenizer: Tokenizer | None,
    *,
    max_shard_bytes: int,
    dtype: torch.dtype | None = None,
    pooling: PoolingMode | None = None,
) -> None:
    """Writes the files of a model into an empty folder.

    Args:
        pooling: what `sentence-transformers` is told in place of the model's own modules.
        dtype: of the weights in the files; the model's own by default.

    Raises:
        DataError: the tokenizer has more tokens than the model, or no configuration describes its layers.
    """
    check_vocabulary(model, tokenizer)
    check_sizes(model)
    if tokenizer is not None:
        tokenizer = fit_tokenizer(tokenizer, model)
        move_positions(model, tokenizer)
    config, generation = describe(model, tokenizer)
    weights = export_weights(model)
    if dtype is not None:
        config["dtype"] = str(dtype).removeprefix("torch.")
        weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    model.carried.write(folder)
    write_weights(folder, weights, max_shard_bytes)
    write_json(folder / "config.json", config)
    if generation:
        write_json(folder / GENERATION, generation)
    if tokenizer is not None:
        tokenizer.write(folder)
    vectors = model.vectors
    if pooling is not None:
        vectors = TextVectors.pooled(pooling) if vectors is None else vectors.repooled(pooling)
    max_length = model.context({} if tokenizer is None else tokenizer.settings)
    if pooling is None and (head := pair_head(model)) is not None:
        write_cross_encoder(folder, head, max_length)
    elif vectors is not None:
        write_vectors(folder, vectors, model.width, max_length)
    write_seal(folder)


def check_vocabulary(model: LanguageModel, tokenizer: Tokenizer | None) -> None:
    """Checks that the model has a row for each token.

    Raises:
        DataError: the tokenizer has more tokens than the model.
    """
    if tokenizer is not None and tokenizer.vocabulary.size > model.vocab_size:
        raise DataError(f"a tokenizer of {tokenizer.vocabulary.size} tokens, a model of {model.vocab_size}")


def check_sizes(model: LanguageModel) -> None:
    """Checks that the configuration describes every layer, so that whoever reads the files builds the same.

    Raises:
        DataError: it does not, as of layers that have lost other numbers of heads each.
    """
    differences = undescribed(model)
    if differences:
        raise DataError(
            f"this {model.family} cannot be saved so that others open it: {differences[0]}; remove as many heads from "
            "every layer (pretune compress prune), or use it in memory"
        )
