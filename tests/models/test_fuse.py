"""The derived form gives what the model gives, and stands back where it does not know a brick."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer
from torch import nn

from pretune import native
from pretune.batch import OutputRows, ragged
from pretune.compress.method import CompressContext
from pretune.compress.quantize import Config, apply
from pretune.draw import Draw
from pretune.generate.native_steps import bytes_to_pack
from pretune.generate.session import DecodingSession
from pretune.interop.huggingface import load_model
from pretune.models.fuse import FusedBlock, fuse
from pretune.models.model import LanguageModel
from pretune.nn.cast import cast_to_bf16
from pretune.nn.packed import bytes_to_pack as product_bytes
from pretune.nn.packed import packable
from pretune.nn.projection import Projection
from pretune.runtime.device import inference_context, is_bf16

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(folder, TOKENIZER)
    return load_model(folder).eval()


def logits_of(model: LanguageModel, sequences: int) -> torch.Tensor:
    reader = DecodingSession(model, TOKENIZER.vocabulary.size, sequences, 30)
    rng = np.random.default_rng(0)
    out = [reader.read([rng.integers(1, 200, size=2 + n % 5) for n in range(sequences)])]
    out += [reader.feed(torch.from_numpy(rng.integers(1, 200, size=sequences))) for _ in range(3)]
    return torch.stack(out)


@pytest.mark.parametrize("sequences", [1, 5, 20])
def test_same_logits(model: LanguageModel, sequences: int) -> None:
    actual, wanted = logits_of(fuse(model), sequences), logits_of(model, sequences)
    assert float((actual - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("sequences", [1, 5])
def test_bf16_is_as_near_as_autocast(model: LanguageModel, sequences: int) -> None:
    half = copy.deepcopy(model)
    cast_to_bf16(half)
    assert is_bf16(half)
    exact, plain, fused = (logits_of(m, sequences) for m in (model, half, fuse(half)))
    assert (fused - exact).abs().mean() < 1.5 * (plain - exact).abs().mean()
    assert not torch.equal(fused, exact)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_an_encoder_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, half: bool, activation: str
) -> None:
    if not packed:  # as on a processor without AVX-512
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    save_bert(tmp_path, word_tokenizer())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": activation}))
    exact = load_model(tmp_path).eval()
    plain = copy.deepcopy(exact)
    if half:
        cast_to_bf16(plain)
    fused = fuse(plain)
    assert all(type(block) is FusedBlock for block in fused.stack.blocks)
    rng = np.random.default_rng(0)
    batch = ragged([rng.integers(5, exact.vocab_size, size=n) for n in (40, 7, 7, 1, 22)])
    some = replace(batch, output_rows=OutputRows.of(np.array([0, 41, 76]), batch.layout))
    for given in (batch, some):
        outputs = []
        for model, bf16 in ((exact, False), (plain, half), (fused, half)):
            with inference_context(torch.device("cpu"), bf16):
                outputs.append(model(given).last_hidden_state)
        wanted, old, new = outputs
        assert new.shape == wanted.shape
        assert new.dtype == torch.float32
        if half:
            assert (new - wanted).abs().mean() < 1.5 * (old - wanted).abs().mean()
        else:
            assert (new - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("packed", [True, False])
def test_the_bytes_that_torch_packs_are_counted(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """All matrices where oneDNN lays them out; else those of query, key and value, which become one."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512" if packed else "AVX2")
    monkeypatch.setattr(native, "available", lambda: False)
    derived = fuse(model)
    blocks = model.stack.blocks
    every = [p for block in blocks for p in block.parameters() if p.dim() == 2]
    joined = [getattr(block.attention, name).weight for block in blocks for name in ("query", "key", "value")]
    counted = [*every, model.heads["clm"].weight] if packed else joined
    head = derived.heads["clm"]
    assert bytes_to_pack(derived, head, 300) == sum(p.nbytes for p in counted)
    assert bytes_to_pack(model, model.heads["clm"], 300) == 0
    logits_of(derived, 1)
    assert bytes_to_pack(derived, head, 300) == 0


@pytest.mark.parametrize("name", ["int8", "q8_0", "q4_0", "bf16"])
def test_the_copies_of_rounded_weights_are_counted(model: LanguageModel, name: str) -> None:
    rounded = apply(copy.deepcopy(model), Config(format=name), CompressContext(TOKENIZER, Draw(0)))
    derived = fuse(rounded.eval())
    expected = 0
    for product in derived.products:
        held = sum(tensor.nbytes for tensor in product.tensors.values())
        values = product.dense(product.tensors).numel()
        has_own = name == "q4_0" and held == values // 32 * 18  # its vocabulary is in q8_0
        if native.available():  # in panels
            expected += held
        elif packable(torch.empty(0, dtype=torch.bfloat16)) and name != "int8":  # torch's own, or in bf16
            expected += held if has_own else 2 * values
    assert sum(map(product_bytes, derived.products)) == expected
    rows = torch.ones(3, model.width, dtype=torch.bfloat16)
    for product in derived.products:
        if product.dense({key: each[:1] for key, each in product.tensors.items()}).shape[1] == model.width:
            product(rows)
            assert product_bytes(product) == 0


def test_halve_keeps_ties_norms_and_positions(model: LanguageModel) -> None:
    half = copy.deepcopy(model)
    cast_to_bf16(half)
    assert half.heads["clm"].weight is half.embedding.word.weight
    assert half.embedding.word.weight.dtype == torch.bfloat16
    block = half.stack.blocks[0]
    assert block.attention.query.bias.dtype == torch.bfloat16
    assert {p.dtype for p in [*block.norms.parameters(), half.embedding.position.weight]} == {torch.float32}
    layout = torch.arange(5)
    with inference_context(torch.device("cpu"), True):
        assert half(ragged([layout.tolist()])).last_hidden_state.dtype == torch.float32


def test_replaced_bricks_are_left_alone(model: LanguageModel) -> None:
    class Doubled(Projection):
        def forward(self, x: torch.Tensor, layout: object = None) -> torch.Tensor:
            return 2 * super().forward(x)

    changed = copy.deepcopy(model)
    first = changed.stack.blocks[0].attention
    new = Doubled(first.value.in_features, first.value.out_features)
    new.load_state_dict(first.value.state_dict())
    first.value = new
    fused = fuse(changed)
    assert [type(block) is FusedBlock for block in fused.stack.blocks] == [False, True]
    assert torch.allclose(logits_of(fused, 2), logits_of(changed, 2), atol=1e-5)
    assert not torch.allclose(logits_of(fused, 2), logits_of(model, 2), atol=1e-2)


def test_the_original_is_not_changed(model: LanguageModel) -> None:
    before = {name: type(module) for name, module in model.named_modules()}
    fused = fuse(model)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert fused.embedding is model.embedding
    assert isinstance(fused.stack.blocks[0], nn.Module)
