"""Rounded bricks: what stands at their places computes with the rounded values, learns below, and keeps no copy."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pretune.batch import Layout, ragged
from pretune.models.fuse import FusedBlock, fuse
from pretune.nn.cast import cast_to_bf16
from pretune.nn.formats.format import find_format
from pretune.nn.low_rank import DecomposedProjection, DecomposedVocabulary, LowRankProjection, LowRankVocabulary
from pretune.nn.projection import Projection, ProjectionBrick, joined_product
from pretune.nn.rounded import RoundedProjection, RoundedVocabulary, rounded_bricks, rounded_tensors
from pretune.nn.scaling import ScaledInput, ScaledOutput
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick
from pretune.tune.surgery import merge_bricks
from tests.nn.roundkit import round_all, small

FORMATS = ["bf16", "int8", "q8_0", "q4_0"]


def projection(name: str = "q4_0", out: int = 48, width: int = 64) -> RoundedProjection:
    torch.manual_seed(1)
    return RoundedProjection.of(find_format(name), torch.randn(out, width) * 0.1, torch.randn(out))


def vocabulary(name: str = "q8_0", size: int = 90, width: int = 64) -> RoundedVocabulary:
    torch.manual_seed(2)
    return RoundedVocabulary.of(find_format(name), torch.randn(size, width) * 0.1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_rounded_projection_answers_all_that_is_asked_at_its_place(name: str) -> None:
    brick = projection(name)
    assert isinstance(brick, ProjectionBrick)
    weight, bias = brick.dense()
    x = torch.randn(7, 64)
    torch.testing.assert_close(brick(x, Layout.of([3, 4])), x @ weight.T + bias)
    product = brick.product(torch.relu)
    assert product is not None
    torch.testing.assert_close(product(x), torch.relu(x @ weight.T + bias), atol=2e-2, rtol=2e-2)
    assert brick.flops(3) == Projection(64, 48).flops(3)
    brick.reset_parameters(0.02)
    assert brick.bias is not None
    assert torch.equal(brick.dense()[0], weight)
    assert not brick.bias.any()


@pytest.mark.parametrize("name", FORMATS)
def test_a_rounded_vocabulary_answers_all_that_is_asked_at_its_place(name: str) -> None:
    brick = vocabulary(name)
    assert isinstance(brick, VocabularyBrick)
    plain = Vocabulary.of(nn.Parameter(brick.dense()))
    ids, rows, labels = torch.tensor([4, 0, 89]), torch.randn(3, 64, requires_grad=True), torch.tensor([1, 2, 3])
    uniform, bias = torch.rand(3, dtype=torch.float64), torch.randn(90)
    assert torch.equal(brick.lookup(ids), plain.lookup(ids))
    assert torch.equal(brick.row(ids[None]), plain.row(ids[None]))
    torch.testing.assert_close(brick.scores(rows, bias), plain.scores(rows, bias))
    torch.testing.assert_close(brick.product(bias)(rows), plain.scores(rows, bias), atol=2e-2, rtol=2e-2)
    ours, theirs = brick.loss(rows, labels, bias), plain.loss(rows, labels, bias)
    assert torch.equal(ours[1], theirs[1])
    for one, other in ((ours[0], theirs[0]), (brick.scores(rows).square().sum(), plain.scores(rows).square().sum())):
        torch.testing.assert_close(one, other)
        (a,), (b,) = torch.autograd.grad(one, rows), torch.autograd.grad(other, rows)
        torch.testing.assert_close(a, b)
    assert torch.equal(
        brick.sampled_loss(rows, labels, uniform, bias)[2], plain.sampled_loss(rows, labels, uniform, bias)[2]
    )
    assert (brick.size, brick.width, brick.flops(2)) == (90, 64, plain.flops(2))


@pytest.mark.parametrize("name", FORMATS)
def test_casts_leave_what_is_packed_as_it_is(name: str) -> None:
    brick, table = projection(name), vocabulary(name)
    before = {**brick.tensors(), **{f"v.{key}": t for key, t in table.tensors().items()}}
    for cast in (torch.bfloat16, torch.float64, torch.float32):
        brick.to(cast), table.to(cast)
        assert brick.bias is not None
        assert (brick.dtype, table.dtype, brick.bias.dtype) == (cast, cast, cast)
        assert table.lookup(torch.tensor([3])).dtype == cast
        after = {**brick.tensors(), **{f"v.{key}": t for key, t in table.tensors().items()}}
        assert all(torch.equal(after[key], t) and after[key].dtype == t.dtype for key, t in before.items())
    assert brick.to("meta").tensors().keys() == projection(name).tensors().keys()
    assert all(t.is_meta for t in brick.tensors().values())


def test_what_is_packed_is_no_parameter_and_in_no_checkpoint() -> None:
    model = round_all(small())
    assert not any("packed" in name for name in model.state_dict())
    held = rounded_tensors(model)
    assert len(held) == 2 * 6 + 1
    assert "stack.blocks.1.feedforward.down.blocks" in held
    assert "embedding.word.blocks" in held
    assert len(list(rounded_bricks(model))) == 13  # the head's vocabulary is the embedding's
    again = copy.deepcopy(model)
    assert all(torch.equal(tensor, rounded_tensors(again)[name]) for name, tensor in held.items())


@pytest.mark.parametrize("name", FORMATS)
def test_a_forward_and_backward_keep_no_dequantised_copy(name: str) -> None:
    brick = projection(name, 2048, 64)
    kept: list[Tensor] = []
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = brick(x)
    assert sum(t.numel() for t in kept if t.is_floating_point()) < 2048 * 64 / 4
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, brick.dense()[0].sum(0).expand(3, -1))


@pytest.mark.parametrize("name", FORMATS)
def test_products_that_read_the_same_rows_are_joined_while_packed(name: str) -> None:
    bricks = [projection(name, out) for out in (48, 16, 33)]
    bricks[1].bias = None
    x = torch.randn(4, 64)
    joined = joined_product(bricks)
    assert joined is not None
    torch.testing.assert_close(joined(x), torch.cat([b(x) for b in bricks], -1), atol=2e-2, rtol=2e-2)
    other = "int8" if name != "int8" else "q8_0"
    mixed = joined_product([bricks[0], projection(other, 16), Projection(64, 5)])  # side by side where they cannot be
    assert mixed is not None
    assert mixed(x).shape == (4, 48 + 16 + 5)


def test_rounded_inputs_are_an_option_that_is_kept() -> None:
    brick = projection()
    rounded = RoundedProjection(brick.packed, brick.bias, "int8")
    x = torch.randn(5, 64)
    assert not torch.equal(rounded(x), brick(x))
    torch.testing.assert_close(rounded(x), brick(x), atol=3e-2, rtol=3e-2)
    product = rounded.product()
    assert product is not None
    torch.testing.assert_close(product(x), rounded(x), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("tuned", [LowRankProjection, DecomposedProjection, ScaledOutput, ScaledInput])
def test_what_is_tuned_stays_beside_a_packed_base(tuned: type) -> None:
    base = projection()
    brick = tuned(base, 4, 2.0) if issubclass(tuned, LowRankProjection) else tuned(base)
    with torch.no_grad():
        for parameter in (p for name, p in brick.named_parameters() if not name.startswith("base.")):
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert brick.product() is None  # a merged matrix would be a dequantised copy
    x = torch.randn(6, 64)
    weight, bias = brick.dense()
    torch.testing.assert_close(brick(x), x @ weight.T + bias, atol=1e-4, rtol=1e-4)
    change = brick.constant_change()
    read = brick.read(x, None)
    with torch.no_grad():
        torch.testing.assert_close(change(read, base(read), None), brick(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tuned", [LowRankVocabulary, DecomposedVocabulary])
def test_a_tuned_vocabulary_stays_beside_a_packed_base(tuned: type[LowRankVocabulary]) -> None:
    brick = tuned(vocabulary(), 4, 2.0)
    with torch.no_grad():
        brick.b.normal_()
    rows, bias = torch.randn(5, 64), torch.randn(90)
    expected = rows @ brick.dense().T + bias
    torch.testing.assert_close(brick.scores(rows, bias), expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(brick.product(bias)(rows), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_fused_rounded_model_computes_the_same(family: str, bf16: bool) -> None:
    model = round_all(small(family), "int8")
    plain = copy.deepcopy(model)
    merge_bricks(plain)
    if bf16:
        cast_to_bf16(model)
    batch = ragged([torch.arange(7).numpy(), torch.arange(3).numpy()])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        fused = fuse(model)
        assert all(isinstance(block, FusedBlock) for block in fused.stack.blocks)
        outputs = [(m(batch).last_hidden_state, m) for m in (model, fused)]
        scores = [next(iter(m.heads.values()))(hidden.float()).float() for hidden, m in outputs]
    with torch.inference_mode():
        expected = plain(batch).last_hidden_state
    tolerance = 6e-2 if bf16 else 1e-4
    for hidden, _ in outputs:
        torch.testing.assert_close(hidden.float(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(scores[0], scores[1], atol=tolerance, rtol=tolerance)


def test_a_loss_of_a_rounded_model_is_that_of_its_values() -> None:
    model = round_all(small("gpt2"), "q8_0")
    plain = copy.deepcopy(model)
    merge_bricks(plain)
    assert not list(rounded_bricks(plain))
    batch = ragged([torch.arange(9).numpy()])
    losses = []
    for each in (model, plain):
        hidden = each(batch).last_hidden_state
        losses.append(each.heads["clm"].loss(hidden, torch.arange(9))[0])
    torch.testing.assert_close(losses[0], losses[1])
