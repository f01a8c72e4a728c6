"""CTranslate2: GPT, GPT-2, Llama, Qwen2 and Qwen3; BART, Marian and T5; BERT, RoBERTa and DistilBERT without heads.

Types are CTranslate2's: float32, bfloat16, float16, and int8 with a scale a row, where it rounds activations too, a
scale a token. The vocabulary has a name for each row of the model, whatever the tokenizer has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.interop.ctranslate2_specs import (
    ACTIVATIONS,
    DECODERS,
    ENCODERS,
    TRANSLATORS,
    TYPES,
    build_spec,
    rotary_problem,
)
from pretune.interop.export_target import TargetExport
from pretune.interop.huggingface import check_vocabulary
from pretune.interop.model_tokenizer import fit_tokenizer
from pretune.interop.plain_parts import activation_name, extra_heads, first_reason, refuse_nonfinite, refuse_surgery
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.nn.block import Block
from pretune.nn.heads import Pooler
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL

__all__ = ["PACKAGES", "SUFFIX", "TYPES", "compare", "refuse", "use", "write"]

SUFFIX = ""
PACKAGES = (("ctranslate2",), "export")
_FAMILIES = (*DECODERS, *TRANSLATORS, *ENCODERS)
_LENGTHS = (7, 2, 12)  # tokens of the texts on which outputs are compared
_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1, "float16": 2e-2, "int8": 0.2}
_NO_USE = ("mlm", "nsp", "pooler")
_ONNX = "use --format onnx"


def refuse(export: TargetExport) -> str | None:
    """Says what CTranslate2 lacks, and the remedy; None where it can have the model."""
    model = export.model
    if model.family not in _FAMILIES:
        return f"it is written for {', '.join(_FAMILIES)} alone; {_ONNX}"
    if model.family in TRANSLATORS and cast(EncoderDecoder, model).is_encoder_alone:
        return "it has an encoder alone, which is written for BERT's families; use the files of pretune"
    if model.family not in ENCODERS and "clm" not in model.heads:
        return f"it has no language modelling head, without which it does not write; {_ONNX}"
    extra = extra_heads(model, _NO_USE if model.family in ENCODERS else ("clm",))
    if extra:
        return f"it has no head {extra[0]!r}; {_ONNX}"
    return first_reason(refuse_surgery(model), *map(_block_problem, _blocks(model)), refuse_nonfinite(model))


def _blocks(model: LanguageModel) -> list[Block]:
    own = model.stack.in_order
    both = [*model.encoder.stack.in_order, *own] if isinstance(model, EncoderDecoder) else own
    return cast(list[Block], both)


def _block_problem(block: Block) -> str | None:
    attention, function = block.attention, cast(Any, block.feedforward).activation
    if activation_name(function, ACTIVATIONS) is None:
        return f"its activation is none of {', '.join(ACTIVATIONS)}; {_ONNX}"
    if attention.structure not in (CAUSAL, BIDIRECTIONAL):
        return f"a layer sees {attention.structure}, which it does not do; {_ONNX}"
    problem = None if attention.rotary is None else rotary_problem(attention.rotary.scaling)
    return None if problem is None else f"{problem}; {_ONNX}"


def write(export: TargetExport, path: Path) -> None:
    """Writes the spec with its vocabulary, and the tokenizer's files beside it."""
    model, tokenizer = export.model, fit_tokenizer(export.tokenizer, export.model)
    check_vocabulary(model, tokenizer)
    tokens = token_names(export)
    vocabulary = tokenizer.vocabulary
    first = tokens[0]

    def name(*numbers: int | None) -> str:
        return next((tokens[number] for number in numbers if number is not None), first)

    names = {
        "bos": name(vocabulary.bos, vocabulary.cls, vocabulary.eos),
        "eos": name(vocabulary.eos, vocabulary.sep),
        "unk": name(vocabulary.unk, vocabulary.eos),
        "start": name(model.decoder_start),
    }
    spec = build_spec(model, tokens, names, export.type)
    spec.save(str(path))
    tokenizer.write(path)
    unwritten = [role for role in model.heads if role in _NO_USE[:2]]
    if unwritten:
        export.notes.append(f"its encoders give hidden states: {', '.join(unwritten)} of this model is not written")


def token_names(export: TargetExport) -> list[str]:
    """A name for each row of the model's embedding, each once."""
    subwords = export.tokenizer.subwords
    own = [subwords[n] if n < len(subwords) else None for n in range(export.model.vocab_size)]
    return [f"<unused_{n}>" if subword is None else subword for n, subword in enumerate(own)]


