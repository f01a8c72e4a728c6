"""Formats of weights: llama.cpp's blocks bit for bit, errors within half a step, matmuls as those of the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretune import native
from pretune.errors import UsageError
from pretune.find import variants
from pretune.nn.formats.format import (
    dense_blocks,
    empty,
    find_format,
    format_name,
    join,
    outlier,
    pack,
    problem,
    take,
)
from pretune.nn.formats.kernels import round_inputs
from pretune.nn.formats.levels import LevelFormat
from pretune.nn.formats.rounded_matmul import rounded_matmul
from pretune.nn.packed import packable

ALL = ["bf16", "int8", "q4_0", "q8_0"]
LLAMA = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}


def matrix(rows: int = 40, width: int = 96, seed: int = 0) -> Tensor:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.05
    weight[3] = 0.0  # a row, and so groups, of zeros
    weight[5, 20] = 7.0  # an outlier
    return weight


def test_the_formats_of_the_tree_are_these() -> None:
    assert variants("formats", "pretune.nn") == ALL


@pytest.mark.parametrize("name", LLAMA)
def test_blocks_are_those_of_llama_cpp_bit_for_bit(name: str) -> None:
    weights = [matrix(), matrix(7, 32, 1), torch.arange(-64, 64).view(2, 64) / 8.0, torch.full((2, 32), 1e-9)]
    for weight in weights:
        blocks = pack(find_format(name), weight)["blocks"]
        expected = gguf.quants.quantize(weight.numpy(), LLAMA[name])
        assert np.array_equal(blocks.numpy(), expected)
        values = gguf.quants.dequantize(expected, LLAMA[name])
        assert np.array_equal(find_format(name).dense({"blocks": blocks}).numpy(), values)


@pytest.mark.parametrize("name", ALL)
def test_each_value_is_within_half_a_step(name: str) -> None:
    format, weight = find_format(name), matrix()
    error = (format.dense(pack(format, weight)) - weight).abs()
    if name == "bf16":
        assert bool((error <= weight.abs() * 2**-8).all())
        return
    assert isinstance(format, LevelFormat)
    step = format.scales(weight).abs()[..., None]
    grouped = error.view(*step.shape[:2], -1)
    if name == "q4_0":  # the end without a level of its own may be off by a whole step
        assert bool((grouped <= 1.01 * step).all())
        assert bool((grouped.mean(2) <= 0.5 * step[..., 0] + 1e-12).all())
    else:
        assert bool((grouped <= 0.51 * step + weight.abs().view_as(grouped) * 2**-10).all())


@pytest.mark.parametrize("name", [n for n in ALL if n != "bf16"])
def test_levels_can_be_taken_apart_and_stored_again(name: str) -> None:
    format = find_format(name)
    assert isinstance(format, LevelFormat)
    packed = pack(format, matrix())
    levels, scales = format.levels(packed)
    assert levels.dtype == torch.int8
    assert int(levels.min()) >= format.LOWEST
    assert int(levels.max()) <= format.HIGHEST
    again = format.assemble(levels, scales)
    assert all(torch.equal(again[key], packed[key]) for key in packed)
    assert torch.equal(format.scales(matrix()), scales)


@pytest.mark.parametrize("name", ALL)
def test_rows_can_be_taken_and_joined_while_packed(name: str) -> None:
    format, weight = find_format(name), matrix(1030, 64)
    packed = pack(format, weight)
    assert {key: (t.shape, t.dtype) for key, t in empty(format, 1030, 64).items()} == {
        key: (t.shape, t.dtype) for key, t in packed.items()
    }
    ids = torch.tensor([4, 0, 1029])
    assert torch.equal(format.dense(take(packed, ids)), format.dense(packed)[ids])
    both = join([take(packed, slice(0, 5)), take(packed, slice(5, None))])
    assert all(torch.equal(both[key], packed[key]) for key in packed)
    whole = torch.cat([rows for _, rows in dense_blocks(format, packed, 100)])
    assert torch.equal(whole, format.dense(packed))


@pytest.mark.parametrize("name", ALL)
def test_matmuls_are_those_of_the_values(name: str) -> None:
    format, weight = find_format(name), matrix(1500, 64)  # more rows than are dequantised at once
    packed, x, bias = pack(format, weight), torch.randn(5, 64, requires_grad=True), torch.randn(1500)
    values = format.dense(packed)
    y = rounded_matmul(x, format.dense, packed)
    torch.testing.assert_close(y, x @ values.T)
    grad = torch.randn(5, 1500)
    (gradient,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(gradient, grad @ values)
    for rows in (1, 5, 40):
        x = torch.randn(rows, 64)
        product = format.product(packed, bias, torch.relu)
        torch.testing.assert_close(product(x), torch.relu(x @ values.T + bias), atol=2e-2, rtol=2e-2)


def test_nothing_as_large_as_the_matrix_is_kept_for_the_backward() -> None:
    format = find_format("int8")
    x = torch.randn(3, 64, requires_grad=True)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        rounded_matmul(x, format.dense, pack(format, matrix(512, 64)))
    assert sum(saved) < 512 * 64


def test_inputs_are_rounded_by_groups_of_their_own() -> None:
    x = torch.randn(4, 70)
    x[1, 3] = 1000.0
    rounded = round_inputs(x)
    error = (rounded - x).abs()
    assert float(error[1, :32].max()) > 1.0  # the neighbours of an outlier suffer
    assert float(error[1, 32:].max()) < 0.03
    assert float(error[[0, 2, 3]].max()) < 0.03
    assert torch.equal(round_inputs(x[2:3]), rounded[2:3])  # whatever stands beside it
    assert not round_inputs(torch.full((1, 32), 1e-39)).any()  # not infinite


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("q8_0", lambda w: w[:, :33], "no multiple of the 32"),
        ("q4_0", lambda w: w.index_put((torch.tensor(2), torch.tensor(9)), torch.tensor(float("nan"))), "nan at row 2"),
        ("int8", lambda w: w.index_put((torch.tensor(1), torch.tensor(0)), torch.tensor(float("inf"))), "inf at row 1"),
        ("q8_0", lambda w: w * 1e9, "infinite in fp16; use int8"),
        ("q4_0", lambda w: w * 1e9, "infinite in fp16; use int8"),
    ],
)
def test_what_cannot_be_packed_is_said_with_a_remedy(name: str, change: object, expected: str) -> None:
    assert callable(change)
    assert expected in str(problem(find_format(name), change(matrix())))


def test_what_can_be_packed_has_no_problem() -> None:
    for name in ALL:
        assert problem(find_format(name), matrix()) is None
    assert problem(find_format("int8"), matrix() * 1e9) is None
    assert problem(find_format("int8"), matrix()[:, :33]) is None


def test_an_outlier_is_said_with_its_place() -> None:
    weight = torch.randn(200, 100) * 0.01
    assert outlier(weight) is None
    weight[150, 99] = -5.0
    assert str(outlier(weight)).startswith("-5 at row 150, column 99")
    assert outlier(torch.zeros(3, 3)) is None


OWN = """
import torch
from pretune.nn.formats.rounded_matmul import derived_product
NAME, BITS, GROUP = "half", 16.0, 1
def pack(weight): return {"bits": weight.half()}
def dense(tensors): return tensors["bits"].float()
def product(tensors, bias, activation=None, inputs="exact"):
    return derived_product(dense, tensors, bias, activation, inputs)
