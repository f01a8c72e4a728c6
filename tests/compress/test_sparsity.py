"""Zeros of single weights: against the formulas of the papers and a slow exact reference; and through the model."""

from __future__ import annotations

import itertools
from pathlib import Path

import parity
import pytest
import torch
from torch import Tensor

from pretune.batch import ragged
from pretune.compress import prune
from pretune.compress.calibration import Calibration
from pretune.compress.method import CompressContext
from pretune.compress.pruning.weights import find_sparsity
from pretune.compress.sparsity import magnitude, sparsegpt, wanda
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.projection import named_projections
from pretune.tune.method import find_method

METHODS = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt}


def drawn(rows: int = 6, columns: int = 12, samples: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix, inputs whose columns are correlated and of unlike size, and their moments."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(samples, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    inputs = inputs * torch.linspace(0.2, 3.0, columns)
    return weight, inputs, inputs.T @ inputs / samples


def wrong(weight: Tensor, other: Tensor, inputs: Tensor) -> float:
    return float((inputs @ (weight - other).T).square().sum())


def test_wanda_is_its_formula() -> None:
    """Of each row, the weights with the smallest |w| times norm of the input; one after another."""
    weight, inputs, moments = drawn()
    sparse = wanda.sparsify(weight, moments, 0.5, (0, 0))
    for row in range(len(weight)):
        scores = [float(weight[row, n].abs() * inputs[:, n].norm()) for n in range(weight.shape[1])]
        smallest = sorted(range(len(scores)), key=lambda n, scores=scores: scores[n])[: len(scores) // 2]
        expected = [0.0 if n in smallest else float(weight[row, n]) for n in range(len(scores))]
        assert sparse[row].tolist() == expected


def test_magnitude_is_its_formula() -> None:
    weight, _, _ = drawn()
    sparse = magnitude.sparsify(weight, None, 0.25, (0, 0))
    threshold = weight.abs().flatten().sort().values[18]
    assert torch.equal(sparse, torch.where(weight.abs() < threshold, 0.0, weight))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("group", [(2, 4), (1, 3)])
def test_zeros_in_groups(name: str, group: tuple[int, int]) -> None:
    weight, _, moments = drawn()
    sparse = METHODS[name].sparsify(weight, moments, 0.5, group)
    zeros = (sparse == 0).view(len(weight), -1, group[1]).sum(-1)
    assert bool((zeros == group[0]).all())


def slow_sparsegpt(weight: Tensor, moments: Tensor, rate: float, block: int) -> Tensor:
    """Column after column by the exact inverse of what is left, in fp64 and without any factorisation."""
    weight = weight.double().clone()
    hessian = moments.double() + 0.01 * moments.double().diagonal().mean() * torch.eye(len(moments))
    for n in range(weight.shape[1]):
        inverse = torch.linalg.inv(hessian[n:, n:])
        if n % block == 0:
            columns = range(n, min(n + block, weight.shape[1]))
            costs = torch.stack([torch.linalg.inv(hessian[c:, c:])[0, 0] for c in columns])
            scores = weight[:, list(columns)].square() / costs
            zero = scores <= scores.flatten().sort().values[round(scores.numel() * rate) - 1]
        for row in range(len(weight)):
            if zero[row, n % block]:
                weight[row, n:] -= weight[row, n] / inverse[0, 0] * inverse[0]
                weight[row, n] = 0.0
    return weight.float()


@pytest.mark.parametrize("block", [4, 5, 128])
def test_sparsegpt_is_the_exact_one(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what is wrong in one block of columns is corrected in the next."""
    monkeypatch.setattr(sparsegpt, "_BLOCK", block)
    weight, _, moments = drawn()
    sparse = sparsegpt.sparsify(weight, moments, 0.5, (0, 0))
    assert torch.allclose(sparse, slow_sparsegpt(weight, moments, 0.5, block), atol=1e-4)
    assert float((sparse == 0).float().mean()) == 0.5


def test_sparsegpt_is_near_the_best_of_all() -> None:
    """Of one row of six, every choice of three zeros with the best other values, by least squares."""
    weight, inputs, moments = drawn(1, 6)
    target, best = inputs @ weight.T, float("inf")
    for kept in itertools.combinations(range(6), 3):
        columns = inputs[:, list(kept)]
        solution = torch.linalg.lstsq(columns, target).solution
        best = min(best, float((columns @ solution - target).square().sum()))
    error = wrong(weight, sparsegpt.sparsify(weight, moments, 0.5, (0, 0)), inputs)
    assert best * 0.99 <= error <= 4 * best
    assert error < wrong(weight, magnitude.sparsify(weight, None, 0.5, (0, 0)), inputs)


def test_the_order_of_the_papers() -> None:
    """On correlated inputs, SparseGPT errs less than Wanda, and Wanda less than magnitude."""
    weight, inputs, moments = drawn(32, 48, 400)
    errors = [wrong(weight, METHODS[name].sparsify(weight, moments, 0.5, (0, 0)), inputs) for name in METHODS]
    assert errors[2] < errors[1] < errors[0]


def test_inputs_that_are_always_zero() -> None:
    weight, inputs, _ = drawn()
    inputs[:, 3] = 0.0
    moments = inputs.T @ inputs / len(inputs)
    sparse = sparsegpt.sparsify(weight, moments, 0.5, (0, 0))
    assert bool(sparse.isfinite().all())
    assert not sparse[:, 3].any()


def model_and_context(tokens: int = 50) -> tuple[LanguageModel, CompressContext]:
    model = build("bert", "tiny", ["mlm"], {"vocab_size": tokens, "hidden_size": 32, "intermediate_size": 64})
    parity.randomise(model)
    batches = tuple(ragged(parity.sequences(tokens, (9, 12))) for _ in range(2))
    calibration = Calibration(batches, None, "texts", 4, 42, 4)
    return model.eval(), CompressContext(None, Draw(0), calibration)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_every_projection_of_the_layers(name: str) -> None:
    model, context = model_and_context()
    head = model.heads["mlm"].transform.dense.weight.clone()  # type: ignore[union-attr]
    prune.apply(model, prune.Config(sparsity=name, rate=0.5), context)
    for path, brick in named_projections(model):
        if path.startswith("stack."):
            assert float((brick.dense()[0] == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
            assert context.facts[path]["zeros"] == pytest.approx(0.5, abs=0.02)
            assert name == "magnitude" or 0 < float(context.facts[path]["error"]) < 1
    assert torch.equal(model.heads["mlm"].transform.dense.weight, head)  # type: ignore[union-attr]
    note = context.notes[-1]
    assert "no faster" in note
    assert "as large as before: compressed (zstd)" in note


def test_later_layers_see_the_zeros_before_them() -> None:
    """The error of a later projection is that on the inputs which the pruned ones before it give."""
    model, context = model_and_context()
    before = {path: brick.dense()[0].detach().clone() for path, brick in named_projections(model)}
    prune.apply(model, prune.Config(sparsity="wanda"), context)
    path, runs = "stack.blocks.1.feedforward.up", []
    brick = model.get_submodule(path)
    handle = brick.register_forward_pre_hook(lambda module, inputs: runs.append(inputs[0]))
    with torch.no_grad():
        for batch in context.get_calibration().batches:
            model(batch)
    handle.remove()
    inputs = torch.cat(runs)
    whole, sparse = inputs @ before[path].T, inputs @ brick.get_parameter("weight").detach().T
    assert context.facts[path]["error"] == pytest.approx(float((whole - sparse).norm() / whole.norm()), rel=1e-3)


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "first_half.py"
    path.write_text(
        "def sparsify(weight, moments, rate, group):\n"
        "    weight = weight.clone()\n    weight[:, : round(weight.shape[1] * rate)] = 0\n    return weight\n"
    )
    model, context = model_and_context()
    prune.apply(model, prune.Config(sparsity=str(path), rate=0.25), context)
    assert not model.stack.blocks[0].attention.query.weight[:, :8].any()  # type: ignore[union-attr,index]
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UsageError, match="has no sparsify; its file must define sparsify"):
        find_sparsity(str(tmp_path / "empty.py"))
    (tmp_path / "broken.py").write_text("def sparsify(weight, moments, rate, group):\n    return weight / 0\n")
    with pytest.raises(DataError, match="gives no finite matrix"):
        prune.apply(model, prune.Config(sparsity=str(tmp_path / "broken.py")), context)


def test_training_keeps_zeros() -> None:
    model, context = model_and_context()
    prune.apply(model, prune.Config(sparsity="magnitude"), context)
    before = {path: brick.dense()[0] == 0 for path, brick in named_projections(model) if path.startswith("stack.")}
    method = find_method("sparse", {})
    method.apply(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    method.after_step(model, 1.0)
    for path, brick in named_projections(model):
        if path.startswith("stack."):
            assert torch.equal(brick.dense()[0] == 0, before[path])
    assert set(method.acted(model) or ()) == set(before)
    with pytest.raises(UsageError, match="no projection of this model has any"):
        method.apply(model_and_context()[0])
