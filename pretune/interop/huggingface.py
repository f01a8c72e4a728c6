"""Models as `transformers` keeps them on disk: `config.json` and weights, read and written, without `transformers`.

Each family's `WEIGHT_MAP` says which tensor of a file is which of ours; this module only walks that table. Nothing is
allocated before the shapes in the files have been found to be those of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretune.disk import NewFolder, storage_errors
from pretune.errors import DataError, MissingInputError
from pretune.interop.description import Description, architecture, describe, interpret, plain_name, read_description
from pretune.interop.gguf import GgufWeights
from pretune.interop.sentence_transformers import read_pooling, write_modules
from pretune.interop.weights import SHARD_BYTES, Weights, stale, write_json, write_weights
from pretune.models.init import initialise, replace_parameters
from pretune.models.model import (
    Family,
    LanguageModel,
    Loaded,
    Pooling,
    construct,
    get_family,
)
from pretune.models.weight_map import Weight, expand, join
from pretune.text.tokenizer.tokenizer import Tokenizer

_BUFFERS = (".position_ids", ".token_type_ids", ".attn.bias", ".attn.masked_bias")


def load_model(
    path: Path | str,
    *,
    heads: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> LanguageModel:
    """Read a model folder.

    Args:
        path: a folder with `config.json` and weights, or a `.gguf` file.
        heads: roles wanted; by default those that the files carry. One that they lack gets initial weights.
        labels: names of the classes; by default the file's. Where they differ, the classification head is made anew.
        dtype: of the weights in memory.
        overrides: fields of the configuration to change, such as dropout rates.
        seed: of weights that the files lack.

    Returns:
        The model; `model.loaded` says what was initialised, what was left over and what to know.

    Raises:
        MissingInputError: no folder, no configuration, no weights.
        DataError: files that are damaged, hostile, of an unknown family, or that do not fit each other.
        UsageError: a head or an override that the family does not have.
    """
    folder = Path(path)
    weights, description = _open(folder, overrides or {})
    family = get_family(description.family)
    table = _Table(folder, family, weights)
    roles = list(description.roles if heads is None else heads)
    names = _labels(description, table, labels) if "classification" in roles else None
    model = construct(description.family, description.config, roles, names)
    model.extras, model.metadata = description.extras, description.metadata
    model.pooling = read_pooling(folder)
    loaded = Loaded(notes=list(description.notes))
    sources = table.sources(model)
    if names is not None and names != _labels(description, table, None):
        loaded.notes.append(f"classification head made anew: {len(names)} labels asked for differ from the file's")
        sources = {n: s for n, s in sources.items() if not n.startswith("heads.classification.linear.")}
    table.check(model, sources)
    _fill(model, weights, sources, dtype)
    loaded.initialised = [name for name, _ in model.named_parameters() if name not in sources]
    initialise(model, seed, only=lambda name: name not in sources)
    model.to(dtype)
    loaded.unexpected = table.left_over(model)
    model.loaded = loaded
    return model


def _open(path: Path, overrides: Mapping[str, Any]) -> tuple[Weights | GgufWeights, Description]:
    if path.suffix == ".gguf":
        found = GgufWeights(path)
        return found, interpret(path, found.config(), found.shapes, overrides)
    if not path.is_dir():
        raise MissingInputError(f"{path}: no such model folder")
    weights = Weights(path)
    return weights, read_description(path, weights.shapes, overrides)


class _Table:
    """A family's names against the names in one folder: with or without prefix, `gamma` or `weight`."""

    def __init__(self, folder: Path, family: Family, weights: Weights | GgufWeights) -> None:
        self.folder = folder
        self.family = family
        self.weights = weights
        self.found = {plain_name(name, family.PREFIX): name for name in weights.shapes}

    def locate(self, theirs: str) -> str | None:
        """The name in the files, or None."""
        return self.found.get(plain_name(theirs, self.family.PREFIX))

    def sources(self, model: LanguageModel) -> dict[str, tuple[str, Weight]]:
        """For each of the model's parameters that the files have: name in the files, and how to read it."""
        out: dict[str, tuple[str, Weight]] = {}
        parameters = dict(model.named_parameters())
        for ours, theirs, weight in expand(self.family.WEIGHT_MAP, model):
            name = self.locate(theirs)
            if ours in parameters and name is not None:
                out[ours] = (name, weight)  # of two names the later one is what transformers computes with
        return out

    def check(self, model: LanguageModel, sources: Mapping[str, tuple[str, Weight]]) -> None:
        """Every weight of the body is there, and every shape is the configuration's.

        Raises:
            DataError: naming the first that is not.
        """
        for ours, parameter in model.named_parameters():
            if ours not in sources:
                if not ours.startswith("heads."):
                    raise DataError(
                        f"{self.folder}: weight {self._expected(ours)!r} is missing: the files are incomplete, or "
                        f"config.json describes another {model.family} than theirs (layers, kind)"
                    )
                continue
            name, weight = sources[ours]
            wanted = weight.file_shape(parameter, model.config)
            have = self.weights.shapes[name]
            if have != wanted:
                raise DataError(
                    f"{self.folder}: weight {name!r} has shape {list(have)}, config.json asks for {list(wanted)}; "
                    "the two files are not of the same model"
                )
            if not self.weights.dtypes[name].is_floating_point:
                raise DataError(f"{self.folder}: weight {name!r} is {self.weights.dtypes[name]}, expected floats")

    def left_over(self, model: LanguageModel) -> list[str]:
        """Names in the files that the model has no place for; buffers and copies of tied weights are not counted."""
        own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        names = expand(self.family.WEIGHT_MAP, model)
        used = {self.locate(theirs) for ours, theirs, weight in names if ours in own or weight.alias}
        return [name for name in self.weights.shapes if name not in used and not f".{name}".endswith(_BUFFERS)]

    def _expected(self, ours: str) -> str:
        number = next((part for part in ours.split(".") if part.isdigit()), "")
        any_layer = ours.replace(f".{number}.", ".{}.", 1) if number else ours
        names = (weight.theirs.format(number) for weight in self.family.WEIGHT_MAP if weight.ours in (ours, any_layer))
        return next(names, ours)


