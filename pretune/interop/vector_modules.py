"""Reads each module of a `sentence-transformers` folder after its transformer, and writes it: config.json and weights.

Every class of version 6.2 is computed here, or refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from pretune.errors import DataError
from pretune.field_table import FieldTable, check_fields, shown_value
from pretune.interop.safety import read_json
from pretune.interop.vector_fields import (
    DENSE_FIELDS,
    DROPOUT_FIELDS,
    FLAGS,
    NORM_FIELDS,
    NORMALIZE_FIELDS,
    POOLING_FIELDS,
    REMEDY,
    SPLADE_FIELDS,
    WITHOUT,
)
from pretune.interop.weights import SHARD_BYTES, Weights, write_json, write_weights
from pretune.models.text_vectors import Fields, VectorModule
from pretune.nn.splade import SparseActivation, SparsePooling
from pretune.nn.vectors import Dense, Feature, Normalize, Pooling, PoolingMode, SparsePool, VectorBrick, VectorNorm
from pretune.text.tokenizer.folder import OTHER_READERS

_NAMESPACE = "sentence_transformers."
_REFUSED = {
    **dict.fromkeys(OTHER_READERS, "reads texts without a transformer, or with several"),
    "CNN": "changes the rows of tokens before they are pooled",
    "LSTM": "changes the rows of tokens before they are pooled",
    "WeightedLayerPooling": "averages the rows of several layers",
    "WordWeights": "weights the rows of tokens before they are pooled",
    "Transformer": "is a second transformer",
    "MultiVectorMask": "belongs to models that give many vectors a text",
    "TokenPooling": "belongs to models that give many vectors a text",
    "SparseAutoEncoder": "belongs to models that give sparse vectors",
    "MLMTransformer": "belongs to models that give sparse vectors",
    "SparseStaticEmbedding": "belongs to models that give sparse vectors",
    "LogitScore": "belongs to models that score pairs of texts",
}
_FLAGS: Mapping[str, PoolingMode] = dict(  # in the order of the vector's parts
    zip(FLAGS, ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "last"), strict=True)
)
_ACTIVATIONS = {
    name: getattr(nn, name)
    for name in (
        "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU",
        "LogSigmoid", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh",
        "Tanhshrink",
    )
}  # fmt: skip


@dataclass(frozen=True)
class ModuleFiles:
    """Holds the files of one module.

    Attributes:
        folder: of its files.
        fields: of its config.json; None where there is none.
        reading: widths of the rows and, once a module made them, of the vectors.
    """

    folder: Path
    fields: Fields | None
    reading: Mapping[str, int]

    def refuse(self, field: str, why: str) -> DataError:
        """An error about a field."""
        value = (self.fields or {}).get(field)
        return DataError(f"{self.folder / 'config.json'}: field {field!r} = {shown_value(value)}: {why}")

    def whole(self, field: str, *older: str) -> int:
        """A field that must be a whole number above 0."""
        for name in (field, *older):
            value = (self.fields or {}).get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
            if value is not None:
                raise self.refuse(name, f"expected a whole number above 0; correct it, {WITHOUT}")
        raise self.refuse(field, f"it is missing; add it, {WITHOUT}")

    def flag(self, field: str, default: bool) -> bool:
        """A field that must be true or false."""
        value = (self.fields or {}).get(field)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.refuse(field, f"expected true or false; correct it, {WITHOUT}")
        return value

    def feature(self) -> Feature:
        """What the module reads and writes; that it is known was checked."""
        fields = self.fields or {}
        reads: Feature = fields.get("module_input_name") or "sentence_embedding"
        if fields.get("module_output_name") not in (None, reads):
            raise self.refuse("module_output_name", f"rows and vectors do not become each other here; {REMEDY}")
        return reads


def read_module(entry: VectorModule, folder: Path, reading: dict[str, int], notes: list[str]) -> VectorModule:
    """Reads the files of one module, and checks that it fits what comes before it.

    Args:
        entry: what modules.json says of it.
        folder: of its files.
        reading: widths of the rows and, once a module made them, of the vectors; updated.
        notes: gets a sentence for each field that is not known.

    Raises:
        DataError: a class or field that is not computed here, or weights that do not fit.
        MissingInputError: its files are not there.
    """
    name = entry.type.rpartition(".")[2]
    if not entry.type.startswith(_NAMESPACE):
        raise DataError(
            f"{folder.parent / 'modules.json'}: type {entry.type[:100]!r} names code of its own, which is never run; "
            f"{REMEDY}"
        )
    if name not in _BUILDERS:
        why = _REFUSED.get(name, "is not known here")
        raise DataError(f"{folder.parent / 'modules.json'}: module {name!r} ({folder.name}) {why}; {REMEDY}")
    build, table, needed = _BUILDERS[name]
    path = folder / "config.json"
    fields = read_json(path) if needed or path.is_file() else None
    notes += check_fields(path, fields or {}, table)
    brick = build(ModuleFiles(folder, fields, dict(reading)))
    if brick is not None:
        if brick.reads not in reading:
            raise DataError(f"{folder}: {name} works on the vectors of texts, and no pooling comes before it; {REMEDY}")
        is_sparse = isinstance(brick, SparsePool)  # whose width is the vocabulary's, and which is the last module
        reading[brick.writes] = reading[brick.reads] if is_sparse else brick.width(reading[brick.reads])
    return VectorModule(entry.type, fields, brick, entry.kwargs)


def write_module(module: VectorModule, folder: Path, width: int) -> None:
    """Writes the files of one module into a new folder.

    Args:
        width: of what it reads.
    """
    folder.mkdir()
    fields = module.fields
    if fields is None and isinstance(module.brick, Pooling):
        fields = _pooling_fields(module.brick, width)
    if fields is None and isinstance(module.brick, SparsePool):
        pool = module.brick
        fields = {"pooling_strategy": pool.mode, "activation_function": pool.activation, "embedding_dimension": None}
    if fields is not None:
        write_json(folder / "config.json", fields)
    tensors = {} if module.brick is None else module.brick.state_dict()
    if tensors:
        write_weights(folder, {name: tensor.contiguous() for name, tensor in tensors.items()}, SHARD_BYTES)


def _pooling_fields(pooling: Pooling, width: int) -> Fields:
    """The fields that all versions since 2 read."""
    return {
        "word_embedding_dimension": width,
        **{flag: mode in pooling.modes for flag, mode in _FLAGS.items()},
    }


def _pooling(files: ModuleFiles) -> VectorBrick:
    fields = files.fields or {}
    width = files.whole("embedding_dimension", "word_embedding_dimension")
    if width != files.reading["token_embeddings"]:
        raise files.refuse(
            "embedding_dimension" if "embedding_dimension" in fields else "word_embedding_dimension",
            f"the model's rows have {files.reading['token_embeddings']} numbers; the folder is mixed of two models",
        )
    names = {"lasttoken" if mode == "last" else mode: mode for mode in get_args(PoolingMode)}
    stated = fields.get("pooling_mode")
    if "pooling_mode" in fields:
        listed = [stated] if isinstance(stated, str) else stated
        if not isinstance(listed, list) or not listed or any(mode not in names for mode in listed):
            raise files.refuse("pooling_mode", f"expected one or several of {', '.join(names)}; {REMEDY}")
        modes = [names[mode] for mode in listed]
    else:
        modes = [mode for flag, mode in _FLAGS.items() if files.flag(flag, default=False)] or ["mean"]
    return Pooling(modes, files.flag("include_prompt", default=True))


def _splade(files: ModuleFiles) -> VectorBrick:
    fields = files.fields or {}
    mode, activation = fields.get("pooling_strategy", "max"), fields.get("activation_function", "relu")
    for name, value, known in (
        ("pooling_strategy", mode, get_args(SparsePooling)),
        ("activation_function", activation, get_args(SparseActivation)),
    ):
        if value not in known:
            raise files.refuse(name, f"expected {' or '.join(known)}; {REMEDY}")
    return SparsePool(mode, activation)


def _dense(files: ModuleFiles) -> VectorBrick:
    reads = files.feature()
    inner, outer = files.whole("in_features"), files.whole("out_features")
    bias, residual = files.flag("bias", default=True), files.flag("use_residual", default=False)
    if inner != files.reading.get(reads, inner):
        raise files.refuse("in_features", f"what comes before has {files.reading[reads]} numbers; {REMEDY}")
    with torch.device("meta"):
        brick = Dense(inner, outer, bias, _activation(files), residual, reads)
    return _fill(brick, files)


def _activation(files: ModuleFiles) -> nn.Module:
    stated = (files.fields or {}).get("activation_function", "torch.nn.modules.activation.Tanh")
    package, _, name = str(stated).rpartition(".")
    if not (package == "torch.nn" or package.startswith("torch.nn.modules.")) or name not in _ACTIVATIONS:
        raise files.refuse(
            "activation_function",
            f"expected a class of torch.nn that needs no arguments ({', '.join(_ACTIVATIONS)}); no other code is run. "
            f"Write the one that is meant (sentence-transformers takes Tanh for what is not torch's), {WITHOUT}",
        )
    activation: nn.Module = _ACTIVATIONS[name]()
    return activation


def _normalize(files: ModuleFiles) -> VectorBrick:
    return Normalize(files.feature())


def _norm(files: ModuleFiles) -> VectorBrick:
    width = files.whole("dimension")
    if width != files.reading.get("sentence_embedding", width):
        raise files.refuse("dimension", f"the vectors before it have {files.reading['sentence_embedding']}; {REMEDY}")
    with torch.device("meta"):
        brick = VectorNorm(width)
    return _fill(brick, files)


def _fill(brick: VectorBrick, files: ModuleFiles) -> VectorBrick:
    """Gives a brick, built without memory, the weights of its folder.

    Raises:
        DataError: missing, unexpected or misshapen weights, or values that are not finite.
    """
    weights = Weights(files.folder)
    wanted = {name: tuple(tensor.shape) for name, tensor in brick.state_dict().items()}
    for name in sorted(wanted.keys() ^ weights.shapes.keys()):
        what = "is missing" if name in wanted else "has no place in this module"
        raise DataError(f"{files.folder}: weight {name!r} {what}; the folder is damaged, fetch it again")
    for name, shape in wanted.items():
        if weights.shapes[name] != shape:
            raise DataError(
                f"{files.folder}: weight {name!r} has shape {list(weights.shapes[name])}, config.json says "
                f"{list(shape)}; the folder is damaged, fetch it again"
            )
    tensors = {name: weights.read(name).to(torch.float32, copy=True) for name in wanted}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise DataError(f"{files.folder}: weight {name!r} holds NaN or infinity; copy or fetch the files again")
    brick.load_state_dict(tensors, assign=True)
    return brick.eval().requires_grad_(False)


def _nothing(files: ModuleFiles) -> None:
    """What only training does."""


_Build = Callable[[ModuleFiles], VectorBrick | None]
_BUILDERS: Mapping[
    str, tuple[_Build, FieldTable, bool]
] = {  # with the table of the fields, and whether there must be some
    "Pooling": (_pooling, POOLING_FIELDS, True),
    "SpladePooling": (_splade, SPLADE_FIELDS, False),
    "Dense": (_dense, DENSE_FIELDS, True),
    "Normalize": (_normalize, NORMALIZE_FIELDS, False),
    "LayerNorm": (_norm, NORM_FIELDS, True),
    "Dropout": (_nothing, DROPOUT_FIELDS, False),
}
