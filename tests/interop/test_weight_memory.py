"""Reading weights takes their memory once; what is read depends on the file no longer."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tinymodels import byte_tokenizer, save_gpt2

from pretune.errors import DataError
from pretune.interop.huggingface import load_model
from pretune.interop.weights import Weights, write_safetensors

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@LINUX
def test_pages_that_were_copied_are_given_back(tmp_path: Path) -> None:
    """Reading a model takes the memory of its weights once, beside a tensor."""

    def resident() -> int:
        fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["RssFile"].split()[0]) >> 10

    write_safetensors(tmp_path / "model.safetensors", {"a": torch.ones(4 << 20), "b": torch.full((4 << 20,), 2.0)})
    weights, begin = Weights(tmp_path), resident()
    tensors = {name: weights.read(name) for name in ("a", "b")}
    assert [float(tensor.mean()) for tensor in tensors.values()] == [1.0, 2.0]
    assert resident() - begin >= 30
    for name in tensors:
        weights.release(name)
    assert resident() - begin <= 2
    assert [float(tensor.mean()) for tensor in tensors.values()] == [1.0, 2.0]


def test_a_file_that_is_written_over_changes_no_model(tmp_path: Path) -> None:
    """As other programs save: pages of a file that gets shorter would end the process."""
    save_gpt2(tmp_path, byte_tokenizer())
    path, model = tmp_path / "model.safetensors", load_model(tmp_path)
    before = [parameter.clone() for parameter in model.parameters()]
    path.write_bytes(b"")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


def test_a_weight_that_is_no_number_is_refused_with_its_file_and_a_remedy(tmp_path: Path) -> None:
    save_gpt2(tmp_path, byte_tokenizer())
    tensors = {name: tensor.clone() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    tensors["transformer.ln_f.weight"][3] = torch.nan
    write_safetensors(tmp_path / "model.safetensors", tensors)
    wanted = (
        rf"^{re.escape(str(tmp_path))}: weight 'transformer.ln_f.weight' holds NaN or infinity \(as float32\); .*copy"
    )
    with pytest.raises(DataError, match=wanted):
        load_model(tmp_path)
