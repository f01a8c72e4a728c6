"""llama.cpp's file: Llama, Qwen2, Qwen3, GPT-2, and BERT for vectors, with the tokenizer and the chat template.

The types are llama.cpp's. Blocks of weights that are rounded to q8_0 or q4_0 already are copied bit for bit; in a q4_0
file the vocabulary has q8_0. llama.cpp's own GELU is that by tanh, in BERT too, whose vectors differ by as much.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from pretune.errors import DataError
from pretune.interop.export_target import TargetExport
from pretune.interop.gguf import GgufWeights
from pretune.interop.gguf_tokenizer import tokenizer_metadata, tokenizer_problem
from pretune.interop.gguf_writer import BLOCKS, FAMILIES, GROUP, TYPES, metadata, stored
from pretune.interop.llamacpp import read_by_llamacpp
from pretune.interop.plain_parts import extra_heads, first_reason, raise_if_other, refuse_groups, refuse_surgery
from pretune.interop.sample_lines import sample_lines
from pretune.models.model import LanguageModel
from pretune.nn.block import Block
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL
from pretune.text.tokenizer.tokenizer import Tokenizer

__all__ = ["PACKAGES", "SUFFIX", "TYPES", "compare", "refuse", "use", "write"]

SUFFIX = ".gguf"
PACKAGES = (("gguf",), "gguf")
LINES = 10_000
_POOLINGS = {"mean": 1, "cls": 2, "last": 3}
_NO_USE = ("mlm", "nsp", "pooler")  # heads of BERT's pretraining, which make no vectors


def refuse(export: TargetExport) -> str | None:
    """Says what llama.cpp lacks, and the remedy; None where it can have the model."""
    model = export.model
    if model.family not in FAMILIES:
        remedy = "--format ctranslate2" if model.has_encoder else "--format onnx or ctranslate2"
        return f"it is written for {', '.join(FAMILIES)} alone; use {remedy}"
    return first_reason(
        refuse_surgery(model),
        _head_problem(model),
        _block_problem(model),
        refuse_groups(model, GROUP, export.type) if export.type in BLOCKS else None,
        tokenizer_problem(export.tokenizer, model.family),
    )


def _head_problem(model: LanguageModel) -> str | None:
    if model.family != "bert":
        if "clm" not in model.heads:
            return "it has no language modelling head, without which llama.cpp does not write; use --format onnx"
        extra = extra_heads(model, ("clm",))
    else:
        extra = extra_heads(model, _NO_USE)
        if model.vectors is not None and (model.vectors.pooling not in _POOLINGS):
            return (
                f"its vectors are {model.vectors.describe()}, and llama.cpp has one pooling of "
                f"{', '.join(_POOLINGS)}; use --format onnx"
            )
    return f"llama.cpp has no head {extra[0]!r}; use --format onnx" if extra else None


def _block_problem(model: LanguageModel) -> str | None:
    config = model.config.model_dump()
    name = config.get("hidden_act", config.get("activation_function"))
    expected = {"gpt2": ("gelu_new", "gelu_pytorch_tanh"), "bert": ("gelu",)}.get(model.family, ("silu", "swish"))
    if name not in expected:
        return f"its activation is {name!r}, and llama.cpp's {model.family} has {expected[0]}; use --format onnx"
    structure = BIDIRECTIONAL if model.family == "bert" else CAUSAL
    for number, block in enumerate(model.stack.in_order):
        attention = cast(Block, block).attention
        if attention.structure != structure:
            seen = attention.structure
            return f"layer {number} sees {seen}, which llama.cpp's {model.family} does not; use --format onnx"
        if attention.scale != attention.head_width**-0.5:
            return f"layer {number} scales scores by {attention.scale:g}, which llama.cpp cannot; use --format onnx"
    rope = getattr(model.config, "rope_parameters", None)
    if rope is None or rope.rope_type in ("default", "linear", "dynamic"):
        return None
    if rope.rope_type == "llama3" and model.family == "llama":
        return None
    stated = rope.model_dump().keys() & {"attention_factor", "beta_fast", "beta_slow", "mscale", "truncate"}
    if rope.rope_type == "yarn" and not stated:
        return None
    return f"rotary positions of the type {rope.rope_type} with these fields are not llama.cpp's; use --format onnx"


def write(export: TargetExport, path: Path) -> None:
    """Writes the file."""
    import gguf

    model, stored_as = export.model, export.type
    writer = gguf.GGUFWriter(path, model.family)
    writer.add_name(model.family)
    fields: dict[str, Any] = {
        **metadata(model, stored_as),
        **{f"tokenizer.{k}": v for k, v in tokenizer_metadata(export.tokenizer, model, _template(export)).items()},
    }
    if model.family == "bert":
        pooling = "mean" if model.vectors is None else model.vectors.pooling
        fields["bert.pooling_type"] = _POOLINGS[pooling or "mean"]
        unwritten = [role for role in model.heads if role in _NO_USE]
        if unwritten:
            export.notes.append(f"llama.cpp's bert makes vectors: {', '.join(unwritten)} of this model is not written")
    adders: dict[type[object], Any] = {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
        str: writer.add_string, list: writer.add_array,
    }  # fmt: skip
    for name, value in fields.items():
        adders[value.__class__](name, value)
    for tensor in stored(model, stored_as):
        ggml_type = gguf.GGMLQuantizationType[tensor.type.upper()]
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _template(export: TargetExport) -> str | None:
    """The chat template of the model's folder, if it has one."""
    whole = export.model.carried.whole.get("chat_template.jinja")
    if whole is not None:
        return whole.decode()
    own = export.tokenizer.settings.get("chat_template")
    return own if isinstance(own, str) else None


def compare(export: TargetExport, path: Path) -> list[str]:
    """Reads the file again: every bit of the tensors, what it computes, and the ids of 10,000 lines."""
    reader = GgufWeights(path)
    there = {tensor.name: tensor for tensor in reader.tensors()}
    count = 0
    for tensor in stored(export.model, export.type):
        raw = np.ascontiguousarray(there[tensor.name].data).view(np.uint8).reshape(-1)
        own = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        raise_if_other(f"tensor {tensor.name!r}", np.array_equal(raw, own))
        count += tensor.data.size
    raise_if_other("the list of tensors", len(there) == sum(1 for _ in stored(export.model, export.type)))
    same_ids(export.tokenizer, Tokenizer.load(path))
    out = [f"{len(there)} tensors, bit for bit", f"the ids of {LINES:,} lines"]
    return [*out, *read_by_llamacpp(path, export)]


def same_ids(ours: Tokenizer, theirs: Tokenizer) -> None:
    """Compares two readings of a tokenizer.

    Raises:
        DataError: a line has other ids.
    """
    lines = sample_lines(ours, LINES)
    for line, own, other in zip(lines, ours.encode_batch(lines), theirs.encode_batch(lines), strict=True):
        first, second = (t.vocabulary.add_special_tokens(ids)[0] for t, ids in ((ours, own), (theirs, other)))
        if not np.array_equal(first, second):
            raise DataError(
                f"the tokenizer in the file gives {line[:60]!r} the ids {second[:20].tolist()}, not "
                f"{first[:20].tolist()}: llama.cpp has none that cuts text as this one does; nothing was kept"
            )


def use(export: TargetExport, path: Path) -> str:
    """Gives a command of llama.cpp."""
    if export.model.family == "bert":
        return f"llama-embedding -m {path} -p 'a text'"
    return f"llama-cli -m {path} -p 'a text'"
