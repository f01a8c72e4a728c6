"""Products in C against sums in fp64, for every format and every instruction set that the processor has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretune import native
from pretune.errors import DataError, UsageError
from pretune.native.program import Format, Matrix
from pretune.nn.formats.format import find_format
from pretune.nn.formats.rounded_matmul import round_inputs
from tests.native.conftest import random_matrix

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled: make native")
FORMATS: tuple[Format, ...] = ("fp32", "bf16", "int8", "q8_0", "q4_0")
VARIANTS = [name for name, supported in native.variants().items() if supported] if native.available() else []
BOUND = 4e-7
"""Of a sum of up to 800 products, over the sum of their magnitudes: 3.4 units of fp32, where the order is one."""


def read_by(format: Format, x: Tensor, rounded: bool, seven_bits: bool = False) -> Tensor:
    """What a product reads."""
    if not rounded or format == "fp32":
        return x
    return x.bfloat16().float() if format == "bf16" else round_inputs(x, "int7" if seven_bits else "int8")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("rounded", "seven_bits"), [(True, False), (True, True), (False, False)])
def test_sums_are_those_of_fp64(
    format: Format, variant: str, rounded: bool, seven_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETUNE_ISA", variant)
    native.reload()
    assert native.isa() == variant
    shapes = [(100, 96), (33, 64), (96, 768)] + ([(50, 77), (1, 1)] if format in ("fp32", "bf16", "int8") else [])
    for out, in_ in shapes:
        matrix, dense = random_matrix(format, out, in_)
        bias, x = torch.randn(out), torch.randn(29, in_)
        x[3] = 0
        product = native.PackedProduct(matrix, bias, rounded=rounded, seven_bits=seven_bits)
        assert torch.equal(product.matrix.dense(), dense)
        read = read_by(format, x, rounded, seven_bits).double()
        exact = read @ dense.double().T + bias
        scale = read.abs() @ dense.double().abs().T + bias.abs()
        assert ((product(x) - exact).abs() / scale).max() < BOUND


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_has_the_same_bits_whatever_stands_beside_it(
    format: Format, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETUNE_ISA", variant)
    native.reload()
    matrix, _ = random_matrix(format, 72, 96)
    x = torch.randn(300, 96)
    for rounded, seven_bits in ((True, False), (True, True), (False, False)):
        product = native.PackedProduct(matrix, torch.randn(72), "gelu", rounded=rounded, seven_bits=seven_bits)
        together = product(x)
        for rows in range(1, 41):
            assert torch.equal(product(x[40 - rows : 40]), together[40 - rows : 40])
        native.set_threads(2)
        assert torch.equal(product(x), together)
        assert torch.equal(product(x[:1]), together[:1])
        native.set_threads(1)


def test_activations_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = Matrix("fp32", {"values": torch.eye(64)}, 64, 64)
    x = torch.cat([torch.linspace(-12, 12, 6400), torch.tensor([0.0, -100.0, 100.0, 1e-6] * 16)]).view(-1, 64)
    for name, exact in {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
        "silu": F.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "quick_gelu": lambda v: v * torch.sigmoid(1.702 * v),
        "relu_squared": lambda v: F.relu(v).square(),
    }.items():
        for variant in VARIANTS:
            monkeypatch.setenv("PRETUNE_ISA", variant)
            native.reload()
            y = native.PackedProduct(matrix, None, name)(x)  # type: ignore[arg-type]
            assert (y - exact(x.double())).abs().max() < 2e-6 * (1 + exact(x.double()).abs().max() / 10), (
                name,
                variant,
            )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_not_a_number_stays_so_in_its_row_alone(
    format: Format, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETUNE_ISA", variant)
    native.reload()
    matrix, _ = random_matrix(format, 40, 224)
    x = torch.randn(5, 224)
    product = native.PackedProduct(matrix)
    clean = product(x)
    for value in (float("nan"), float("inf"), float("-inf")):
        for column in (7, 100, 130, 223):  # groups are rounded by four, and the last ones alone
            spoilt = x.clone()
            spoilt[2, column] = value
            y = product(spoilt)
            assert not y[2].isfinite().any()
            assert torch.equal(y[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_instruction_set_rounds_activations_alike(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of zeros, of numbers too small to divide by, of halves between two whole numbers: to the bit."""
    x = torch.randn(7, 224) * torch.logspace(-30, 30, 7)[:, None]
    x[0], x[1, 32:96], x[2] = 0, 1e-39, torch.arange(-112, 112) + 0.5
    x[2, ::32] = 127
    monkeypatch.setenv("PRETUNE_ISA", variant)
    native.reload()
    matrix = Matrix("int8", {"values": torch.eye(224, dtype=torch.int8), "scale": torch.ones(224)}, 224, 224)
    assert torch.equal(native.PackedProduct(matrix)(x), round_inputs(x, "int8"))


