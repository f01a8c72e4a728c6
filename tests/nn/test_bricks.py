"""The smaller bricks against what they replace."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretune.batch import Layout, OutputRows
from pretune.nn.activation import activation, gelu_new
from pretune.nn.attention import Attention
from pretune.nn.block import Block, Norms, ParallelBlock
from pretune.nn.dropout import Dropout
from pretune.nn.embedding import Embedding, Learned, Sinusoidal
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.heads import Pooler, SequenceHead, VocabularyHead
from pretune.nn.projection import in_matmul_dtype
from pretune.nn.rotary import PartialRotary, Rotary
from pretune.nn.stack import Stack
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL
from pretune.nn.vocabulary import Vocabulary


@pytest.mark.parametrize("size", [100, 300_000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)])
def test_gelu_new_is_the_tanh_formula(size, dtype, tolerance):
    x = torch.linspace(-12, 12, size).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    (got,) = torch.autograd.grad(gelu_new(x).sum(), x)
    (want,) = torch.autograd.grad(F.gelu(exact, approximate="tanh").sum(), exact)
    torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=0)
    torch.testing.assert_close(gelu_new(x).double(), F.gelu(exact, approximate="tanh"), atol=tolerance, rtol=tolerance)


def test_gelu_new_keeps_extremes_and_empties():
    x = torch.tensor([float("inf"), 60.0, -60.0, float("nan")]).repeat(20_000)
    assert gelu_new(x)[:3].tolist() == [math.inf, 60.0, 0.0]
    assert gelu_new(x)[3].isnan()
    assert gelu_new(torch.empty(0, 4, requires_grad=True)).shape == (0, 4)


def test_unknown_activation_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'gelu_new'"):
        activation("gelu_nev")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_share_scale_and_gradient(dtype, p):
    drop = Dropout(p)
    torch.manual_seed(0)
    update = torch.ones(1000, 333, dtype=dtype, requires_grad=True)
    residual = torch.full((1000, 333), 2.0, dtype=dtype, requires_grad=True)
    out = drop.add(update, residual)
    gone = (out == 2.0).double().mean().item()
    assert abs(gone - p) < 4 * math.sqrt(p * (1 - p) / update.numel())
    torch.testing.assert_close((out - 2.0).double().mean().item(), 1.0, atol=0.01, rtol=0)
    out.sum().backward()
    assert torch.equal(residual.grad, torch.ones_like(residual))
    torch.testing.assert_close(update.grad, out.detach() - 2.0, atol=0.01, rtol=0.01)
    torch.manual_seed(0)
    assert torch.equal(drop.add(update, residual), out)
    assert not torch.equal(drop.add(update, residual), out)
    drop.eval()
    assert torch.equal(drop.add(update, residual), update + residual)
    assert drop(update) is update


def test_dropout_alone_has_the_same_gradient_mask():
    x = torch.ones(64, 8, requires_grad=True)
    out = Dropout(0.3)(x)
    out.backward(torch.ones_like(out))
    assert torch.equal(x.grad, out)


def test_embedding_adds_word_position_and_segment():
    brick = Embedding(10, 4, position=Learned(6, 4), segments=2)
    tokens, segments = torch.tensor([3, 4, 5]), torch.tensor([0, 1, 1])
    layout = Layout.of([1, 2])
    want = brick.word.weight[tokens] + brick.position.weight[torch.tensor([0, 0, 1])] + brick.segment.weight[segments]
    torch.testing.assert_close(brick(tokens, layout, segments), want)
    torch.testing.assert_close(brick(tokens, layout), brick(tokens, layout, torch.zeros(3, dtype=torch.long)))


def test_vocabulary_head_loss_equals_its_logits():
    weight = nn.Parameter(torch.randn(50, 8))
    head = VocabularyHead(Vocabulary.of(weight), bias=nn.Parameter(torch.randn(50)), predicts="masked")
    rows, labels = torch.randn(20, 8), torch.randint(0, 50, (20,))
    loss, correct = head.loss(rows, labels)
    torch.testing.assert_close(loss, F.cross_entropy(head(rows), labels, reduction="sum"))
    assert int(correct) == int((head(rows).argmax(1) == labels).sum())
    assert head.weight is weight


@pytest.mark.parametrize(("position", "rows"), [("first", [0, 2, 3]), ("last", [1, 2, 6])])
def test_sequence_head_reads_its_pool_position(position, rows):
    head = SequenceHead(8, ["a", "b"], position, pooler=Pooler(8)).eval()
    hidden = torch.randn(7, 8)
    want = head.linear(torch.tanh(head.pooler.dense(hidden[rows])))
    torch.testing.assert_close(head(hidden, Layout.of([2, 1, 4])), want)


def small_stack(dropout: float = 0.0) -> Stack:
    torch.manual_seed(0)
    blocks = [
        Block(
            Attention(16, 2, CAUSAL),
            FeedForward(16, 32, gelu_new),
            Norms(before_attention=nn.LayerNorm(16), before_feedforward=nn.LayerNorm(16)),
            dropout,
        )
        for _ in range(3)
    ]
    return Stack(blocks, nn.LayerNorm(16))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_changes_no_gradient(dropout):
    stack = small_stack(dropout)
    x, layout = torch.randn(9, 16), Layout.of([4, 5])
    grads = []
    for checkpointing in (False, True):
        stack.checkpointing = checkpointing
        stack.zero_grad()
        torch.manual_seed(3)
        stack(x, layout).square().sum().backward()
        grads.append([p.grad.clone() for p in stack.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_layers_are_kept_on_request():
    stack = small_stack()
    x, layout = torch.randn(4, 16), Layout.of([4])
    layers: list[torch.Tensor] = []
    out = stack(x, layout, None, layers)
    assert len(layers) == 4
    assert layers[0] is x
    assert layers[-1] is out


def test_causal_aligns_the_last_query_with_the_last_key():
    mask = CAUSAL.visible(2, 4)
    assert mask is not None
    assert mask.tolist() == [[True, True, True, False], [True, True, True, True]]
    assert CAUSAL.visible(1, 4) is None
    assert BIDIRECTIONAL.visible(2, 4) is None


def test_structures_count_their_pairs():
    for structure in (BIDIRECTIONAL, CAUSAL):
        for queries, keys in ((1, 1), (1, 7), (4, 4), (3, 9)):
            mask = structure.visible(queries, keys)
            assert structure.pairs(queries, keys) == (queries * keys if mask is None else int(mask.sum()))


def test_working_precision_follows_autocast():
    x = torch.ones(2)
    assert in_matmul_dtype(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert in_matmul_dtype(x).dtype == torch.bfloat16


def test_rotary_turns_by_distance_and_back():
    rotary = Rotary(8, 100.0)
    layout = Layout.of([5, 3])
    x = torch.randn(8, 2, 8, dtype=torch.float64, requires_grad=True)
    y = rotary(x, layout)
    torch.testing.assert_close(y.norm(dim=2), x.norm(dim=2))
    angle = layout.positions[:, None].double() / 100.0 ** (torch.arange(0, 8, 2) / 8)
    turned = torch.view_as_complex(torch.stack([x[..., :4], x[..., 4:]], dim=-1)) * torch.exp(1j * angle)[:, None]
    torch.testing.assert_close(y, torch.cat([turned.real, turned.imag], dim=2), atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradcheck(lambda t: rotary(t, layout), x)
    later = Layout.of([5, 3], starts=[7, 7])
    scores = [torch.einsum("thd,shd->ths", rotary(x, at)[:5], rotary(x, at)[:5]) for at in (layout, later)]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
    assert len(layout.memo) == 1


def test_sinusoidal_positions_are_those_of_the_paper():
    actual = Sinusoidal(None, 6)(torch.arange(4))
    for position in range(4):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            assert actual[position, pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert actual[position, 3 + pair].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_learned_positions_begin_at_their_offset():
    brick = Learned(5, 4, offset=2)
    assert brick.weight.shape == (7, 4)
    torch.testing.assert_close(brick(torch.tensor([0, 4])), brick.weight[[2, 6]])


def test_gates_multiply():
    brick = GatedFeedForward(6, 10, F.gelu, bias=True)
    x = torch.randn(3, 6)
    want = brick.down(F.gelu(brick.gate(x)) * brick.value(x))
    torch.testing.assert_close(brick(x, Layout.of([3])), want)


def test_a_stack_may_use_a_block_again():
    blocks = [Block(Attention(8, 2, BIDIRECTIONAL), FeedForward(8, 16, F.gelu), Norms()) for _ in range(2)]
    stack, layout = Stack(blocks, order=[0, 0, 1]), Layout.of([3])
    x = torch.randn(3, 8)
    want = blocks[1](blocks[0](blocks[0](x, layout), layout), layout)
    torch.testing.assert_close(stack(x, layout), want)
    assert len(list(stack.parameters())) == 2 * len(list(blocks[0].parameters()))


@pytest.mark.parametrize("structure", [BIDIRECTIONAL, CAUSAL])
def test_parallel_branches_read_the_same_input(structure):
    norms = Norms(before_attention=nn.LayerNorm(8), before_feedforward=nn.LayerNorm(8))
    block = ParallelBlock(Attention(8, 2, structure), FeedForward(8, 16, F.gelu), norms)
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    layout, x = Layout.of([3, 4]), torch.randn(7, 8)
    mixed = block.attention(norms.before_attention(x), layout)
    expected = x + mixed + block.feedforward(norms.before_feedforward(x), layout)
    torch.testing.assert_close(block(x, layout), expected)
    sequential = Block(block.attention, block.feedforward, norms)
    assert not torch.allclose(sequential(x, layout), expected, atol=1e-3)
    if block.attention.any_queries:
        rows = OutputRows.of(np.array([1, 6]), layout)
        torch.testing.assert_close(block(x, layout, None, rows), expected[rows.index])
    with pytest.raises(ValueError, match="norms before"):
        ParallelBlock(block.attention, block.feedforward, Norms(after_attention=nn.LayerNorm(8)))


def test_partial_rotary_leaves_the_rest_of_a_head():
    layout, x = Layout.of([5]), torch.randn(5, 2, 16, requires_grad=True)
    out = PartialRotary(4, 10_000.0)(x, layout)
    torch.testing.assert_close(out[..., :4], Rotary(4, 10_000.0)(x[..., :4], layout))
    assert torch.equal(out[..., 4:], x[..., 4:])
    assert not torch.allclose(out[1:, :, :4], x[1:, :, :4])
