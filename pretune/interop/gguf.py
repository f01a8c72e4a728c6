"""Reads models of some families from the `.gguf` files of llama.cpp, with Hugging Face names.

Weights are made float32 one at a time, whatever their quantisation. The rows of a Llama's queries and keys lie in
another order in these files (pairs of a rotation beside each other) and are brought back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretune.errors import DataError
from pretune.field_table import check_fields, shown_value
from pretune.interop.file_fields import GGUF_FIELDS
from pretune.interop.gguf_names import EMBEDDINGS, FAMILIES, ROTARY
from pretune.nn.vectors import PoolingMode
from pretune.text.tokenizer.gguf import open_gguf, read_metadata

_POOLINGS: Mapping[int, PoolingMode] = {1: "mean", 2: "cls", 3: "last"}
_FACTORS = "rope_freqs.weight"
_LLAMA3 = (1.0, 4.0, 8192)  # low and high factor, and the original length, of all published models


class GgufWeights:
    """Holds the named tensors of a file, in the form of `interop.weights.Weights`.

    Attributes:
        shapes: by their Hugging Face names.
        dtypes: float32, which they are read as.
        notes: what the user should know, once `config` was called.
    """

    def __init__(self, path: Path) -> None:
        """Finds the tensors.

        Raises:
            DataError: a damaged file, or a tensor that no family here has.
        """
        self.notes: list[str] = []
        self._path = path
        self._reader = open_gguf(path)
        self.fields = read_metadata(path, self._reader)
        self._tensors: dict[str, Any] = {}
        for tensor in self._reader.tensors:
            if tensor.name != _FACTORS:
                self._tensors[self._name(tensor.name)] = tensor
        self.shapes = {name: self._shape(name) for name in self._tensors}
        self.dtypes = dict.fromkeys(self.shapes, torch.float32)

    @property
    def pooling(self) -> PoolingMode | None:
        """What makes one vector of a text's rows; None where the file does not say it."""
        return _POOLINGS.get(self.fields.get("bert.pooling_type", 0))

    def tensors(self) -> list[Any]:
        """Gives the tensors as they are stored, under llama.cpp's names."""
        return list(self._reader.tensors)

    @property
    def family(self) -> str:
        """Returns the name of a file in `models/`.

        Raises:
            DataError: of another kind.
        """
        name = self.fields.get("general.architecture")
        if name not in FAMILIES:
            raise DataError(f"{self._path}: general.architecture {name!r}: expected one of {', '.join(FAMILIES)}")
        return str(name)

    def config(self) -> dict[str, Any]:
        """Returns what `config.json` would say.

        Raises:
            DataError: a field is missing, or an unknown scaling of the rotary frequencies.
        """
        family = self.family
        own = {n.removeprefix(f"{family}."): v for n, v in self.fields.items() if n.startswith(f"{family}.")}
        names = FAMILIES[family]
        missing = [name for name in names.fields if name not in own and name not in names.optional]
        if missing:
            raise DataError(f"{self._path}: field '{family}.{missing[0]}' is missing: the file is incomplete")
        self.notes = check_fields(self._path, self.fields, GGUF_FIELDS)
        out: dict[str, Any] = {theirs: own[name] for name, theirs in names.fields.items() if name in own}
        out |= {
            "model_type": family,
            "vocab_size": next((self.shapes[name][0] for name in EMBEDDINGS if name in self.shapes), 0),
            "tie_word_embeddings": "lm_head.weight" not in self.shapes,
            **(names.fixed or {}),
        }
        if family in ROTARY:
            self._check_widths(own)
            out["rope_parameters"] = self._rope(own, out)
        if family == "bert":
            out["type_vocab_size"] = self.shapes.get("bert.embeddings.token_type_embeddings.weight", (1,))[0]
        if family == "llama":
            out["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in self.shapes
        for role, name in {"bos": "bos", "eos": "eos", "pad": "padding"}.items():
            out[f"{role}_token_id"] = self.fields.get(f"tokenizer.ggml.{name}_token_id")
        return out

    def _check_widths(self, own: Mapping[str, Any]) -> None:
        """Refuses heads whose parts have widths of their own.

        Raises:
            DataError: another width of values, or of what is rotated, than of keys.
        """
        heads, width = own["attention.head_count"], own["embedding_length"]
        whole = isinstance(heads, int) and isinstance(width, int) and heads > 0
        length = own.get("attention.key_length") or (width // heads if whole else None)
        for name in ("attention.value_length", "rope.dimension_count"):
            if own.get(name) not in (None, length):
                raise DataError(
                    f"{self._path}: field '{self.family}.{name}' = {shown_value(own[name])}: heads have a width of "
                    f"{length}, and parts of another width are not built here; use a model without them"
                )

    def read(self, name: str) -> Tensor:
        """Reads one tensor in float32.

        Raises:
            DataError: a quantisation that the `gguf` package cannot undo, or a truncated file.
        """
        from gguf import dequantize

        tensor = self._tensors[name]
        try:
            values = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
            values = values.reshape([int(n) for n in tensor.shape[::-1]])
        except (NotImplementedError, ValueError) as error:
            raise DataError(f"{self._path}: tensor {tensor.name!r} ({tensor.tensor_type.name}): {error}") from None
        weight = torch.from_numpy(values)
        if self._is_transposed(name):
            return weight.t().contiguous()
        is_permuted = self.family == "llama" and ".self_attn." in name and (".q_proj." in name or ".k_proj." in name)
        if not is_permuted:
            return weight
        heads = self.fields["llama.attention.head_count"]
        if ".k_proj." in name:
            heads = self.fields.get("llama.attention.head_count_kv", heads)
        return weight.view(int(heads), -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)

    def _shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor as a folder has it."""
        shape = tuple(int(n) for n in self._tensors[name].shape[::-1])
        return shape[::-1] if self._is_transposed(name) else shape

    def _is_transposed(self, name: str) -> bool:
        """Whether a matrix is (in, out) in a folder, as GPT-2's are."""
        part, _, part_type = str(self._tensors[name].name).rpartition(".")
        family = FAMILIES.get(str(self.fields.get("general.architecture")))
        return family is not None and part_type == "weight" and part.rpartition(".")[2] in family.transposed

    def _name(self, theirs: str) -> str:
        part, _, part_type = theirs.rpartition(".")
        names = FAMILIES.get(str(self.fields.get("general.architecture")), FAMILIES["llama"])
        layer, parts = "", names.tensors
        if part.startswith("blk."):
            number, _, part = part.removeprefix("blk.").partition(".")
            layer, parts = names.layer.format(number), names.parts
        if part not in parts or part_type not in ("weight", "bias"):
            raise DataError(f"{self._path}: tensor {theirs[:100]!r} is of no family that can be read")
        return f"{layer}{parts[part]}.{part_type}"

    def _rope(self, own: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns base and scaling of the rotary frequencies."""
        out: dict[str, Any] = {"rope_type": "default", "rope_theta": own.get("rope.freq_base", 10_000.0)}
        scaling = own.get("rope.scaling.type", "none")
        if scaling in ("linear", "yarn"):
            out |= {"rope_type": scaling, "factor": own.get("rope.scaling.factor")}
            if scaling == "yarn":
                out["original_max_position_embeddings"] = own.get("rope.scaling.original_context_length")
        elif scaling != "none":
            raise DataError(f"{self._path}: rope.scaling.type {scaling!r}: expected none, linear or yarn")
        factors = next((tensor for tensor in self._reader.tensors if tensor.name == _FACTORS), None)
        if factors is None:
            return out
        try:
            return out | self._llama3(np.asarray(factors.data, np.float64).ravel(), out, config)
        except (ArithmeticError, TypeError, ValueError) as error:  # sizes and base are not checked yet
            raise DataError(f"{self._path}: {_FACTORS} does not fit the sizes in the file: {error}") from None

    def _llama3(
        self, factors: np.ndarray[Any, Any], rope: Mapping[str, Any], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Finds the scaling that gives these factors of the wavelengths, which the file holds instead of naming it.

        Source: Llama 3.1's `apply_scaling`, meta-llama/llama-models.
        """
        low, high, original = _LLAMA3
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        factor = float(factors.max())
        lengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, width, 2) / width)
        smooth = np.clip((original / lengths - low) / (high - low), 0.0, 1.0)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if len(expected) != len(factors) or not np.allclose(expected, factors, rtol=1e-4):
            raise DataError(f"{self._path}: {_FACTORS} scales the rotary frequencies in another way than Llama 3")
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
