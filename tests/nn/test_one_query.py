"""A decoded token's attention: what the reference gives of the same cache."""

from __future__ import annotations

import pytest
import torch

from pretune.batch import Batch, Layout
from pretune.models import build
from pretune.models.fuse import FusedBlock, fuse
from pretune.models.model import LanguageModel
from pretune.nn.attention import ragged_attention
from pretune.nn.cache import Cache
from pretune.nn.call import AttentionCall
from pretune.nn.one_query import attend_once
from pretune.nn.spans import CacheSlots
from pretune.nn.structure import CAUSAL


def filled(before: list[int], heads: int, dtype: torch.dtype = torch.float32) -> tuple[Cache, Layout]:
    """A cache of one layer that holds random rows, and where a token more of each sequence lies."""
    cache = Cache(1, len(before), capacity=8)
    layout = cache.layout(before)
    rows = torch.randn(2, sum(before), heads, 8, dtype=dtype)
    cache.begin(layout)[0].append(rows[0], rows[1], layout)
    return cache, cache.layout([1] * len(before))


@pytest.mark.parametrize("before", [[5], [5, 5, 5], [1, 12, 7]], ids=str)
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_the_reference(before: list[int], heads: int, key_heads: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    cache, layout = filled(before, key_heads, dtype)
    query = torch.randn(len(before), heads, 8, dtype=dtype)
    new = torch.randn(2, len(before), key_heads, 8, dtype=dtype)
    key, value, slots = cache.begin(layout)[0].append(new[0], new[1], layout)
    assert isinstance(slots, CacheSlots)
    actual = attend_once(query, key, value, slots, 0.3)
    call = AttentionCall(query, key, value, layout, slots, CAUSAL, 0.0, 0.3)
    assert actual.dtype == dtype
    rtol = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual, ragged_attention(call, "reference"), rtol=rtol, atol=1e-6)


def decode(model: LanguageModel, prompts: list[int], steps: int) -> torch.Tensor:
    """Hidden states of the tokens after prompts of these lengths. Shape: (steps, N, width)."""
    draw = torch.Generator().manual_seed(2)
    cache, out = model.new_cache(len(prompts), 8), []
    for lengths in (prompts, *([[1] * len(prompts)] * steps)):
        tokens = torch.randint(model.vocab_size, (sum(lengths),), generator=draw)
        out.append(model(Batch(tokens, cache.layout(lengths)), cache=cache).last_hidden_state)
    return torch.stack(out[1:])


@pytest.mark.parametrize("family", ["gpt2", "gpt3", "llama", "qwen2"])
@pytest.mark.parametrize("prompts", [[5], [2, 9]], ids=str)
@torch.no_grad()
def test_a_fused_model_decodes_the_same(family: str, prompts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(family, "tiny", ["clm"]).eval()
    calls: list[int] = []
    monkeypatch.setattr("pretune.models.fuse.attend_once", lambda *given: (calls.append(1), attend_once(*given))[1])
    fused = fuse(model)
    torch.testing.assert_close(decode(fused, prompts, 4), decode(model, prompts, 4), rtol=1e-4, atol=1e-5)
    seen = [block for block in fused.stack.in_order if isinstance(block, FusedBlock) and block._sees_all_before]
    assert len(calls) == 4 * len(seen)
    assert len(seen) >= len(fused.stack.in_order) // 2, "others have a window"
