import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.trainer_pt_utils import LabelSmoother

from pretune.loss import cross_entropy
from pretune.nn import cross_entropy as cross_entropy_kernels
from pretune.nn.cross_entropy import linear_cross_entropy, sampled_cross_entropy


def make(k: int, bias: bool, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(k)
    hidden = torch.randn(k, 16).to(dtype).requires_grad_()
    weight = torch.randn(53, 16, requires_grad=True)
    return hidden, weight, torch.randn(53, requires_grad=True) if bias else None, torch.randint(53, (k,))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 10, 1024])
def test_loss_and_gradients_are_those_of_torch(bias: bool, chunk: int) -> None:
    hidden, weight, b, labels = make(10, bias)
    logits = F.linear(hidden, weight, b)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    inputs = [x for x in (hidden, weight, b) if x is not None]
    wanted = torch.autograd.grad(3.0 * expected, inputs)
    total, correct = linear_cross_entropy(hidden, weight, b, labels, chunk)
    torch.testing.assert_close(total, expected)
    assert int(correct) == int((logits.argmax(1) == labels).sum())
    for actual, want in zip(torch.autograd.grad(3.0 * total, inputs), wanted, strict=True):
        torch.testing.assert_close(actual, want, rtol=1e-4, atol=1e-5)


def test_blocks_of_rows_and_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, labels = make(23, True)
    whole = linear_cross_entropy(hidden, weight, bias, labels)
    wanted = torch.autograd.grad(whole[0], [hidden, weight, bias])
    monkeypatch.setattr(cross_entropy_kernels, "_COLUMNS", 16)
    monkeypatch.setattr(cross_entropy_kernels, "_ROWS", {"cpu": 3})
    actual = linear_cross_entropy(hidden, weight, bias, labels, chunk=10)
    torch.testing.assert_close(actual, whole)
    torch.testing.assert_close(torch.autograd.grad(actual[0], [hidden, weight, bias]), wanted)


def test_bf16_is_near_fp32() -> None:
    hidden, weight, bias, labels = make(64, True, torch.bfloat16)
    total, _ = linear_cross_entropy(hidden, weight, bias, labels, 16)
    grads = torch.autograd.grad(total, [hidden, weight, bias])
    h = hidden.detach().float().requires_grad_()
    expected = F.cross_entropy(F.linear(h, weight, bias), labels, reduction="sum")
    assert total.dtype == torch.float32
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32, torch.float32]
    torch.testing.assert_close(total, expected, rtol=1e-2, atol=0.0)
    for actual, want in zip(grads, torch.autograd.grad(expected, [h, weight, bias]), strict=True):
        assert (actual.float() - want).norm() < 0.02 * want.norm()


def test_autocast_computes_products_in_its_dtype() -> None:
    hidden, weight, bias, labels = make(8, True)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = linear_cross_entropy(hidden, weight, bias, labels)
    outside, _ = linear_cross_entropy(hidden.bfloat16(), weight, bias, labels)
    assert torch.equal(inside, outside)
    assert not torch.equal(inside, linear_cross_entropy(hidden, weight, bias, labels)[0])


@pytest.mark.parametrize("bias", [True, False])
def test_no_rows_give_zero_that_reaches_every_parameter(bias: bool) -> None:
    hidden, weight, b, labels = make(0, bias)
    with torch.no_grad():
        weight[0, 0] = float("inf")
    total, correct = linear_cross_entropy(hidden, weight, b, labels)
    assert float(total.detach()) == 0.0
    assert int(correct) == 0
    for grad in torch.autograd.grad(total, [x for x in (hidden, weight, b) if x is not None]):
        assert not grad.any()


def test_huge_logits_stay_finite() -> None:
    hidden, weight, _, labels = make(4, False)
    total, _ = linear_cross_entropy(hidden * 1e4, weight, None, labels)
    assert torch.isfinite(total)


def test_no_gradient_is_formed_where_none_is_wanted() -> None:
    hidden, weight, bias, labels = make(9, True)
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, bias, labels, 4)
    torch.testing.assert_close(total, linear_cross_entropy(hidden, weight, bias, labels)[0].detach())
    assert not total.requires_grad


def test_class_loss_is_a_sum_in_fp32() -> None:
    logits = torch.randn(5, 3).bfloat16().requires_grad_()
    labels = torch.tensor([0, 1, 2, 2, 1])
    total = cross_entropy(logits, labels)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, 5 * F.cross_entropy(logits.float(), labels))
    empty = cross_entropy(logits[:0], labels[:0])
    assert float(empty.detach()) == 0.0
    assert not torch.autograd.grad(empty, logits)[0].any()


