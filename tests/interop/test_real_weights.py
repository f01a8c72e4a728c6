"""Real weights of packages and of the data folder against `transformers`; skipped, with the reason, where absent."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
import transformers
from wheelkit import wheel

from pretune.generate.session import DecodingSession
from pretune.interop.huggingface import load_model, save_model


@pytest.fixture
def stories(data_folder: Path) -> Path:
    """A Llama of 260 thousand weights that tells stories, with the one that it tells when it is not disturbed."""
    path = data_folder / "models" / "stories260K"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize(
    ("name", "version", "kind", "heads"),
    [
        ("antiberty", "0.1.3", transformers.BertForMaskedLM, ["mlm"]),  # antibodies; 8 layers, 25 tokens
        ("microformer-mgm", "0.5.8", transformers.GPT2LMHeadModel, ["clm"]),  # microbes; 8 layers, 9669 tokens
    ],
)
def test_real_weights_of_a_package(name: str, version: str, kind: Any, heads: list[str], tmp_path: Path) -> None:
    path = wheel(name, version)
    model = load_model(path)
    assert list(model.heads) == heads
    assert not model.loaded.initialised  # type: ignore[union-attr]
    theirs = kind.from_pretrained(path)
    parity.assert_parity(model, theirs)
    save_model(model, tmp_path)
    parity.assert_parity(model, parity.reload(kind, tmp_path))


def test_a_real_gpt2_writes_what_transformers_writes() -> None:
    path = wheel("microformer-mgm", "0.5.8")
    model, theirs = load_model(path).eval(), transformers.GPT2LMHeadModel.from_pretrained(path).eval()
    prompt = np.array([2, 100, 2000])
    reader, built = DecodingSession(model, 9669, 1, 64), []
    token = reader.read([prompt]).argmax(dim=1)
    for _ in range(32):
        built.append(int(token))
        token = reader.feed(token).argmax(dim=1)
    options = {"max_new_tokens": 32, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ids = torch.from_numpy(prompt)[None]
    assert theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, 3:].tolist() == built


def test_a_real_llama_reads_as_transformers_does(stories: Path) -> None:
    path = stories / "hf"
    model = load_model(path)
    assert not model.loaded.unexpected  # type: ignore[union-attr]
    parity.assert_parity(model, transformers.LlamaForCausalLM.from_pretrained(path))


def test_a_real_llama_tells_its_golden_story(stories: Path) -> None:
    model = load_model(stories / "hf").eval()
    golden = (stories / "golden-greedy.txt").read_bytes().rstrip(b"\n")
    pieces = _pieces(stories / "tok512.bin")
    start = 1
    reader = DecodingSession(model, len(pieces), 1, 512)
    token = reader.read([np.array([start])]).argmax(dim=1)
    messages = b""
    while len(messages) <= len(golden) and int(token) != start:
        piece = pieces[int(token)]
        messages += piece.lstrip(b" ") if not messages else piece
        token = reader.feed(token).argmax(dim=1)
    assert messages[: len(golden)] == golden
    assert len(golden) > 400


def _pieces(path: Path) -> list[bytes]:
    """Pieces of llama2.c's tokenizer file: after a number, a score, a length and as many bytes for each."""
    raw, place, out = path.read_bytes(), 4, []
    while place < len(raw):
        (size,) = struct.unpack_from("<i", raw, place + 4)
        piece = raw[place + 8 : place + 8 + size]
        byte = re.fullmatch(rb"<0x([0-9A-F]{2})>", piece)
        out.append(bytes([int(byte[1], 16)]) if byte else piece)
        place += 8 + size
    return out