@torch.inference_mode()
def compare(export: TargetExport, path: Path) -> list[str]:
    """Runs it on some texts and compares logits, probabilities or hidden states."""
    import ctranslate2

    model, stored_as = export.model, export.type
    compute = "float32" if stored_as == "float16" else stored_as
    rows = _rows(model)
    settings: dict[str, Any] = {"device": "cpu", "inter_threads": 1, "intra_threads": 1}
    if compute not in ctranslate2.get_supported_compute_types("cpu"):
        compute = "float32"
    settings["compute_type"] = compute
    if model.family in DECODERS:
        what, worst = "logits", _generator(ctranslate2.Generator(str(path), **settings), model, rows)
    elif model.family in TRANSLATORS:
        tokens = token_names(export)
        translator = ctranslate2.Translator(str(path), **settings)
        what, worst = "probabilities of tokens", _translator(translator, cast(EncoderDecoder, model), rows, tokens)
    else:
        what, worst = "hidden states", _encoder(ctranslate2.Encoder(str(path), **settings), model, rows)
    if not worst <= _TOLERANCES[stored_as]:
        raise DataError(
            f"{path}: as CTranslate2 reads it, {what} differ by {worst:.1e} of their size; nothing was kept"
        )
    return [f"ctranslate2 {ctranslate2.__version__}: {what} of {len(rows)} texts, within {worst:.0e} of their size"]


def _rows(model: LanguageModel) -> list[NDArray[np.int64]]:
    draw = Draw(0).at("ctranslate2")
    limit = model.max_length or max(_LENGTHS)
    return [draw.at(n).below(np.arange(min(length, limit)), model.vocab_size) for n, length in enumerate(_LENGTHS)]


def _gap(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    scale = max(1.0, float(np.abs(ours).max(initial=0.0)))
    gap = float(np.abs(ours - theirs).max(initial=0.0)) / scale
    return gap if np.isfinite(gap) else np.inf


def _generator(generator: Any, model: LanguageModel, rows: Sequence[NDArray[np.int64]]) -> float:
    theirs = np.array(generator.forward_batch([row.tolist() for row in rows]).to_device(_cpu()), np.float32)
    batch = ragged(list(rows))
    logits = model.heads["clm"](model(batch).last_hidden_state).float().numpy()
    parts = np.split(logits, np.cumsum([len(row) for row in rows])[:-1])
    return max(_gap(own, other[: len(own)]) for own, other in zip(parts, theirs, strict=True))


def _cpu() -> Any:
    import ctranslate2

    return ctranslate2.Device.cpu


def _encoder(encoder: Any, model: LanguageModel, rows: Sequence[NDArray[np.int64]]) -> float:
    answer = encoder.forward_batch([row.tolist() for row in rows])
    theirs = np.array(answer.last_hidden_state, np.float32)
    batch = ragged(list(rows))
    hidden = model(batch).last_hidden_state
    parts = np.split(hidden.float().numpy(), np.cumsum([len(row) for row in rows])[:-1])
    worst = max(_gap(own, other[: len(own)]) for own, other in zip(parts, theirs, strict=True))
    pooler = dict(model.heads.items()).get("pooler")
    if not isinstance(pooler, Pooler):
        return worst
    return max(worst, _gap(pooler(hidden[batch.layout.first]).numpy(), np.array(answer.pooler_output, np.float32)))


def _translator(
    translator: Any, model: EncoderDecoder, rows: Sequence[NDArray[np.int64]], tokens: Sequence[str]
) -> float:
    targets = [row[::-1].copy() for row in rows]
    names = [[[tokens[n] for n in row] for row in side] for side in (rows, targets)]
    answers = translator.score_batch(*names)
    worst = 0.0
    for row, target, answer in zip(rows, targets, answers, strict=True):
        read = np.array([model.start, *target[:-1]], np.int64)
        batch = ragged([read])
        whole = Batch(batch.tokens, batch.layout, source=ragged([row]))
        scores = model.heads["clm"](model(whole).last_hidden_state).float().log_softmax(-1)
        ours = scores[torch.arange(len(target)), torch.from_numpy(target)].numpy()
        worst = max(worst, _gap(ours, np.array(answer.log_probs[: len(target)], np.float32)))
    return worst


def use(export: TargetExport, path: Path) -> str:
    """Gives a command of CTranslate2."""
    family = export.model.family
    name = "Generator" if family in DECODERS else "Translator" if family in TRANSLATORS else "Encoder"
    return f'python -c "import ctranslate2; print(ctranslate2.{name}({str(path)!r}).compute_type)"'
