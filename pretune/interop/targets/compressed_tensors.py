"""compressed-tensors, which transformers and vLLM read: the layers' matrices as whole numbers with scales, packed.

Types: int8, a scale a row; q8_0 and q4_0, a scale for 32 weights. All are `pack-quantized` with weights alone rounded,
which is what vLLM has kernels for; the vocabulary and the heads stay fp32. Scales are fp32, so that a rounded model's
values are kept exactly.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pretune.interop.description import describe
from pretune.interop.export_target import TargetExport
from pretune.interop.file_fields import GENERATION
from pretune.interop.foreign_reader import read_by_transformers
from pretune.interop.huggingface import check_vocabulary
from pretune.interop.model_tokenizer import fit_tokenizer, move_positions
from pretune.interop.plain_parts import (
    bias,
    first_reason,
    matrix,
    raise_if_other,
    refuse_groups,
    refuse_nonfinite,
    refuse_surgery,
    stored_format,
    stored_tensors,
)
from pretune.interop.rounded_copy import rounded_copy
from pretune.interop.weight_names import ClassNames, file_names, join_weights
from pretune.interop.weights import SHARD_BYTES, Weights, write_json, write_weights
from pretune.models.model import LanguageModel
from pretune.models.weight_map import Transpose, join
from pretune.nn.formats.format import find_format, pack
from pretune.nn.formats.levels import LevelFormat
from pretune.nn.heads import VocabularyHead
from pretune.nn.projection import ProjectionBrick, named_projections
from pretune.nn.rounded import rounded_tensors

__all__ = ["PACKAGES", "SUFFIX", "TYPES", "compare", "refuse", "use", "write"]

TYPES = ("int8", "q8_0", "q4_0")
SUFFIX = ""
PACKAGES = ((), "")
GROUP = 32
_BITS = {"int8": 8, "q8_0": 8, "q4_0": 4}
_READS_WEIGHT = ("t5", "modernbert")
_READERS = ("compressed_tensors", "transformers")
Matrices = dict[str, tuple[Tensor, Tensor]]


def refuse(export: TargetExport) -> str | None:
    """Says what transformers does not have of it, and the remedy; None where it has all."""
    model, type = export.model, export.type
    names = file_names(model)
    if all(theirs == ours for ours, theirs, _ in names):
        return "no other software knows the weights of this family; its folder is read by pretune.load"
    if model.family in _READS_WEIGHT:
        return (
            f"the code of transformers reads the plain matrices of a {model.family}, which a rounded one lacks; use "
            f"--format {'ctranslate2' if model.family == 't5' else 'onnx'}"
        )
    body = [weight for ours, _, weight in names if not ours.startswith("heads.") and ".attention." in ours]
    if any(isinstance(step, Transpose) for weight in body for step in weight.transforms) or model.family == "xlnet":
        return "its layers are no Linear in transformers, and these alone are rounded there; use --format gguf or onnx"
    return first_reason(
        refuse_surgery(model),
        refuse_groups(model, GROUP, type) if type != "int8" else None,
        refuse_nonfinite(model),
    )


def write(export: TargetExport, path: Path) -> None:
    """Writes a folder of transformers whose layers are rounded, and says in config.json how."""
    model = export.model
    check_vocabulary(model, export.tokenizer)
    tokenizer = fit_tokenizer(export.tokenizer, model)
    move_positions(model, tokenizer)
    rounded, own_form = rounded_matrices(model, export.type), rounded_tensors(model)
    weights = {}
    for name, tensor in join_weights(model, _dense(model)).items():
        if name in own_form:
            continue
        if name not in rounded:
            weights[name] = tensor.float().cpu()
            continue
        levels, scale = rounded[name]
        stem = name.removesuffix("weight")
        weights[f"{stem}weight_packed"] = packed_words(levels, _BITS[export.type])
        weights[f"{stem}weight_scale"] = scale.contiguous()
        weights[f"{stem}weight_shape"] = torch.tensor(levels.shape)
    config, generation = describe(model, tokenizer)
    config["dtype"] = "float32"
    config["quantization_config"] = _described(model, export.type, rounded)
    model.carried.write(path)
    write_weights(path, weights, SHARD_BYTES)
    write_json(path / "config.json", config)
    if generation:
        write_json(path / GENERATION, generation)
    tokenizer.write(path)


def rounded_matrices(model: LanguageModel, type: str) -> Matrices:
    """Levels and scales of the layers' matrices, by their names in the files. Shape: (out, in), (out, groups)."""
    bricks = {name: brick for name, brick in named_projections(model) if not name.startswith("heads.")}
    in_class, shared = ClassNames(model), dict[str, list[Any]]()
    for ours, theirs, weight in file_names(model):
        brick = bricks.get(ours.removesuffix(".weight"))
        if brick is not None and ours.endswith(".weight") and not _is_plain(ours):
            shared.setdefault(in_class.name(ours, theirs), []).append((weight, _levels(brick, type)))
    return {
        name: cast(
            tuple[Tensor, Tensor],
            tuple(join(name, [(weight, pair[n]) for weight, pair in parts], model.config) for n in (0, 1)),
        )
        for name, parts in shared.items()
    }


