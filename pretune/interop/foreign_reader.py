"""A reader that is not ours: a model folder is opened by `transformers`, in a process of its own, and compared.

What pretune writes and reads again may be wrong twice in the same way. `read_by_transformers` compares what matters to
whoever opens the folder: the ids of lines in many scripts, the outputs of every head, greedy text; and, of a folder
whose modules.json says how a text becomes a vector, the vectors of `sentence-transformers`. Where a package is not
installed, nothing is compared and nothing claimed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pretune.batch import ragged
from pretune.draw import Draw
from pretune.errors import DataError
from pretune.interop.cross_encoder import encoder_class
from pretune.interop.description import model_type
from pretune.interop.recorded_heads import head_sources
from pretune.interop.sample_lines import LINES, sample_lines
from pretune.interop.weight_names import architecture
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel, get_family
from pretune.nn.heads import SequenceHead
from pretune.scratch import ScratchFolder
from pretune.text.tokenizer.folder import MODULES
from pretune.text.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")
Greedy = Callable[[LanguageModel, Tokenizer, Sequence[str], int], list[tuple[list[int], list[int]]]]
"""What a model reads of each prompt, and the tokens that it writes then, so many at most; the end token included."""
Embed = Callable[[LanguageModel, Tokenizer, Sequence[str]], NDArray[np.float32]]
"""The vectors of texts, as the model's files say they are made. Shape: return: (n, width)"""
_EMBEDDED = [*LINES, " ".join(LINES) * 8]  # the last is longer than what many models read
_LINES = 1000
_NEW_TOKENS = 12
_ROWS = (7, 1, 12)  # tokens of the rows whose outputs are compared
_TOLERANCE = 1e-4
_TIE = 1e-3  # of two logits
_TIMEOUT = 1800  # seconds
_SCRIPT = Path(__file__).with_name("transformers_script.py")


@dataclass(frozen=True)
class ForeignReading:
    """What another reader found to be the same.

    Attributes:
        reader: its name and version; empty where none was there.
        reason: why none was there.
        lines: texts and pairs that have the same ids.
        outputs: tensors that are the same, of the hidden run and of every head that its class has.
        difference: largest distance of two outputs, as a fraction of the largest value.
        texts: greedy texts that are the same.
        vectors: of texts, that are the same; or scores of pairs.
        vectors_noun: what they are.
        vectors_reader, vectors_reason: who made the vectors, or why nobody did; both empty where the files name none.
    """

    reader: str = ""
    reason: str = ""
    lines: int = 0
    outputs: int = 0
    difference: float = 0.0
    texts: int = 0
    vectors: int = 0
    vectors_reader: str = ""
    vectors_reason: str = ""
    vectors_noun: str = "vectors"

    def __str__(self) -> str:
        if not self.reader:
            return f"no other reader has opened it: {self.reason}"
        ids = f"the same ids for {self.lines:,} texts, " if self.lines else ""
        texts = f", the same greedy text for {self.texts} prompts" if self.texts else ""
        read = f"{self.reader} opened it: {ids}the same {self.outputs} outputs{texts}"
        if self.vectors_reason:
            return f"{read}; its vectors were made by no other reader: {self.vectors_reason}"
        return f"{read}; {self.vectors_reader}: the same {self.vectors} {self.vectors_noun}" if self.vectors else read


@dataclass(frozen=True)
class Uses:
    """What pretune does with a model, to be compared.

    Attributes:
        greedy: writes on from prompts.
        embed: makes vectors of texts, sparse ones in full; of a cross-encoder, scores of each text with the next one.
    """

    greedy: Greedy
    embed: Embed


def installed() -> bool:
    """Whether `transformers` is there, without importing it."""
    return importlib.util.find_spec("transformers") is not None


