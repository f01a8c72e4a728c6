"""The header of a GGUF file is walked first: what it claims is compared with the file and with bounds."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretune.errors import DataError
from pretune.text.tokenizer import gguf_check
from pretune.text.tokenizer.gguf import open_gguf, read_metadata
from pretune.text.tokenizer.gguf_check import check_gguf

gguf = pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def entry(code: int, value: bytes) -> bytes:
    return text(b"key") + struct.pack("<I", code) + value


def header(fields: int = 0, tensors: int = 0, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + body


def listed(code: int, length: int, values: bytes = b"") -> bytes:
    return entry(9, struct.pack("<IQ", code, length) + values)


def tensor(*sizes: int) -> bytes:
    return text(b"t") + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, 0)


@pytest.mark.parametrize("endian", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_files_of_the_package_pass(endian: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=endian)
    writer.add_token_list(["a", "b", "é"])
    writer.add_token_scores([0.0, -1.0, -2.0])
    writer.add_bool("flag", True)
    writer.add_uint64("count", 5)
    writer.add_tensor("t", np.zeros((4, 32), np.float32))
    writer.add_tensor("q", gguf.quantize(np.zeros((4, 256), np.float32), gguf.GGMLQuantizationType.Q4_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q4_0)  # fmt: skip
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    check_gguf(path)
    assert read_metadata(path, open_gguf(path))["tokenizer.ggml.tokens"] == ["a", "b", "é"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GGUF", "a number is to have 4 bytes"),
        (header(tensors=100_001), "100,001 tensors and 0 fields"),
        (header(fields=(1 << 16) + 1), "0 tensors and 65,537 fields"),
        (header(1, body=text(b"")), "a number is to have 4 bytes"),
        (header(1, body=struct.pack("<Q", 1 << 40)), "a name of 1,099,511,627,776 bytes"),
        (header(1, body=entry(8, struct.pack("<Q", (4 << 20) + 1))), "a text of 4,194,305 bytes, more than 4,194,304"),
        (header(1, body=entry(8, struct.pack("<Q", 100))), "a text is to have 100 bytes, and the file has"),
        (header(1, body=entry(13, b"")), "a value of type 13"),
        (header(1, body=listed(9, 1)), "a list of values of type 9"),
        (header(1, body=listed(4, 1 << 50)), "lists of 1,125,899,906,842,624 values"),
        (header(1, body=listed(4, 1000)), "a list is to have 4,000 bytes"),
        (header(1, body=listed(8, 2, text(b"a"))), "a number is to have 8 bytes"),
        (header(0, 1, tensor(*[1] * 9)), "a tensor of 9 dimensions"),
        (header(0, 1, tensor(1 << 62, 4)), "a tensor of 4611686018427387904 x 4 weights"),
        (header(0, 1, tensor(10_000, 10)), "a tensor of 10000 x 10 weights, and the file has"),
        (header(0, 1, tensor(1 << 62, 0)), "a tensor of"),
    ],
)
def test_claims_beyond_the_file(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"m\.gguf: a damaged GGUF file: {reason}"):
        open_gguf(path)


def test_the_number_of_elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(header(2, body=listed(0, 3, b"abc") + listed(8, 2, text(b"a") + text(b"b"))))
    monkeypatch.setattr(gguf_check, "MAX_ELEMENTS", 5)
    check_gguf(path)
    monkeypatch.setattr(gguf_check, "MAX_ELEMENTS", 4)
    with pytest.raises(DataError, match="lists of 5 values, more than 4"):
        check_gguf(path)