def test_extreme_bytes_do_not_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers at their ends and at random, some so that 16 bits hold few sums: exact as in 64 bits."""
    torch.manual_seed(0)
    rows = [torch.tensor(each * 16) for each in ([-128, 127, -128, 127], [-128] * 4, [127] * 4, [0, -128, 1, 127])]
    rows += [torch.randint(-128, 128, (64,)), torch.randint(-20, 21, (64,)), *torch.randint(-70, 71, (26, 64))]
    values = torch.stack(rows).to(torch.int8)
    matrix = Matrix("int8", {"values": values, "scale": torch.ones(32)}, 32, 64)
    for variant in VARIANTS:
        monkeypatch.setenv("PRETUNE_ISA", variant)
        native.reload()
        for highest in (127, 63):
            x = torch.randint(-highest, highest + 1, (20, 64))
            x[0], x[1], x[2] = highest, -highest, torch.tensor([-highest, highest] * 32)
            x[:, ::32] = highest  # so that every scale is 1
            product = native.PackedProduct(matrix, seven_bits=highest == 63)
            exact = x @ values.long().T
            assert torch.equal(product(x.float()).long(), exact)
            assert torch.equal(product(x[:3].float()).long(), exact[:3])


def test_a_width_that_groups_do_not_divide_is_refused_with_the_remedy() -> None:
    blocks = torch.zeros(4, 34, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"40 inputs are not a multiple of its groups of 32; use int8"):
        native.PackedMatrix(Matrix("q8_0", {"blocks": blocks}, 4, 40))


def test_tensors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(4, 64\) and dtype torch.int8, not \(4, 63\)"):
        native.PackedMatrix(Matrix("int8", {"values": torch.zeros(4, 63), "scale": torch.ones(4)}, 4, 64))
    matrix = Matrix("int8", {"values": torch.zeros(4, 64, dtype=torch.int8), "scale": torch.ones(3)}, 4, 64)
    with pytest.raises(DataError, match=r"as many scales, not shape \(3,\)"):
        native.PackedMatrix(matrix)
    with pytest.raises(UsageError, match="the kernels know no format 'q5_1'"):
        native.PackedMatrix(Matrix("q5_1", {}, 4, 64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows of 3 values, a matrix of 64"):
        native.PackedProduct(random_matrix("bf16", 8, 64)[0])(torch.zeros(2, 3))


def test_a_scale_that_is_not_finite_is_refused() -> None:
    matrix, _ = random_matrix("q4_0", 4, 64)
    matrix.tensors["blocks"][1, :2] = torch.tensor([float("nan")]).half().view(torch.uint8)
    with pytest.raises(DataError, match="q4_0: a scale is not a finite number"):
        native.PackedMatrix(matrix)


def test_packed_weights_are_as_large_as_their_tensors() -> None:
    for format in FORMATS:
        matrix, _ = random_matrix(format, 64, 128)
        assert native.PackedMatrix(matrix).nbytes == sum(t.nbytes for t in matrix.tensors.values())


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "q8_0", "q4_0"])
def test_rows_that_are_apart_are_packed_as_one_matrix(name: str) -> None:
    """Query, key and value are no third copy of the weights before they are packed."""
    weight = torch.randn(96 + 40, 64)
    pack = (lambda rows: {"values": rows}) if name == "fp32" else find_format(name).pack
    parts = [pack(rows) for rows in (weight[:96], weight[96:])]
    apart = Matrix(name, parts[0], 136, 64, (parts[1],))  # type: ignore[arg-type]
    joined = Matrix(name, {key: torch.cat([part[key] for part in parts]) for key in parts[0]}, 136, 64)  # type: ignore[arg-type]
    assert apart.nbytes == joined.nbytes == sum(tensor.nbytes for part in parts for tensor in part.values())
    assert {key: tensor.shape for key, tensor in apart.whole().items()} == {
        key: tensor.shape for key, tensor in joined.tensors.items()
    }
    assert torch.equal(native.PackedMatrix(apart).dense(), native.PackedMatrix(joined).dense())