def read_by_transformers(
    folder: Path, where: Path, model: LanguageModel, tokenizer: Tokenizer | None, uses: Uses | None = None
) -> ForeignReading:
    """Opens a folder with `transformers` and compares it with the model that was written.

    Args:
        folder: of the files.
        where: they will stand, for messages.
        model: on the CPU, in fp32 and in evaluation mode, with the weights that the files have.
        tokenizer: as it is written in the folder.
        uses: without them, neither texts nor vectors are compared.

    Raises:
        DataError: it cannot be read, or something differs.
    """
    if not installed():
        return ForeignReading(reason="transformers is not installed")
    lines = [] if tokenizer is None else sample_lines(tokenizer, _LINES)
    rows = _rows(model, tokenizer)
    roles = _roles(model)
    prompts, written = _written(model, tokenizer, uses)
    embedded = _EMBEDDED if tokenizer and uses and (folder / MODULES).is_file() else []
    request = {
        "architecture": architecture(model),
        "model_type": model_type(model.family),
        "has_tokenizer": tokenizer is not None,
        "lines": lines,
        "pairs": _pairs(lines),
        "rows": rows,
        "roles": roles,
        "start": _start(model),
        "prompts": [read for read, _ in written],
        "new_tokens": _NEW_TOKENS,
        "embedded": embedded,
        "encoder": encoder_class(model),
    }
    answer, arrays = _ask(folder, request)
    if answer["status"] == "unavailable":
        return ForeignReading(reason=answer["reason"])
    reader = f"transformers {answer.get('version', '')}"
    if answer["status"] == "failed":
        raise DataError(f"{where}: {reader} cannot read what was written: {answer['reason']}")
    where_read = f"{where}: as {reader} reads it"
    compared = ForeignReading(reader=reader)
    if tokenizer is not None:
        _check_ids(where_read, model, tokenizer, lines, answer)
        compared = replace(compared, lines=len(lines) + len(answer["pairs"]))
    count, difference = _check_outputs(where_read, model, rows, roles, arrays, answer["missing"])
    for prompt, (_, tokens), theirs in zip(prompts, written, answer["written"], strict=True):
        _check_written(where_read, prompt, tokens, theirs)
    if embedded and tokenizer and uses:
        compared = replace(compared, vectors_reader=answer["embedder"], vectors_reason=answer["embedder_reason"])
    if "vectors" in arrays and tokenizer and uses:
        _check_vectors(f"{where}: as {answer['embedder']} reads it", uses.embed(model, tokenizer, embedded), arrays)
        noun = "scores of pairs" if arrays["vectors"].ndim == 1 else "vectors"
        compared = replace(compared, vectors=len(arrays["vectors"]), vectors_noun=noun)
    return replace(compared, outputs=count, difference=difference, texts=len(prompts))