def test_rows_without_a_label_count_for_nothing() -> None:
    torch.manual_seed(0)
    rows, weight, bias = torch.randn(7, 8), torch.randn(30, 8), torch.randn(30)
    labels = torch.randint(30, (5,))
    actual, grads = [], []
    for given in (rows[:5], rows):
        leaves = [part.clone().requires_grad_() for part in (given, weight, bias)]
        total, correct = linear_cross_entropy(leaves[0], leaves[1], leaves[2], labels, chunk=3)
        actual.append((total.detach(), correct))
        grads.append(torch.autograd.grad(total, leaves))
    torch.testing.assert_close(actual[0], actual[1])
    torch.testing.assert_close(grads[0][0], grads[1][0][:5])
    assert not grads[1][0][5:].any()
    torch.testing.assert_close(grads[0][1:], grads[1][1:])


@pytest.mark.parametrize("count", [0, 1, 70])
def test_sampled_cross_entropy_is_the_same_loss_with_tokens(count: int) -> None:
    """Against the probabilities of all logits at once, and the same gradients."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(count, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    bias, labels, drawn = torch.randn(50), torch.randint(50, (count,)), torch.rand(count, dtype=torch.float64)
    plain, right = linear_cross_entropy(hidden, weight, bias, labels, chunk=16)
    grads = torch.autograd.grad(plain, [hidden, weight])
    loss, correct, built = sampled_cross_entropy(hidden, weight, bias, labels, drawn, chunk=16)
    assert torch.equal(loss, plain)
    assert torch.equal(correct, right)
    for one, other in zip(torch.autograd.grad(loss, [hidden, weight]), grads, strict=True):
        assert torch.equal(one, other)
    cumulated = (hidden @ weight.t() + bias).double().softmax(dim=1).cumsum(dim=1)
    assert built.tolist() == [int((row <= u).sum()) for row, u in zip(cumulated, drawn, strict=True)]


@pytest.mark.parametrize("chunk", [3, 64])
def test_a_low_rank_product_is_added_to_the_logits(chunk: int) -> None:
    hidden, weight, bias, labels = make(10, True)
    low, up = torch.randn(10, 2, requires_grad=True), torch.randn(53, 2, requires_grad=True)
    inputs = [hidden, bias, low, up]
    logits = F.linear(hidden, weight.detach(), bias) + low @ up.t()
    expected = F.cross_entropy(logits, labels, reduction="sum")
    total, _ = linear_cross_entropy(hidden, weight.detach(), bias, labels, chunk, (low, up))
    torch.testing.assert_close(total, expected)
    wanted = torch.autograd.grad(2.0 * expected, inputs)
    torch.testing.assert_close(torch.autograd.grad(2.0 * total, inputs), wanted, rtol=1e-4, atol=1e-5)
    zero = linear_cross_entropy(hidden, weight, bias, labels, chunk, (low, torch.zeros_like(up)))
    assert torch.equal(zero[0], linear_cross_entropy(hidden, weight, bias, labels, chunk)[0])
    drawn = torch.rand(10, dtype=torch.float64)
    sampled, _, tokens = sampled_cross_entropy(hidden, weight, bias, labels, drawn, chunk, (low, up))
    torch.testing.assert_close(sampled, expected)
    whole = torch.cat([hidden, low], 1), torch.cat([weight, up], 1)
    assert torch.equal(tokens, sampled_cross_entropy(*whole, bias, labels, drawn)[2])
    empty = sampled_cross_entropy(hidden[:0], weight, bias, labels[:0], drawn[:0], chunk, (low[:0], up))
    assert float(empty[0].detach()) == 0.0


@pytest.mark.parametrize("chunk", [5, 64])
@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_label_smoothing_is_that_of_torch_and_of_transformers(smoothing: float, chunk: int) -> None:
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(size, requires_grad=True) for size in ((37, 16), (70, 16), (70,)))
    labels = torch.randint(70, (37,))
    total, correct = linear_cross_entropy(hidden, weight, bias, labels, chunk, smoothing=smoothing)
    actual = torch.autograd.grad(total, (hidden, weight, bias))
    logits = hidden @ weight.T + bias
    expected = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, (hidden, weight, bias), retain_graph=True))
    theirs = LabelSmoother(epsilon=smoothing)({"logits": logits[None]}, labels[None])
    torch.testing.assert_close(total / len(labels), theirs)
    assert correct == (logits.argmax(dim=1) == labels).sum()
