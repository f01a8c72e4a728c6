"""Windows by chunks of queries are attention by its definition, over any layout, and cost as much as the length."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pretune.batch import Batch, Layout, RowKeys
from pretune.models import build
from pretune.nn import attention
from pretune.nn.attention import ragged_attention
from pretune.nn.backends import banded, varlen
from pretune.nn.call import AttentionCall
from pretune.nn.spans import CacheSlots
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL, Biased, SlidingWindow, Structure

WINDOWS = [(20, 20), (33, 0), (0, 7), (64, 64), (70, 3), (0, 0)]


def run_of(
    queries: Layout,
    keys: Layout | CacheSlots,
    structure: Structure,
    *,
    heads: tuple[int, int] = (3, 3),
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
) -> AttentionCall:
    generator = torch.Generator().manual_seed(0)
    rows = keys.total if isinstance(keys, Layout) else len(keys.lengths) * keys.capacity
    shapes = ((queries.total, heads[0], 16), (rows, heads[1], 16), (rows, heads[1], 16))
    query, key, value = (torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes)
    return AttentionCall(query, key, value, queries, keys, structure, dropout, 0.25, 2**63 + 12)


def keyed(lengths: list[int], seed: int) -> Layout:
    words = torch.randint(-(2**31), 2**31, (sum(lengths), 2), generator=torch.Generator().manual_seed(seed))
    return replace(Layout.of(lengths), keys=RowKeys(words.to(torch.int32)))


def compute(call: AttentionCall, backend: str | None) -> list[torch.Tensor]:
    """The output, and the gradients of queries, keys and values."""
    if call.queries.keys is not None:
        call.queries.keys.calls.clear()
    inputs = [call.query, call.key, call.value]
    out = ragged_attention(call, backend)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out, *torch.autograd.grad(out, inputs, weight)]


def assert_equal(call: AttentionCall, tolerances: tuple[float, float] = (1e-5, 1e-4)) -> None:
    forward, backward = tolerances
    for n, (got, want) in enumerate(zip(compute(call, "banded"), compute(call, "reference"), strict=True)):
        tolerance = backward if n else forward
        torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance, msg=lambda m, n=n: f"tensor {n}: {m}")


@pytest.mark.parametrize("seed", range(16))
def test_random_layouts(seed, monkeypatch):
    """Ragged, with more keys than queries, in slots, behind a prefix, with shared heads, with dropout, in mixtures."""
    rng = random.Random(seed)
    monkeypatch.setattr(banded, "_CHUNK", rng.choice([16, 64]))
    monkeypatch.setattr(banded, "_SCORES", rng.choice([1, 1 << 20]))
    monkeypatch.setattr(banded, "_WORTH", 0)
    structure: Structure = SlidingWindow(*rng.choice(WINDOWS))
    shared = rng.choice([0, 0, 5])
    lengths = [rng.choice([0, 1, 3, 40, 64, 65, rng.randrange(300)]) for _ in range(rng.randrange(1, 6))] + [250]
    queries = keyed(lengths, seed) if rng.random() < 0.5 else Layout.of(lengths)
    past = [rng.choice([0, 0, 7, 90]) if seed % 2 else 0 for _ in lengths]
    longer = [length + more + shared for length, more in zip(lengths, past, strict=True)]
    keys: Layout | CacheSlots = Layout.of(longer) if shared or seed % 2 else queries
    if seed % 4 == 3:
        keys = CacheSlots(tuple(longer), max(longer) + 3, torch.device("cpu"))
    dropout = 0.3 if queries.keys is not None else 0.0
    assert_equal(run_of(queries, keys, structure.behind(shared), heads=rng.choice([(3, 3), (4, 2)]), dropout=dropout))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("lengths", [[900, 900, 1], [500, 480, 700]], ids=["equal", "ragged"])
def test_long_sequences_in_bfloat16(window, lengths):
    layout = Layout.of(lengths)
    call = run_of(layout, layout, SlidingWindow(*window), dtype=torch.bfloat16)
    assert_equal(call, (2e-2, 4e-2))
    assert compute(call, None)[0].equal(compute(call, "banded")[0]), "it is chosen"


def test_dropout_without_keys_is_drawn_by_torch():
    layout = Layout.of([200])
    call = run_of(layout, layout, SlidingWindow(20, 20), dropout=0.5)
    torch.manual_seed(0)
    first, again = compute(call, "banded")[0], compute(call, "banded")[0]
    assert not first.equal(again)
    torch.manual_seed(0)
    assert compute(call, "banded")[0].equal(first)
    torch.manual_seed(0)
    with torch.no_grad():
        assert ragged_attention(call, "banded").equal(first), "with or without gradients"


def test_when_chunks_pay():
    """In float32 ATen's kernel under a dense mask is as fast where a window covers most of a sequence."""

    def reason(
        length: int, structure: Structure, dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> str | None:
        layout = Layout.of([length])
        return banded.refuse(run_of(layout, layout, structure, dtype=dtype, dropout=dropout))

    window = SlidingWindow(64, 64)
    assert "long beside" in str(reason(287, window))
    assert reason(288, window) is None
    assert reason(200, window, torch.bfloat16) is None
    assert reason(200, window, dropout=0.1) is None
    assert "for windows" in str(reason(900, CAUSAL))
    assert "for windows" in str(reason(900, Biased(window, lambda q, k: torch.zeros(3, q, k))))
    more = run_of(Layout.of([900]), Layout.of([800]), window)
    assert "key for each query" in str(banded.refuse(more))


@pytest.mark.parametrize("window", [(5, 5), (5, 0)])
def test_nothing_leaks(window):
    layout = Layout.of([30, 200, 3])
    call = run_of(layout, layout, SlidingWindow(*window), dtype=torch.bfloat16)
    before = ragged_attention(call, "banded")
    value = call.value.detach().clone()
    value[30 + 100] += 3.0
    after = ragged_attention(replace(call, value=value), "banded")
    moved = (before != after).flatten(1).any(dim=1).nonzero().flatten().tolist()
    assert moved == list(range(130 - window[1], 130 + window[0] + 1))  # the positive control: these do move


class Largest(TorchDispatchMode):
    """Notes the numbers of the largest tensor that an operator makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.numel = max(self.numel, out.numel())
        return out


def costs(length: int, backend: str) -> tuple[int, int]:
    """Operations, and the numbers of the largest tensor."""
    layout = Layout.of([length])
    call = run_of(layout, layout, SlidingWindow(20, 20))
    numbers = banded._Numbers(20, 20, 0, call.scale, 0.0, 0, 0)
    with torch.no_grad(), Largest() as largest, FlopCounterMode(display=False) as counter:
        out = ragged_attention(call, backend)
        banded._backward(out, banded._Runs(call.query, call.key, call.value), banded._spans_of(call), None, numbers)
    return counter.get_total_flops(), largest.numel


def test_time_and_memory_grow_with_the_length():
    (flops, numel), (twice, larger) = costs(1000, "banded"), costs(2000, "banded")
    assert 1.9 < twice / flops < 2.1
    assert larger <= 2 * numel
    assert costs(1000, "reference")[1] > 5 * numel, "the control: a dense mask is larger"


@pytest.mark.parametrize("lengths", [(900, 900), (900, 20, 511)], ids=["equal", "ragged"])
def test_one_query_over_a_cache_reads_its_window_alone(lengths):
    keys, queries = CacheSlots(lengths, 1000, torch.device("cpu")), Layout.of([1] * len(lengths))
    call = run_of(queries, keys, SlidingWindow(30, 0))
    with torch.inference_mode(), Largest() as largest:
        got = ragged_attention(replace(call, query=call.query.bfloat16()))
    assert largest.numel <= 32 * call.query.numel(), "neither the cache nor a plan of it"
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, ragged_attention(call, "reference").bfloat16(), atol=1e-2, rtol=1e-2)


def test_operators_are_well_formed():
    layout = Layout.of([40, 3])
    for dropout in (0.0, 0.2):
        call = run_of(layout, layout, SlidingWindow(5, 2), dropout=dropout)
        words = torch.zeros(43, 2, dtype=torch.int32) if dropout else None
        bounds = (layout.offsets, layout.offsets, None, words)
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        runs = (call.query, call.key, call.value)
        torch.library.opcheck(banded.ragged_band, (*runs, *bounds, 5, 2, 0, 0.5, dropout, -4, 0), test_utils=tests)


def test_varlen_is_given_the_window(monkeypatch):
    """What the CUDA kernel is called with; that it computes the same is tested where there is a GPU."""
    seen = {}

    def varlen_attn(query, *_, **options):
        seen.update(options)
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    layout = Layout.of([40, 3])
    on_cuda = SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.bfloat16, requires_grad=False)
    for structure, wanted in ((SlidingWindow(5, 2), (5, 2)), (CAUSAL, (-1, 0)), (BIDIRECTIONAL, (-1, -1))):
        call = run_of(layout, layout, structure)
        assert varlen.refuse(replace(call, query=on_cuda)) is None
        varlen.attend(call)
        assert seen["window_size"] == wanted
    prefixed = replace(call, query=on_cuda, structure=SlidingWindow(5, 2).behind(4))
    assert "no kernel" in str(varlen.refuse(prefixed))
    assert "varlen" in str(banded.refuse(replace(prefixed, structure=SlidingWindow(5, 2))))


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("modernbert", {"local_attention": 16, "global_attn_every_n_layers": 2}),
        ("gpt3", {"window_size": 16, "num_layers": 2, "attention_types": [[["global", "local"], 1]]}),
    ],
)
def test_models_with_windows_take_it(family, overrides, monkeypatch):
    calls = []
    attend = banded.attend
    monkeypatch.setattr(banded, "attend", lambda call: calls.append(call.structure) or attend(call))
    model = build(family, "tiny", [], overrides=overrides).eval()
    layout = Layout.of([200, 130])
    tokens = torch.randint(0, 50, (330,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = model(Batch(tokens, layout)).last_hidden_state
        assert calls
        assert all(isinstance(structure, SlidingWindow) for structure in calls)
        monkeypatch.setattr(attention, "_ORDER", (attention.BACKENDS["reference"],))
        torch.testing.assert_close(got, model(Batch(tokens, layout)).last_hidden_state, atol=2e-5, rtol=1e-4)