def _is_plain(ours: str) -> bool:
    """Whether a matrix is outside of the layers, as ALBERT's behind its embedding."""
    return ".blocks." not in ours


def _levels(brick: ProjectionBrick, type: str) -> tuple[Tensor, Tensor]:
    form = find_format(type)
    tensors = stored_tensors(brick) if stored_format(brick) == type else pack(form, matrix(brick))
    levels, scale = cast(LevelFormat, form).levels(tensors)
    return levels.cpu(), scale.float().cpu()


def _dense(model: LanguageModel) -> dict[str, Tensor]:
    """All weights by our names, those of rounded bricks in fp32."""
    out = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, brick in named_projections(model):
        if stored_format(brick) is not None:
            own = bias(brick)
            out |= {f"{name}.weight": matrix(brick)} | ({} if own is None else {f"{name}.bias": own})
    word = model.embedding.word
    if stored_format(word) is not None:
        out["embedding.word.weight"] = matrix(word)
    for role, head in model.heads.items():
        if isinstance(head, VocabularyHead) and stored_format(head.vocabulary) is not None and not head.is_tied(word):
            out[f"heads.{role}.weight"] = matrix(head.vocabulary)
    return out


def packed_words(levels: Tensor, bits: int) -> Tensor:
    """Whole numbers of 8 or 4 bits, the first in the lowest bits. Shape: (out, in) int8 -> (out, words) int32."""
    size = 32 // bits
    unsigned = levels.to(torch.int64) + (1 << (bits - 1))
    unsigned = torch.nn.functional.pad(unsigned, (0, -levels.shape[1] % size))
    shifts = torch.arange(size) * bits
    words = (unsigned.view(len(levels), -1, size) << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def unpacked_words(words: Tensor, bits: int, width: int) -> Tensor:
    """Undoes `packed_words`. Shape: (out, words) int32 -> (out, width) int8."""
    size = 32 // bits
    unsigned = (words.to(torch.int64)[..., None] >> (torch.arange(size) * bits)) & ((1 << bits) - 1)
    return (unsigned.flatten(1)[:, :width] - (1 << (bits - 1))).to(torch.int8)


def _described(model: LanguageModel, type: str, rounded: Matrices) -> dict[str, Any]:
    """What config.json says of the rounding."""
    in_class = ClassNames(model)
    named = {in_class.name(ours, theirs) for ours, theirs, _ in file_names(model) if theirs.endswith(".weight")}
    others = sorted(name.removesuffix(".weight") for name in named - rounded.keys())
    is_row = type == "int8"
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": sorted({"lm_head", *others}),
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": _BITS[type],
                    "type": "int",
                    "symmetric": True,
                    "dynamic": False,
                    "strategy": "channel" if is_row else "group",
                    "group_size": None if is_row else GROUP,
                },
                "input_activations": None,
                "output_activations": None,
            }
        },
    }


def compare(export: TargetExport, path: Path) -> list[str]:
    """Reads the files again, every level and scale; transformers runs the model where both packages are there."""
    model, files = export.model, Weights(path)
    rounded = rounded_matrices(model, export.type)
    for name, (levels, scale) in rounded.items():
        stem = name.removesuffix("weight")
        words, shape = files.read(f"{stem}weight_packed"), files.read(f"{stem}weight_shape")
        same = torch.equal(unpacked_words(words, _BITS[export.type], int(shape[1])), levels)
        raise_if_other(f"weight {name!r}", same and torch.equal(files.read(f"{stem}weight_scale"), scale))
    out = [f"{len(rounded)} rounded matrices, bit for bit"]
    missing = [package for package in _READERS if importlib.util.find_spec(package) is None]
    if missing:
        export.notes.append(f"no other reader has opened it: {missing[0]} is not installed")
        return out
    tokenizer = fit_tokenizer(export.tokenizer, model)
    values = rounded_copy(model, export.type, vocabulary=False)
    return [*out, str(read_by_transformers(path, path, values, tokenizer, export.uses))]


def use(export: TargetExport, path: Path) -> str:
    """Gives a command of transformers."""
    return f'python -c "import transformers; print(transformers.AutoModel.from_pretrained({str(path)!r}))"'