def _ask(folder: Path, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    with ScratchFolder("transformers") as scratch:
        question, reply = scratch / "request.json", scratch / "answer.json"
        question.write_text(json.dumps(request), encoding="utf-8")
        reason = run_script(folder, question, reply)
        if not reply.is_file():
            return {"status": "unavailable", "reason": reason}, {}
        answer: dict[str, Any] = json.loads(reply.read_text(encoding="utf-8"))
        beside = reply.with_suffix(".npz")
        arrays = dict(np.load(beside)) if beside.is_file() else {}
    return answer, arrays


def run_script(folder: Path, question: Path, reply: Path) -> str:
    """Runs `transformers_script` in a process that sees no network and no device; why it gave no answer, if so."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-P", str(_SCRIPT), str(folder), str(question), str(reply)]
    try:
        ended = subprocess.run(
            command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"transformers took more than {_TIMEOUT} s"
    last = (ended.stderr.strip() or "no message").splitlines()[-1]
    return f"the process of transformers ended with {ended.returncode}: {last}"


def _pairs(items: Sequence[T]) -> list[tuple[T, T]]:
    """The first few with those that follow them."""
    return list(pairwise(items[: len(LINES) + 1]))


def _written(
    model: LanguageModel, tokenizer: Tokenizer | None, uses: Uses | None
) -> tuple[list[str], list[tuple[list[int], list[int]]]]:
    """Prompts, and what the model reads of them and writes; none where its files ask for what `generate` refuses."""
    prompts = [] if tokenizer is None or uses is None else _prompts(model, tokenizer)
    if tokenizer is None or uses is None or not prompts:
        return [], []
    try:
        return prompts, uses.greedy(model, tokenizer, prompts, _NEW_TOKENS)
    except DataError:
        return [], []


def _prompts(model: LanguageModel, tokenizer: Tokenizer) -> list[str]:
    """The beginnings of lines after which a model that generates has room to write."""
    beginnings = [line[:24] for line in LINES[:4]] if "clm" in model.heads else []
    max_length = (model.max_length or 1 << 20) - _NEW_TOKENS
    sizes = [len(tokenizer.vocabulary.add_special_tokens(tokens)[0]) for tokens in tokenizer.encode_batch(beginnings)]
    return [prompt for prompt, size in zip(beginnings, sizes, strict=True) if 0 < size < max_length]


def _rows(model: LanguageModel, tokenizer: Tokenizer | None) -> list[list[int]]:
    """Rows of ordinary tokens, with what stands around a text."""
    config = model.config.model_dump()
    special = {config.get(f"{role}_token_id") for role in ("pad", "eos", "bos", "cls", "sep")}
    if tokenizer is not None:
        special |= set(np.flatnonzero(tokenizer.vocabulary.special).tolist())
    ordinary = np.array([n for n in range(model.vocab_size) if n not in special] or [0], np.int64)
    max_length = model.max_length or max(_ROWS)
    draw, rows = Draw(0).at("rows"), []
    for n, length in enumerate(_ROWS):
        tokens = ordinary[draw.at(n).below(np.arange(length), len(ordinary))]
        if tokenizer is not None:
            tokens = tokenizer.vocabulary.add_special_tokens(tokens)[0]
        elif model.has_encoder and isinstance(config.get("eos_token_id"), int):
            tokens = np.append(tokens, config["eos_token_id"])
        rows.append(tokens[-max_length:].tolist())
    return rows


def _start(model: LanguageModel) -> int | None:
    """The decoder's first token, where both sides of an encoder-decoder read a text."""
    return model.start if isinstance(model, EncoderDecoder) and not model.is_encoder_alone else None


def _roles(model: LanguageModel) -> list[str]:
    """Standard heads that the class in config.json has."""
    known = get_family(model.family).ARCHITECTURES.get(architecture(model) or "", ())
    return [role for role, source in head_sources(model).items() if source == "standard" and role in known]


def _check_ids(
    where: str, model: LanguageModel, tokenizer: Tokenizer, lines: Sequence[str], answer: dict[str, Any]
) -> None:
    vocabulary = tokenizer.vocabulary
    encoded = tokenizer.encode_batch(lines)
    for line, tokens, ids in zip(lines, encoded, answer["lines"], strict=True):
        expected = vocabulary.add_special_tokens(tokens)[0].tolist()
        if ids != expected:
            raise DataError(f"{where} ({answer['tokenizer_class']}): {line[:60]!r} has the ids {ids}, not {expected}")
    for pair, (first, second), theirs in zip(_pairs(lines), _pairs(encoded), answer["pairs"], strict=True):
        tokens, segments = vocabulary.add_special_tokens(first, second)
        types = theirs["token_type_ids"]
        if theirs["input_ids"] != tokens.tolist() or (types is not None) != (model.segments > 1):
            raise DataError(f"{where} ({answer['tokenizer_class']}): the pair {pair} has other ids or segments")
        if types is not None and types != segments.tolist():
            raise DataError(f"{where} ({answer['tokenizer_class']}): the pair {pair} has the segments {types}")


@torch.inference_mode()
def _check_outputs(
    where: str,
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    roles: Sequence[str],
    arrays: dict[str, NDArray[np.float32]],
    missing: Sequence[str],
) -> tuple[int, float]:
    count, largest = 0, 0.0
    for n, row in enumerate(rows):
        batch = ragged([np.array(row, np.int64)])
        output = model(batch)
        hidden = output.last_hidden_state
        ours = {"hidden": hidden}
        for role in roles:
            head = model.heads[role]
            whole = isinstance(head, SequenceHead)
            rows_read = hidden[batch.layout.first] if role == "pooler" else hidden
            ours[role] = head(rows_read, batch.layout) if whole else head(rows_read)
        for name, tensor in ours.items():
            theirs = arrays.get(f"{name}.{n}")
            if theirs is None:
                continue
            values = tensor.float().numpy().reshape(-1)
            scale = max(1.0, float(np.abs(values).max(initial=0.0)))
            distance = float(np.abs(values - theirs.reshape(-1)).max(initial=0.0)) / scale
            count, largest = count + 1, max(largest, distance)
            if not distance <= _TOLERANCE:  # NaN too
                lost = f"; it has no {', '.join(missing[:3])}" if missing else ""
                raise DataError(f"{where}: outputs of {name!r} differ by {distance:.1e} of their size{lost}")
    return count, largest


def _check_written(where: str, prompt: str, ours: Sequence[int], theirs: dict[str, Any]) -> None:
    """Compares a greedy text, up to where two tokens were as good as each other."""
    tokens, gaps = theirs["tokens"], theirs["gaps"]
    shorter = min(len(ours), len(tokens))
    same = next((n for n in range(shorter) if ours[n] != tokens[n]), shorter)
    if not same == len(ours) == len(tokens) and not (same < len(gaps) and gaps[same] < _TIE):
        raise DataError(f"{where}: after {prompt!r} it writes the tokens {tokens}, and pretune writes {list(ours)}")


def _check_vectors(where: str, ours: NDArray[np.float32], arrays: dict[str, NDArray[np.float32]]) -> None:
    theirs = arrays["vectors"]
    if ours.shape != theirs.shape:
        raise DataError(f"{where}: vectors have the shape {theirs.shape}, not {ours.shape}")
    distance = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(ours).max()))
    if not distance <= _TOLERANCE:
        raise DataError(f"{where}: vectors differ by {distance:.1e} of their size")
