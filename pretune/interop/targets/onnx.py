"""ONNX: encoders with their heads or vectors, and decoders with a cache, for onnxruntime and `optimum`.

Types: fp32; int8, a scale a row, by ONNX's own DequantizeLinear; q8_0 and q4_0, groups of 32 with a scale each, by
onnxruntime's MatMulNBits. Weights that are rounded already are stored as they are; activations are never rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.batch import ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.interop.description import describe
from pretune.interop.export_target import TargetExport
from pretune.interop.model_tokenizer import fit_tokenizer
from pretune.interop.onnx_bricks import refuse_bricks
from pretune.interop.onnx_graph import BLOCKS, GROUP, TYPES
from pretune.interop.onnx_model import cache_shapes, is_decoder, refuse_heads, write_model
from pretune.interop.plain_parts import first_reason, refuse_groups, refuse_nonfinite, refuse_surgery
from pretune.interop.rounded_copy import rounded_copy
from pretune.interop.weights import write_json
from pretune.models.model import LanguageModel
from pretune.nn.heads import Pooler, SequenceHead
from pretune.nn.vectors import TextFeatures

__all__ = ["PACKAGES", "SUFFIX", "TYPES", "compare", "refuse", "use", "write"]

SUFFIX = ""
PACKAGES = (("onnx", "onnxruntime"), "export")
FILE = "model.onnx"
_SHAPES = ((7, 1, 12), (5,), (3, 9))  # tokens of the texts of each batch on which outputs are compared
_TOLERANCE = 1e-4
_OTHER = ("xlnet",)
Outputs = Mapping[str, NDArray[np.float32]]


def refuse(export: TargetExport) -> str | None:
    """Says what has no nodes here, and the remedy; None where all have."""
    model = export.model
    if model.has_encoder:
        return "encoder-decoders are not written as ONNX; use --format ctranslate2"
    if model.family in _OTHER:
        return "its attention by relative positions of a stream of its own is not written as ONNX; use pretune"
    return first_reason(
        refuse_surgery(model),
        refuse_bricks(model),
        refuse_heads(model),
        refuse_groups(model, GROUP, export.type) if export.type in BLOCKS else None,
        refuse_nonfinite(model),
    )


def write(export: TargetExport, path: Path) -> None:
    """Writes the graph, and the files of tokenizer and configuration beside it."""
    write_model(export.model, path / FILE, export.type)
    tokenizer = fit_tokenizer(export.tokenizer, export.model)
    config, _ = describe(export.model, tokenizer)
    write_json(path / "config.json", config)
    tokenizer.write(path)


@torch.inference_mode()
def compare(export: TargetExport, path: Path) -> list[str]:
    """Runs the graph on batches of several shapes, padded on either side, and compares every output."""
    import onnx
    import onnxruntime as ort

    if export.type in ("fp32", "int8"):
        onnx.checker.check_model(str(path / FILE), full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path / FILE), options, providers=["CPUExecutionProvider"])
    model = rounded_copy(export.model, export.type)
    worst = 0.0
    for number, lengths in enumerate(_SHAPES):
        rows = _rows(model, lengths, number)
        for left in (False, True):
            worst = max(worst, _difference(session, model, rows, left))
    if not worst <= _TOLERANCE:
        raise DataError(f"{path}: outputs of the graph differ by {worst:.1e} of their size; nothing was kept")
    names = [output.name for output in session.get_outputs() if not output.name.startswith("present")]
    cached = ", one token after another with the cache" if is_decoder(model) else ""
    batches = f"{2 * len(_SHAPES)} padded batches{cached}"
    return [f"onnxruntime {ort.__version__}: {', '.join(names)} of {batches}, within {worst:.0e} of their size"]


def _rows(model: LanguageModel, lengths: Sequence[int], number: int) -> list[NDArray[np.int64]]:
    limit = model.max_length or max(lengths)
    draw = Draw(0).at("onnx").at(number)
    return [draw.at(n).below(np.arange(min(length, limit)), model.vocab_size) for n, length in enumerate(lengths)]


def _difference(session: Any, model: LanguageModel, rows: Sequence[NDArray[np.int64]], left: bool) -> float:
    """The largest distance of two outputs on one batch, as a fraction of the largest value."""
    expected = expected_outputs(model, rows)
    feed, mask = padded(session, model, rows, left)
    answers = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
    worst = distance(expected, answers, mask)
    if is_decoder(model):
        worst = max(worst, distance(expected, step_by_step(session, model, feed), mask))
    return worst


def padded(
    session: Any, model: LanguageModel, rows: Sequence[NDArray[np.int64]], left: bool
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """What a graph reads of some texts, and which places are tokens."""
    length = max(map(len, rows))
    mask = np.zeros((len(rows), length), np.bool_)
    tokens = np.zeros((len(rows), length), np.int64)
    for n, row in enumerate(rows):
        columns = slice(length - len(row), length) if left else slice(0, len(row))
        mask[n, columns], tokens[n, columns] = True, row
    feed: dict[str, NDArray[Any]] = {"input_ids": tokens, "attention_mask": mask.astype(np.int64)}
    if any(each.name == "token_type_ids" for each in session.get_inputs()):
        feed["token_type_ids"] = np.zeros_like(tokens)
    if is_decoder(model):
        feed |= empty_cache(model, len(rows))
    return feed, mask


def empty_cache(model: LanguageModel, batch: int) -> dict[str, NDArray[np.float32]]:
    """The inputs of a cache without tokens."""
    return {
        f"past_key_values.{layer}.{part}": np.zeros((batch, heads, 0, width), np.float32)
        for layer, (heads, width) in enumerate(cache_shapes(model))
        for part in ("key", "value")
    }


def step_by_step(session: Any, model: LanguageModel, feed: Mapping[str, NDArray[Any]]) -> Outputs:
    """The logits of a batch that is read two tokens first and then one by one, with the cache."""
    names = [output.name for output in session.get_outputs()]
    logits = "logits" if "logits" in names else "clm.logits"  # beside other heads
    cache = {name: value for name, value in feed.items() if name.startswith("past")}
    length, parts, begin = feed["input_ids"].shape[1], [], 0
    while begin < length:
        end = min(length, begin + 2) if begin == 0 else begin + 1
        step = {
            "input_ids": feed["input_ids"][:, begin:end],
            "attention_mask": feed["attention_mask"][:, :end],
            **cache,
        }
        answers = dict(zip(names, session.run(None, step), strict=True))
        parts.append(answers[logits])
        cache = {name: answers[name.replace("past_key_values", "present")] for name in cache}
        begin = end
    return {logits: np.concatenate(parts, 1)}


@torch.inference_mode()
def expected_outputs(model: LanguageModel, rows: Sequence[NDArray[np.int64]]) -> Outputs:
    """What the model itself gives, by the names of the graph's outputs: of rows end to end, or of texts."""
    batch = ragged(list(rows))
    hidden = model(batch).last_hidden_state
    out = {"last_hidden_state": hidden}
    if model.vectors is not None:
        out["sentence_embedding"] = model.vectors.compute(TextFeatures(hidden, batch.layout))
    roles = [role for role in model.heads if role != "pooler"]
    for role, head in model.heads.items():
        prefix = "" if len(roles) == 1 else f"{role}."
        if isinstance(head, Pooler):
            out["pooler_output"] = head(hidden[batch.layout.first])
            continue
        scores = head(hidden, batch.layout) if isinstance(head, SequenceHead) else head(hidden)
        if role == "question_answering":
            out |= {f"{prefix}start_logits": scores[:, 0], f"{prefix}end_logits": scores[:, 1]}
        else:
            out[f"{prefix}logits"] = scores
    return {name: value.float().numpy() for name, value in out.items()}


def distance(expected: Outputs, answers: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]) -> float:
    """The largest distance of the outputs of a graph, but for its cache, as a fraction of the largest value.

    Raises:
        DataError: the model has no output of this name, or of another shape; or there is none at all.
    """
    worst = 0.0
    names = [name for name in answers if not name.startswith("present.")]
    if not names or not expected.keys() >= set(names):
        raise DataError(f"the graph gives the outputs {names}, and the model {list(expected)}; nothing was kept")
    for name in names:
        own, theirs = expected[name], answers[name]
        theirs = theirs[mask] if theirs.shape[:2] == mask.shape and len(own) == mask.sum() else theirs
        if own.shape != theirs.shape:
            raise DataError(f"output {name!r} has the shape {theirs.shape}, not {own.shape}")
        scale = max(1.0, float(np.abs(own).max(initial=0.0)))
        gap = float(np.abs(own - theirs).max(initial=0.0)) / scale
        worst = max(worst, gap if np.isfinite(gap) else np.inf)
    return worst


def use(export: TargetExport, path: Path) -> str:
    """Gives a command of onnxruntime."""
    return f'python -c "import onnxruntime; print(onnxruntime.InferenceSession({str(path / FILE)!r}).get_inputs())"'
