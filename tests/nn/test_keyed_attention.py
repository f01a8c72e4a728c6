"""Attention whose dropout is a function of the rows' keys."""

from dataclasses import replace

import pytest
import torch

from pretune.batch import Layout, OutputRows, RowKeys
from pretune.nn.attention import Attention, ragged_attention
from pretune.nn.call import AttentionCall
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL, SlidingWindow


def keyed(lengths: list[int], seed: int = 0) -> Layout:
    words = torch.randint(-(2**31), 2**31, (sum(lengths), 2), generator=torch.Generator().manual_seed(seed))
    return replace(Layout.of(lengths), keys=RowKeys(words.to(torch.int32)))


def compute(call: AttentionCall, backend: str | None) -> list[torch.Tensor]:
    assert call.queries.keys is not None
    call.queries.keys.calls.clear()
    inputs = [call.query, call.key, call.value]
    out = ragged_attention(call, backend)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad(out, inputs, weight)]


@pytest.mark.parametrize("structure", [BIDIRECTIONAL, CAUSAL, SlidingWindow(3, 3)])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("lengths", [[6, 6, 6], [9, 1, 4, 4, 0, 7]])
def test_it_is_attention_by_its_definition(structure, key_heads, lengths):
    layout = keyed(lengths)
    runs = [torch.randn(layout.total, heads, 8).requires_grad_() for heads in (4, key_heads, key_heads)]
    call = AttentionCall(*runs, layout, layout, structure, 0.3, 0.35, 11)
    expected = compute(call, "reference")
    for ours, theirs in zip(compute(call, None), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(compute(replace(call, dropout=0.0), None)[0], expected[0], atol=1e-2)


def test_neither_company_nor_left_out_queries_change_a_row():
    attention = Attention(16, 2, BIDIRECTIONAL, dropout=0.4)
    layout, x = keyed([5, 8, 5]), torch.randn(18, 16)
    whole = attention(x, layout)
    assert layout.keys is not None
    alone = replace(Layout.of([8]), keys=RowKeys(layout.keys.words[5:13]))
    torch.testing.assert_close(attention(x[5:13], alone), whole[5:13])
    layout.keys.calls.clear()
    rows = OutputRows.of(torch.tensor([1, 6, 12, 17]).numpy(), layout)
    some = attention(x[rows.index], rows.layout, source=(x, layout))
    torch.testing.assert_close(some, whole[rows.index])


@pytest.mark.parametrize("backend", ["sdpa", "banded", "flash", "matmul"])
def test_no_other_backend_draws_for_keyed_rows(backend):
    layout = keyed([4, 3])
    run = torch.randn(7, 2, 8)
    with pytest.raises(ValueError, match=r"dropout|windows"):
        ragged_attention(AttentionCall(run, run, run, layout, layout, BIDIRECTIONAL, 0.1, 1.0), backend)
    bare = Layout.of([4, 3])
    call = AttentionCall(run, run, run, bare, bare, BIDIRECTIONAL, 0.1, 1.0)
    assert ragged_attention(call).shape == (7, 2, 8)
    with pytest.raises(ValueError, match="keys of rows"):
        ragged_attention(call, "keyed")
