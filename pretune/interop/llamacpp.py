"""Lets llama.cpp open a file that was written, where its wheel `xllamacpp` is installed, and compares ids and texts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretune.errors import DataError
from pretune.interop.export_target import TargetExport
from pretune.interop.sample_lines import LINES, sample_lines
from pretune.scratch import ScratchFolder

PACKAGE = "xllamacpp"
COUNT = 1_000
_TIMEOUT = 1800  # seconds
_SCRIPT = Path(__file__).with_name("llamacpp_script.py")
_NEW_TOKENS = 12
_TIE = {"f32": 5e-3, "f16": 2e-2, "bf16": 5e-2}  # of two logarithms of probabilities: its products round activations


def read_by_llamacpp(path: Path, export: TargetExport) -> list[str]:
    """Says what llama.cpp found to be the same; that it is not there, where it is not.

    Raises:
        DataError: it cannot read the file, or ids or texts differ.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        export.notes.append(f"llama.cpp has not opened it: {PACKAGE} is not installed")
        return []
    tokenizer, writes = export.tokenizer, export.uses is not None and "clm" in export.model.heads
    lines = sample_lines(tokenizer, COUNT)
    prompts = _prompts(export) if writes else []
    answer = _ask(path, {"lines": lines, "prompts": prompts, "new_tokens": _NEW_TOKENS})
    for line, own, theirs in zip(lines, tokenizer.encode_batch(lines), answer["lines"], strict=True):
        expected = tokenizer.vocabulary.add_special_tokens(own)[0].tolist()
        if theirs != expected:
            raise DataError(f"{path.name}: llama.cpp gives {line[:60]!r} the ids {theirs[:20]}, not {expected[:20]}")
    if prompts and export.uses is not None and export.type in _TIE:
        written = export.uses.greedy(export.model, tokenizer, prompts, _NEW_TOKENS)
        for prompt, (_, text), theirs in zip(prompts, written, answer["written"], strict=True):
            _check_text(prompt, text, theirs, _TIE[export.type], tokenizer.vocabulary.size)
    texts = f", the same greedy text for {len(prompts)} prompts" if prompts and export.type in _TIE else ""
    return [f"llama.cpp ({PACKAGE} {answer['version']}) opened it: the same ids for {len(lines):,} lines{texts}"]


def _prompts(export: TargetExport) -> list[str]:
    """Beginnings of lines after which the model has room to write."""
    most = (export.model.max_length or 1 << 20) - _NEW_TOKENS - 2
    return [line[:24] for line in LINES[:4] if len(export.tokenizer.encode(line[:24])) <= most]


def _check_text(prompt: str, ours: Sequence[int], theirs: dict[str, Any], tie: float, size: int) -> None:
    """Compares a greedy text, up to where two tokens were as good as each other, or one is in no tokenizer."""
    tokens, gaps = theirs["tokens"], theirs["gaps"]
    shorter = min(len(ours), len(tokens))
    same = next((n for n in range(shorter) if ours[n] != tokens[n]), shorter)
    is_tie = same < len(gaps) and (gaps[same] < tie or tokens[same] >= size)  # pretune writes no such token
    if same < shorter and not is_tie:
        raise DataError(f"after {prompt!r} llama.cpp writes the tokens {tokens}, and pretune writes {ours}")


def _ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    with ScratchFolder("llamacpp") as scratch:
        question, reply = scratch / "request.json", scratch / "answer.json"
        question.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", str(_SCRIPT), str(path), str(question), str(reply)]
        try:
            ended = subprocess.run(
                command, env={**os.environ}, capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise DataError(
                f"{path.name}: llama.cpp read it for {_TIMEOUT} s without an end; nothing was kept"
            ) from None
        if not reply.is_file():
            last = [line for line in ended.stderr.splitlines() if "error" in line.lower()] or ["no message"]
            raise DataError(f"{path.name}: llama.cpp cannot read what was written: {last[0][:300]}")
        answer: dict[str, Any] = json.loads(reply.read_text(encoding="utf-8"))
        return answer