def _labels(description: Description, table: _Table, asked: Sequence[str] | None) -> list[str]:
    """Names of the classes: those asked for, else the file's, else as many as its head has rows."""
    if asked is not None:
        return list(asked)
    logits = "heads.classification.linear.weight"
    name = table.locate(next(weight.theirs for weight in table.family.WEIGHT_MAP if weight.ours == logits))
    rows = None if name is None else table.weights.shapes[name][0]
    if description.labels is not None and rows in (None, len(description.labels)):
        return description.labels
    return [f"LABEL_{n}" for n in range(2 if rows is None else rows)]


def _fill(
    model: LanguageModel,
    weights: Weights | GgufWeights,
    sources: Mapping[str, tuple[str, Weight]],
    dtype: torch.dtype,
) -> None:
    """Give the parameters that the files have their values.

    Raises:
        DataError: a value that is not finite.
    """

    def value(ours: str, old: Tensor) -> Tensor:
        if ours not in sources:
            return old
        name, weight = sources[ours]
        new = torch.empty(old.shape, dtype=dtype).copy_(weight.read(weights.read(name), model.config))
        if not new.sum().isfinite() and not new.isfinite().all():
            raise DataError(f"weight {name!r} holds NaN or infinity (as {dtype}); the model was saved broken")
        return new

    replace_parameters(model, value)


def save_model(
    model: LanguageModel,
    directory: Path | str,
    tokenizer: Tokenizer | None = None,
    *,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model folder that `transformers` and `load_model` read; it is complete or not there.

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

    Files of the same name are replaced, `config.json` last, and weights that the new ones make obsolete are removed;
    other files stay.

    Raises:
        StorageError: the disk is full or fails.
        CannotCreateError: no permission, a file in the way, or another process is saving there.
    """
    kept = "nothing was changed there"
    with storage_errors(directory, "save the model", kept), NewFolder(directory, "merge") as folder:
        yield folder.path
        folder.publish(last="config.json", obsolete=lambda names: stale(directory, names))


def write_model(
    model: LanguageModel,
    folder: Path,
    tokenizer: Tokenizer | None,
    *,
    max_shard_bytes: int,
    dtype: torch.dtype | None = None,
    pooling: Pooling | None = None,
) -> None:
    """Writes the files of a model into an empty folder.

    Args:
        pooling: what `sentence-transformers` is told; the model's own by default.
        dtype: of the weights in the files; the model's own by default.

    Raises:
        DataError: the tokenizer has more tokens than the model.
    """
    if tokenizer is not None and tokenizer.vocabulary.size > model.vocab_size:
        raise DataError(f"a tokenizer of {tokenizer.vocabulary.size} tokens, a model of {model.vocab_size}")
    config, generation = describe(model, tokenizer)
    weights = export_weights(model)
    if dtype is not None:
        config["dtype"] = str(dtype).removeprefix("torch.")
        weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
    write_weights(folder, weights, max_shard_bytes)
    write_json(folder / "config.json", config)
    if generation:
        write_json(folder / "generation_config.json", generation)
    if tokenizer is not None:
        tokenizer.save(folder)
    pooling = pooling or model.pooling
    if pooling is not None:
        room = model.context({} if tokenizer is None else tokenizer.settings)
        write_modules(folder, model.width, room, pooling)


def export_weights(model: LanguageModel) -> dict[str, Tensor]:
    """The weights by their Hugging Face names, tied ones once, in the order of the family's table."""
    family = get_family(model.family)
    own = {name: tensor.detach() for name, tensor in model.named_parameters()}
    parameters: dict[str, list[tuple[Weight, Tensor]]] = {}
    written: set[str] = set()
    for ours, theirs, weight in expand(family.WEIGHT_MAP, model):
        if ours in own and not (weight.alias and model.config.tie_word_embeddings):
            parameters.setdefault(theirs, []).append((weight, own[ours]))
            written.add(ours)
    if own.keys() - written:
        raise DataError(
            f"weights {sorted(own.keys() - written)[:3]} have no Hugging Face name: undo or merge the surgery "
            "(adapters) before saving"
        )
    bare = architecture(model) == _base(family)
    prefix = family.PREFIX if bare else ""
    return {theirs.removeprefix(prefix): join(theirs, shared, model.config) for theirs, shared in parameters.items()}


def _base(family: Family) -> str:
    return next(name for name, roles in family.ARCHITECTURES.items() if roles in ((), ("pooler",)))
