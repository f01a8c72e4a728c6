"""Exports a model to the files of `transformers`, has them read by both, and compares weights, outputs and texts."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pretune.batch import ragged
from pretune.draw import Draw
from pretune.errors import CannotCreateError, DataError, PretuneError
from pretune.interop.foreign_reader import ForeignReading, Uses, read_by_transformers
from pretune.interop.huggingface import load_model, model_folder, write_model
from pretune.interop.recorded_heads import head_sources
from pretune.interop.weight_names import export_weights
from pretune.interop.weights import SHARD_BYTES, SHARDED, SINGLE, Weights, stale
from pretune.models.flops import count_parameters
from pretune.models.head_table import weight_map_of
from pretune.models.model import LanguageModel
from pretune.new_folder import contents, settle
from pretune.nn.heads import SequenceHead
from pretune.nn.vectors import PoolingMode
from pretune.text.tokenizer.tokenizer import Tokenizer

Format = Literal["fp32", "bf16", "fp16"]
_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LENGTHS = (7, 1, 12)  # tokens of the sequences on which outputs are compared
_TOLERANCE = 1e-5
_MODEL_FILES = ("config.json", "modules.json", "adapter_config.json", "pytorch_model.bin", SINGLE, SHARDED)
_OF_VECTORS = re.compile(r"modules\.json|(config_)?sentence_\w+\.json|\d+_\w+")  # of an export with --pooling


@dataclass(frozen=True)
class Exported:
    """Holds what was compared.

    Attributes:
        weights: numbers in the files' tensors, each equal to the model's in the format of the files.
        outputs: tensors that both models gave for some random sequences: the hidden run and every head's.
        difference: largest distance of two outputs, as a fraction of the largest value; what rounding weights to the
            format costs, and nothing where the format is the model's own.
    """

    weights: int
    outputs: int
    difference: float
    foreign: ForeignReading


def export_model(
    model: LanguageModel,
    directory: Path | str,
    tokenizer: Tokenizer | None = None,
    *,
    format: Format = "fp32",
    max_shard_bytes: int = SHARD_BYTES,
    pooling: PoolingMode | None = None,
    uses: Uses | None = None,
) -> Exported:
    """Writes a model folder that `transformers` reads, reads it again, and compares weights, outputs and tokenizer.

    Where `transformers` is installed, it opens the folder too, in a process of its own, and is compared.

    Args:
        model: in evaluation mode, with weights in fp32.
        format: of the weights in the files.
        max_shard_bytes: of one file of weights.
        pooling: write what `sentence-transformers` reads too: a text's vector is this of its rows. By default what
            the model's training or its files said, if anything.
        uses: what pretune does with the model, for comparing texts and vectors; without it none are compared.

    Raises:
        DataError: a family that `transformers` cannot have, or what was read again differs; nothing was changed in the
            directory.
        StorageError: the disk is full or fails.
        CannotCreateError: no permission, a file in the way, or the directory holds anything but an earlier export of
            this model.
    """
    if weight_map_of(model.family) is None:
        raise DataError(
            f"family {model.family} has no WEIGHT_MAP, so that no other software knows its weights and it cannot be "
            "exported; its folder is read by pretune.load, or give the family a WEIGHT_MAP"
        )
    settle(Path(directory))
    _refuse_others(Path(directory), model)
    with model_folder(Path(directory)) as folder:
        write_model(
            model,
            folder,
            tokenizer,
            max_shard_bytes=max_shard_bytes,
            dtype=_FORMATS[format],
            pooling=pooling,
        )
        _refuse_strangers(Path(directory), folder)
        again = load_model(folder, heads=lambda read: _copied_heads(model, read), dtype=_FORMATS[format])
        _same_weights(model, again, _FORMATS[format])
        own = None if tokenizer is None else Tokenizer.load(folder)
        if own is not None and tokenizer is not None and own.hash != tokenizer.hash:
            raise DataError(f"{directory}: the tokenizer that was written is another when it is read again")
        written = outputs(model)
        difference = compare(written, outputs(again.float().eval()))
        if format == "fp32" and difference > _TOLERANCE:
            raise DataError(
                f"{directory}: outputs of the model that was written differ by {difference:.1e} of their size; its "
                "config.json does not say all that the model does"
            )
        foreign = read_by_transformers(folder, Path(directory), again, own, uses)
    return Exported(count_parameters(model), len(written), difference, foreign)


def _refuse_others(directory: Path, model: LanguageModel) -> None:
    """Refuses a folder that holds anything; an earlier export of this model may be made again, in another format too.

    Raises:
        CannotCreateError: the directory holds another model, files of one that cannot be read, or something else.
    """
    names = [path.name for path in contents(directory)] if directory.is_dir() else []
    if not names:
        return
    if not any(name in _MODEL_FILES for name in names):
        raise CannotCreateError(f"{directory}: holds {min(names)!r} and no model; give a new or empty directory")
    try:
        own, there = export_weights(model), Weights(directory)
        same = own.keys() == there.shapes.keys() and all(_is_rounded(own[n], there.read(n)) for n in own)
    except PretuneError:
        same = False
    if not same:
        raise CannotCreateError(
            f"{directory}: holds another model, which would be lost; give a new or empty directory, or remove it first"
        )


def _refuse_strangers(directory: Path, folder: Path) -> None:
    """Refuses a folder that holds what an export of this model does not write, such as a run's recipe.

    Raises:
        CannotCreateError: naming one of them.
    """
    if not directory.is_dir():
        return
    own = {folder.name, *(path.name for path in folder.iterdir()), *(path.name for path in stale(directory, ()))}
    names = sorted((path.name for path in contents(directory)), key=lambda name: (name.startswith("."), name))
    strangers = [name for name in names if name not in own and not _OF_VECTORS.fullmatch(name)]
    if strangers:
        raise CannotCreateError(
            f"{directory}: holds {strangers[0]!r} beside this model; give a new or empty directory, or remove it first"
        )


def _is_rounded(tensor: Tensor, stored: Tensor) -> bool:
    """Whether a tensor of a file is this one in the file's format."""
    return tensor.shape == stored.shape and torch.equal(tensor.detach().cpu().to(stored.dtype), stored)


