"""Reads and writes model folders as `transformers` keeps them, without `transformers`: `load_model`, `save_model`.

Each family's `WEIGHT_MAP` says which tensor of a file is which of ours; this module only walks that table. Nothing is
allocated before the shapes in the files have been found to be those of the configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pretune.disk import storage_errors
from pretune.errors import DataError
from pretune.interop.description import Description, describe, interpret, read_description
from pretune.interop.file_fields import GENERATION, check_files
from pretune.interop.gguf import GgufWeights
from pretune.interop.head_labels import class_labels
from pretune.interop.model_tokenizer import fit_tokenizer, move_positions
from pretune.interop.recorded_heads import HeadMakers, recorded_heads
from pretune.interop.sealed_model import check_config, checks_model
from pretune.interop.sentence_transformers import read_vectors, stale_modules, write_vectors
from pretune.interop.weight_check import (
    check_copies,
    check_left_over,
    tie_as_in_files,
    wrapper_hint,
    zero_if_absent,
)
from pretune.interop.weight_names import FileTable, export_weights
from pretune.interop.weights import SHARD_BYTES, NamedTensors, Weights, stale, write_json, write_weights
from pretune.missing_paths import no_such_folder
from pretune.models.head_table import weight_map_of
from pretune.models.init import initialise, replace_parameters
from pretune.models.metadata import Loaded
from pretune.models.model import LanguageModel, MakeHeads, construct
from pretune.models.standard_heads import LABELLED_HEADS, HeadRequest
from pretune.models.text_vectors import TextVectors
from pretune.models.weight_map import Weight
from pretune.new_folder import NewFolder
from pretune.nn.heads import SequenceHead
from pretune.nn.vectors import PoolingMode
from pretune.seals import write_seal
from pretune.text.tokenizer.folder import transformer_folder
from pretune.text.tokenizer.tokenizer import Tokenizer

Sources = Mapping[str, tuple[str, Weight]]
"""For each of our weights its name in the files, and how it is read."""


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
    weights, description = _open(folder, overrides or {})
    table = FileTable(str(folder), description.family, weights)
    if "tie_word_embeddings" not in (overrides or {}):
        tie_as_in_files(description, table)
    model = assemble(description, table, heads, labels, makers)
    check_copies(table, model)
    model.extra_weights = table.extra_weights()
    loaded = Loaded(notes=list(description.notes), training_notes=list(description.training_notes))
    model.vectors = read_vectors(folder, model.width, loaded.notes)
    model.default_pooling = "last" if description.is_causal_class else "mean"
    sources: Sources = table.sources(model)
    sources, order = _fit_labels(model, description, table, sources, loaded)
    table.check(model, sources, wrapper_hint(table, model))
    if heads is None:
        _refuse_missing_heads(table, description)
    loaded.unexpected = table.left_over(model)
    check_left_over(table, model, loaded.unexpected, overrides or {})
    absent = [name for name, _ in model.named_parameters() if name not in sources]
    loaded.initialised = [name for name in absent if name not in zero_if_absent(model)]
    if heads is None and labels is None and loaded.initialised:
        _refuse_missing(table, model, loaded.initialised)
    _fill(model, weights, sources, order, dtype)
    initialise(model, seed, only=lambda name: name not in sources)
    model.to(dtype)
    model.loaded = loaded
    return model


def read_body(path: Path | str, overrides: Mapping[str, Any]) -> LanguageModel:
    """Builds the model that files describe without heads and without memory, to be looked at.

    Raises:
        MissingInputError, DataError, UsageError: as `load_model`.
    """
    check_config(Path(path))
    _, description = _open(Path(path), overrides)
    model = construct(description.family, description.config)
    model.loaded = Loaded()
    return model


def _fit_labels(
    model: LanguageModel, description: Description, table: FileTable, sources: Sources, loaded: Loaded
) -> tuple[Sources, dict[str, list[int]]]:
    """Compares the labels of the model's heads with the file's.

    Returns:
        The sources of the weights, without the rows of a head whose labels are others; and for a head whose labels are
        the file's in another order, which row of the file each of its rows is.
    """
    order: dict[str, list[int]] = {}
    for role in LABELLED_HEADS:
        names, known = class_labels(model, role), _labels(description, table, role, None)
        last = f"heads.{role}.linear."
        if names is None or names == known:
            continue
        if sorted(names) == sorted(known):
            order |= {name: [known.index(label) for label in names] for name in sources if name.startswith(last)}
            continue
        if not any(name.startswith(last) for name in sources):
            continue  # the files have no such head, whose labels could differ
        title = role.replace("_", " ")
        loaded.notes.append(f"{title} head re-initialized: its labels ({len(names)}) differ from the file's")
        sources = {name: source for name, source in sources.items() if not name.startswith(last)}
    return sources, order


def _refuse_missing_heads(table: FileTable, description: Description) -> None:
    """Refuses files without the head that their class has, as whoever asks for no head wants those in the files.

    Raises:
        DataError: naming the first weight that is missing.
    """
    for role, name in description.missing.items():
        raise DataError(
            f"{table.where}: weight {name!r} is missing, which the head {role!r} needs that config.json names in "
            "'architectures'; bring the whole files, train the head (pretune finetune), or correct 'architectures'"
        )


def _refuse_missing(table: FileTable, model: LanguageModel, absent: Sequence[str]) -> None:
    """Refuses heads whose weights would be random.

    Raises:
        DataError: naming the first weight that is missing.
    """
    raise DataError(
        f"{table.where}: weight {table.expected(model, absent[0])!r} is missing: it would be random, and so would be "
        "what the model says; bring the whole files, or correct config.json"
    )


def assemble(
    description: Description,
    table: FileTable,
    heads: Sequence[str] | MakeHeads | None,
    labels: Sequence[str] | None,
    makers: HeadMakers,
) -> LanguageModel:
    """Builds the model that files describe; its weights are not yet read.

    Args:
        heads, labels, makers: as of `load_model`.

    Raises:
        DataError: a head in the files that nobody here makes.
        UsageError: a head that the family does not have.
    """
    family, config = description.family, description.config
    if heads is None:
        sources = {r: s for r, s in description.metadata.heads.items() if r in description.roles or table.has_head(r)}
        names = _wanted_labels(description, table, {*description.roles, *sources}, labels)
        request = HeadRequest(names, description.problem_type)
        model = construct(family, config, recorded_heads(table.where, description.roles, sources, request, makers))
        if description.has_metadata:
            _refuse_unknown_heads(table, model)
    elif callable(heads):
        model = construct(family, config, heads)
    else:
        names = _wanted_labels(description, table, heads, labels)
        model = construct(family, config, heads, names, description.problem_type)
    head = dict(model.heads.items()).get("classification")
    if isinstance(head, SequenceHead) and description.describes(head):
        head.output = description.output or head.output
        head.states_problem_type = description.states_problem_type
    model.extras, model.carried, model.metadata = description.extras, description.carried, description.metadata
    model.generation = description.generation
    return model


def _refuse_unknown_heads(table: FileTable, model: LanguageModel) -> None:
    """Refuses heads in the files that nobody makes, so that nothing that was trained is dropped silently.

    Raises:
        DataError: the files hold a head that config.json does not name.
    """
    for role, name in table.unknown_heads(model).items():
        raise DataError(
            f"{table.where}: weight {name!r} is of a head {role!r} that config.json does not name in the field "
            "'pretune.heads', so that it cannot be built; pass what builds it, load_model(path, heads=...), or "
            "remove its weights from the files"
        )


def _open(path: Path, overrides: Mapping[str, Any]) -> tuple[Weights | GgufWeights, Description]:
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


def _wanted_labels(
    description: Description, table: FileTable, roles: Collection[str], wanted: Sequence[str] | None
) -> list[str]:
    """Names the classes of the first standard head that has some; none where there is no such head."""
    role = next((role for role in LABELLED_HEADS if role in roles), None)
    return [] if role is None else _labels(description, table, role, wanted)


def _labels(description: Description, table: FileTable, role: str, wanted: Sequence[str] | None) -> list[str]:
    """Names a head's classes: those wanted, else the file's, else as many as its head has rows."""
    if wanted is not None:
        return list(wanted)
    logits = f"heads.{role}.linear.weight"
    weights = weight_map_of(description.family) or ()
    name = table.locate(next((weight.theirs for weight in weights if weight.ours == logits), logits))
    rows = None if name is None else table.weights.shapes[name][0]
    if description.labels is not None and rows in (None, len(description.labels)):
        return description.labels
    return [f"LABEL_{n}" for n in range(2 if rows is None else rows)]


def _fill(
    model: LanguageModel,
    weights: NamedTensors,
    sources: Sources,
    order: Mapping[str, Sequence[int]],
    dtype: torch.dtype,
) -> None:
    """Fills the parameters that the files have.

    Args:
        order: which row of the file's tensor each row of a parameter is, where that is another.

    Raises:
        DataError: a value that is not finite.
    """

    def value(ours: str, old: Tensor) -> Tensor:
        if ours not in sources:
            return old
        name, weight = sources[ours]
        read = weight.read(weights.read(name), model.config)
        new = torch.empty(old.shape, dtype=dtype).copy_(read[order[ours]] if ours in order else read)
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
        DataError: the tokenizer has more tokens than the model.
    """
    check_vocabulary(model, tokenizer)
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
    if vectors is not None:
        max_length = model.context({} if tokenizer is None else tokenizer.settings)
        write_vectors(folder, vectors, model.width, max_length)
    write_seal(folder)


def check_vocabulary(model: LanguageModel, tokenizer: Tokenizer | None) -> None:
    """Checks that the model has a row for each token.

    Raises:
        DataError: the tokenizer has more tokens than the model.
    """
    if tokenizer is not None and tokenizer.vocabulary.size > model.vocab_size:
        raise DataError(f"a tokenizer of {tokenizer.vocabulary.size} tokens, a model of {model.vocab_size}")
