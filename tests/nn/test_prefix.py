"""A prefix of keys and values in front of every sequence: equal on every backend and structure, and nothing leaks."""

import pytest
import torch

from pretune.batch import Layout, OutputRows
from pretune.nn import attention as brick
from pretune.nn.attention import BACKENDS, Attention
from pretune.nn.backends import banded, reference
from pretune.nn.block import Block, Norms
from pretune.nn.cache import Cache
from pretune.nn.call import AttentionCall
from pretune.nn.feedforward import FeedForward
from pretune.nn.prefix import LearnedPrefix
from pretune.nn.relative import RelativeBias
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL, SlidingWindow

LENGTHS = [5, 1, 0, 9, 9, 3]
STRUCTURES = {
    "bidirectional": (BIDIRECTIONAL, False),
    "causal": (CAUSAL, False),
    "window": (SlidingWindow(3, 2), False),
    "band": (SlidingWindow(4, 0), False),
    "biased": (BIDIRECTIONAL, True),
    "biased causal": (CAUSAL, True),
}


def attention(structure, biased, length=4, key_heads=2):
    torch.manual_seed(0)
    relative = RelativeBias(4, 8, 16, both=structure is BIDIRECTIONAL) if biased else None
    built = Attention(32, 4, structure, key_heads=key_heads, relative=relative)
    built.prefix = LearnedPrefix(length, key_heads, 8)
    built.prefix.reset_parameters(1.0)
    return built


def gradients(module, x, layout):
    out = module(x, layout)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad(out, [x, module.prefix.key, module.prefix.value, module.key.weight], weight)]


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_backend_gives_the_same(name, key_heads, monkeypatch):
    module = attention(*STRUCTURES[name], key_heads=key_heads)
    layout = Layout.of(LENGTHS)
    x = torch.randn(layout.total, 32, requires_grad=True)
    monkeypatch.setattr(brick, "_ORDER", (reference,))
    wanted = gradients(module, x, layout)
    tried = set()
    for backend, kernel in BACKENDS.items():
        monkeypatch.setattr(brick, "_ORDER", (kernel,))
        try:
            values = gradients(module, x, layout)
        except ValueError:  # the backend refuses this structure
            continue
        tried.add(backend)
        for value, want in zip(values, wanted, strict=True):
            torch.testing.assert_close(value, want, atol=2e-5, rtol=2e-5, msg=lambda m, b=backend: f"{b} {m}")
    plain = name in ("bidirectional", "causal")
    assert tried >= {"sdpa", "reference"} | ({"matmul"} if plain else set())
    assert "flash" in tried or not plain or key_heads == 2


@pytest.mark.parametrize("name", STRUCTURES)
def test_it_is_attention_over_longer_keys(name):
    """Written out: each sequence alone, keys and values joined by hand, queries aligned at the end."""
    module = attention(*STRUCTURES[name], key_heads=4)
    layout = Layout.of(LENGTHS)
    x = torch.randn(layout.total, 32)
    out = module(x, layout)
    for first, last in zip(layout.bounds, layout.bounds[1:], strict=False):
        if first == last:
            continue
        rows = x[first:last]
        query, key, value = (p(rows).unflatten(1, (4, 8)) for p in (module.query, module.key, module.value))
        key, value = torch.cat([module.prefix.key, key]), torch.cat([module.prefix.value, value])
        scores = torch.einsum("qhd,khd->hqk", query, key) * 8**-0.5
        if module.relative is not None:
            scores = scores + module.relative(len(query), len(key))
        visible = module.structure.behind(4).visible(len(query), len(key))
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        want = module.output(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1))
        torch.testing.assert_close(out[first:last], want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_nothing_leaks(name):
    """A changed token moves its own sequence's rows alone; the prefix, the positive control, moves every row."""
    module = attention(*STRUCTURES[name], length=2)
    layout = Layout.of([3, 5, 4])
    x = torch.randn(12, 32)
    before = module(x, layout)
    changed = x.clone()
    changed[7] += 1.0  # the last token of the second sequence
    moved = (module(changed, layout) != before).any(dim=1).tolist()
    first = 7 if module.structure.visible(5, 7) is not None and not module.structure.visible(5, 7)[3, 6] else 3
    first = 5 if name == "window" else first
    assert moved == [first <= row < 8 for row in range(12)]
    with torch.no_grad():
        module.prefix.value += 1.0
    assert (module(x, layout) != before).any(dim=1).all(), "every query sees the prefix, in a window too"


@pytest.mark.parametrize("structure", [BIDIRECTIONAL, CAUSAL], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_long_sequences(structure, dtype, monkeypatch):
    """Above 256 queries the matmul backend works block by block, each with the prefix before it."""
    module = attention(structure, False, length=5, key_heads=4)
    layout = Layout.of([600, 520])
    x = torch.randn(layout.total, 32)
    with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16), torch.no_grad():
        out = module(x, layout)
        monkeypatch.setattr(brick, "_ORDER", (reference,))
        torch.testing.assert_close(out, module(x, layout), atol=3e-2, rtol=3e-2)


@torch.no_grad()
def test_chunks_of_a_window_each_with_the_prefix(monkeypatch):
    module = attention(SlidingWindow(3, 2), False, length=5, key_heads=4)
    layout = Layout.of([700, 420])
    x = torch.randn(layout.total, 32)
    structure = module.structure.behind(5)
    assert structure.within(Layout.of([9, 2])) is structure
    assert structure.within(Layout.of([8, 2])) is BIDIRECTIONAL
    assert structure.pairs(7, 12) == int(structure.visible(7, 12).sum())
    call = AttentionCall(
        *(torch.randn(715, 4, 8) for _ in range(3)), layout, Layout.of([705, 425]), structure, 0.0, 1.0
    )
    assert banded.refuse(call) is None
    out = module(x, layout)
    monkeypatch.setattr(brick, "_ORDER", (reference,))
    torch.testing.assert_close(out, module(x, layout), atol=2e-5, rtol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[4, 4], [6, 2]])
def test_a_cache_step_by_step(lengths):
    module = attention(CAUSAL, False, key_heads=4)
    layout = Layout.of(lengths)
    x = torch.randn(layout.total, 32)
    want = module(x, layout)
    cache = Cache(1, 2, capacity=3)
    starts = layout.bounds[:-1]
    fresh = [1, 1]
    for step in range(min(lengths)):
        rows = torch.tensor([start + step for start in starts])
        at = cache.layout(fresh)
        torch.testing.assert_close(module(x[rows], at, cache.begin(at)[0]), want[rows], atol=2e-6, rtol=1e-5)


def test_some_rows_of_a_block():
    module = attention(BIDIRECTIONAL, False, key_heads=4)
    block = Block(module, FeedForward(32, 64, torch.tanh), Norms())
    layout = Layout.of(LENGTHS)
    x = torch.randn(layout.total, 32)
    rows = OutputRows.of(torch.tensor([0, 3, 5, 20]).numpy(), layout)
    torch.testing.assert_close(block(x, layout, None, rows), block(x, layout)[rows.index], atol=2e-6, rtol=1e-5)


def test_without_a_prefix_nothing_is_done():
    """The null object hands on the very tensors and the very layout, so kernels see self-attention."""
    module = Attention(32, 4, CAUSAL)
    key, value, layout = torch.randn(3, 4, 8), torch.randn(3, 4, 8), Layout.of([3])
    extended = module.prefix.extend(key, value, layout)
    assert extended[0] is key
    assert extended[1] is value
    assert extended[2] is layout