"""


def test_a_format_of_ones_own_is_found_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(OWN)
    format = find_format(str(tmp_path / "half.py"))
    packed = pack(format, matrix())
    torch.testing.assert_close(format.dense(packed), matrix(), atol=1e-2, rtol=1e-3)
    assert format_name(format) == str(tmp_path / "half.py")
    assert format_name(find_format("q4_0")) == "q4_0"


def test_a_file_that_is_no_format_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("NAME = 'mine'")
    with pytest.raises(UsageError, match="has no BITS and no GROUP and no pack and no dense and no product; its"):
        find_format(str(tmp_path / "mine.py"))
    with pytest.raises(UsageError, match="did you mean 'q8_0'"):
        find_format("q8")


@pytest.fixture(params=[True, False], ids=["native", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With our kernels, where they were built, and without them."""
    if request.param and not native.available():
        pytest.skip("no kernels were built here")
    if not request.param:
        monkeypatch.setattr(native, "available", lambda: False)
    return bool(request.param)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("inputs", ["exact", "int8", "int7"])
def test_products_in_use_are_those_of_the_values_by_any_kernel(name: str, inputs: Any, kernels: bool) -> None:
    torch.manual_seed(0)
    format, weight = find_format(name), matrix(80, 96)
    packed, bias = pack(format, weight), torch.randn(80)
    product = format.product(packed, bias, None, inputs)
    values = format.dense(packed)
    for rows in (0, 1, 3, 70):
        x = torch.randn(rows, 96)
        exact = round_inputs(x, inputs) @ values.T + bias
        if rows:
            assert float((product(x) - exact).abs().max()) < 1e-4
            half = product(x.bfloat16())
            assert half.dtype == torch.bfloat16
            near = 0.08 if inputs != "int7" else 0.16  # bf16 moves a row to another level at times
            assert float(((half.float() - exact).abs() / (1 + exact.abs())).max()) < near
        assert product(x).shape == (rows, 80)
    torch.testing.assert_close(
        format.product(packed, bias, F.gelu, inputs)(x), F.gelu(product(x)), atol=1e-5, rtol=1e-5
    )
    twice = format.product(packed, bias, lambda y: 2 * y, inputs)  # none that the kernels know
    assert torch.equal(twice(x), 2 * product(x))
    if kernels and inputs != "exact":  # the same alone and among others
        assert torch.equal(product(x[5:6]), product(x)[5:6])


def test_few_rows_in_fp32_are_multiplied_as_those_in_bf16_where_matmuls_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary reads rows in fp32; its matrix of a model in bf16 is not dequantised for each token."""
    monkeypatch.setattr(native, "available", lambda: False)
    if not packable(torch.empty(0, dtype=torch.bfloat16)):
        pytest.skip("torch has no fast product in bf16 here")
    format = find_format("q8_0")
    product, x = format.product(pack(format, matrix(80, 96)), None, None, "exact"), torch.randn(2, 96)
    expected = product(x.bfloat16())
    monkeypatch.setattr("pretune.nn.formats.rounded_matmul.rounded_matmul", None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(product(x), expected)
    with pytest.raises(TypeError):
        product(x)  # the control