@torch.inference_mode()
def outputs(model: LanguageModel) -> dict[str, Tensor]:
    """Computes the hidden states of some random sequences, and what each standard head makes of them."""
    draw = Draw(0).at("export")
    max_length = model.max_length or max(_LENGTHS)
    lengths = [min(length, max_length) for length in _LENGTHS]
    tokens = [draw.at(n).below(np.arange(length), model.vocab_size) for n, length in enumerate(lengths)]
    batch = ragged(tokens).to(model.device)
    hidden = model(batch).last_hidden_state
    out = {"hidden": hidden}
    for role, source in head_sources(model).items():
        if source == "standard":
            head = model.heads[role]
            out[role] = head(hidden, batch.layout) if isinstance(head, SequenceHead) else head(hidden)
    return out


def _copied_heads(model: LanguageModel, other: LanguageModel) -> dict[str, nn.Module]:
    """Copies the heads of a model for another, and ties them to its body as they are tied to their own."""
    shared: dict[int, object] = {}
    modules, tensors = dict(other.named_modules()), dict(other.named_parameters())
    for name, module in model.named_modules():
        if name in modules and name and not name.startswith("heads"):
            shared[id(module)] = modules[name]
    for name, parameter in model.named_parameters():
        if name in tensors:
            shared[id(parameter)] = tensors[name]
    return {role: copy.deepcopy(head, shared) for role, head in model.heads.items()}


def _same_weights(model: LanguageModel, again: LanguageModel, dtype: torch.dtype) -> None:
    own, read = dict(model.named_parameters()), dict(again.named_parameters())
    for name, tensor in own.items():
        if name not in read or not torch.equal(tensor.detach().to("cpu", dtype), read[name].detach()):
            raise DataError(f"weight {name!r} is another in the files that were written")


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Returns the largest difference of two outputs, as a fraction of the largest value or of 1."""
    relative = [
        float((value.float().cpu() - theirs[name].cpu()).abs().max()) / max(1.0, float(value.abs().max()))
        for name, value in ours.items()
    ]
    return max(relative)
