"""A whole step in C against torch: every operation, every instruction set, and the same bits alone and among others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretune import native
from pretune.native.cache import PAGE, PagedCache
from pretune.native.program import (
    Activate,
    Add,
    AddPosition,
    AddVector,
    Attend,
    CacheShape,
    Columns,
    Copy,
    CrossAttend,
    Embed,
    Gate,
    LayerNorm,
    Multiply,
    Operation,
    Program,
    RmsNorm,
    Rotate,
    Rotation,
    Scores,
    StepResult,
)
from tests.native.conftest import random_matrix

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled: make native")
VARIANTS = [name for name, supported in native.variants().items() if supported] if native.available() else []
VOCABULARY, WIDTH, HEADS, KEY_HEADS, HEAD = 90, 48, 4, 2, 12
INNER = 64
X, NORMED, QKV, MIXED, UP = (Columns(n, 0, w) for n, w in enumerate((WIDTH, WIDTH, 96, 48, 128)))


def columns(base: Columns, start: int, width: int) -> Columns:
    return Columns(base.buffer, start, width)


QUERY, KEY, VALUE = columns(QKV, 0, 48), columns(QKV, 48, 24), columns(QKV, 72, 24)


class Gqa:
    """A model with one of everything, as a program and in torch, in fp64."""

    def __init__(self, *, before: int | None, biased: bool, interleaved: bool, crosses: bool = False) -> None:
        self.before, self.interleaved, self.crosses = before, interleaved, crosses
        names = {"vocabulary": (VOCABULARY, WIDTH), "qkv": (96, WIDTH), "out": (WIDTH, 48), "up": (128, WIDTH)}
        names |= {"down": (WIDTH, INNER), "cross_q": (48, WIDTH), "cross_out": (WIDTH, 48)}
        pairs = {name: random_matrix("fp32", *shape, seed=n) for n, (name, shape) in enumerate(names.items())}
        self.matrices = {name: matrix for name, (matrix, _) in pairs.items()}
        self.w = {name: dense.double() for name, (_, dense) in pairs.items()}
        draw = torch.Generator().manual_seed(1)
        self.positions = torch.randn(200, WIDTH, generator=draw)
        self.vector = torch.randn(WIDTH, generator=draw)
        self.norm = torch.rand(HEAD, generator=draw) + 0.5
        self.gain, self.shift = torch.rand(WIDTH, generator=draw), torch.randn(WIDTH, generator=draw)
        self.frequencies = torch.rand(5, generator=draw)
        self.bias = torch.randn(HEADS, 7, generator=draw) if biased else None
        self.score_bias = torch.randn(VOCABULARY, generator=draw)

    def program(self) -> Program:
        m = self.matrices
        layer: list[Operation] = [
            RmsNorm(X, NORMED, self.gain, 1e-6, WIDTH),
            Multiply(m["qkv"], None, NORMED, QKV),
            RmsNorm(QUERY, QUERY, self.norm, 1e-6, HEAD),
            Rotate(QUERY, HEAD, 0, self.interleaved),
            Rotate(KEY, HEAD, 0, self.interleaved),
            Attend(QUERY, KEY, VALUE, MIXED, 0, HEADS, KEY_HEADS, HEAD, 0.3, self.before, self.bias),
            Multiply(m["out"], None, MIXED, X, add=True),
        ]
        if self.crosses:
            layer += [
                Multiply(m["cross_q"], None, X, columns(QKV, 0, 48)),
                CrossAttend(columns(QKV, 0, 48), MIXED, 0, HEADS, KEY_HEADS, HEAD, 0.5),
                Multiply(m["cross_out"], None, MIXED, X, add=True),
            ]
        gate, value = columns(UP, 0, INNER), columns(UP, INNER, INNER)
        layer += [
            LayerNorm(X, NORMED, self.gain, self.shift, 1e-5),
            Multiply(m["up"], None, NORMED, UP),
            Gate(gate, value, gate, "silu"),
            Multiply(m["down"], None, gate, NORMED),
            Add(NORMED, X),
        ]
        ops = [
            Embed(m["vocabulary"], X, 2.0),
            AddPosition(self.positions, X, 3),
            AddVector(self.vector, X),
            *layer,
            Copy(X, NORMED, 0.7),
            Activate(NORMED, NORMED, "tanh"),
            Scores(m["vocabulary"], self.score_bias, NORMED),
        ]
        shape = CacheShape(1, KEY_HEADS, HEAD)
        rotations = (Rotation(self.frequencies, 1.1),)
        return Program((48, 48, 96, 48, 128), tuple(ops), shape, shape if self.crosses else None, rotations, 190)

    def rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()

    def rotate(self, x: Tensor) -> Tensor:
        angle = torch.arange(len(x))[:, None, None].double() * self.frequencies.double()
        cosine, sine = angle.cos() * 1.1, angle.sin() * 1.1
        out = x.clone()
        a, b = (x[..., 0:10:2], x[..., 1:10:2]) if self.interleaved else (x[..., :5], x[..., 5:10])
        first, second = a * cosine - b * sine, b * cosine + a * sine
        if self.interleaved:
            out[..., 0:10:2], out[..., 1:10:2] = first, second
        else:
            out[..., :5], out[..., 5:10] = first, second
        return out

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
        k, v = (t.repeat_interleave(HEADS // KEY_HEADS, 1) for t in (k, v))
        weights = (torch.einsum("qhd,khd->hqk", q, k) * scale + mask).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)

    def scores(self, tokens: list[int], encoder: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Scores of all rows of a text. Shape: (T, V) fp64."""
        w, count = self.w, len(tokens)
        x = 2 * w["vocabulary"][tokens] + self.positions[3 : 3 + count].double() + self.vector
        q, k, v = (self.rms(x, self.gain) @ w["qkv"].T).split([48, 24, 24], 1)
        q = self.rotate(self.rms(q.view(count, HEADS, HEAD), self.norm))
        k, v = self.rotate(k.view(count, KEY_HEADS, HEAD)), v.view(count, KEY_HEADS, HEAD)
        distance = torch.arange(count)[:, None] - torch.arange(count)
        hidden = (distance < 0) | (distance > (count if self.before is None else self.before))
        mask = (
            torch.zeros(1, count, count).double() if self.bias is None else self.bias[:, distance.clamp(0, 6)].double()
        )
        x = x + self.attend(q, k, v, 0.3, mask.masked_fill(hidden, -torch.inf)) @ w["out"].T
        if encoder is not None:
            q = (x @ w["cross_q"].T).view(count, HEADS, HEAD)
            key, value = (t.double() for t in encoder)
            x = x + self.attend(q, key, value, 0.5, torch.zeros(1, 1, 1).double()) @ w["cross_out"].T
        normed = F.layer_norm(x, (WIDTH,), self.gain.double(), self.shift.double(), 1e-5)
        gate, value = (normed @ w["up"].T).split(INNER, 1)
        x = x + (F.silu(gate) * value) @ w["down"].T
        return (0.7 * x).tanh() @ w["vocabulary"].T + self.score_bias


TEXT = torch.randint(0, VOCABULARY, (120,), generator=torch.Generator().manual_seed(7)).tolist()


def run(executor: native.Executor, tokens: list[int], cross: PagedCache | None = None) -> StepResult:
    """Reads a text in one call."""
    cache = PagedCache(CacheShape(1, KEY_HEADS, HEAD))
    slot = cache.admit()
    rows = range(len(tokens))
    return executor.run(cache, tokens, [slot] * len(tokens), wanted=list(rows), top=4, log_sum=True, cross=cross)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("before", "biased", "interleaved"), [(None, False, False), (20, True, True), (0, False, True)]
)
def test_a_step_is_what_torch_computes(
    variant: str, before: int | None, biased: bool, interleaved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETUNE_ISA", variant)
    native.reload()
    model = Gqa(before=before, biased=biased, interleaved=interleaved)
    result, exact = run(native.Executor(model.program()), TEXT), model.scores(TEXT)
    assert (result.scores - exact).abs().max() < 1e-5
    assert (result.log_sum - exact.logsumexp(1)).abs().max() < 1e-5
    best = result.scores.topk(4)
    assert torch.equal(result.ids, best.indices)
    assert torch.equal(result.values, best.values)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_encoder_is_attended_to(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETUNE_ISA", variant)
    native.reload()
    model = Gqa(before=None, biased=False, interleaved=False, crosses=True)
    keys, values = torch.randn(2, 37, KEY_HEADS, HEAD)
    cross = PagedCache(CacheShape(1, KEY_HEADS, HEAD))
    slot = cross.admit()
    cross.reserve(slot, 37)
    cross.write(slot, 0, keys, values)
    cross.lengths[slot] = 37
    result = run(native.Executor(model.program()), TEXT[:40], cross)
    assert (result.scores - model.scores(TEXT[:40], (keys, values))).abs().max() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_alone_and_among_others(variant: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETUNE_ISA", variant)
    native.reload()
    executor = native.Executor(Gqa(before=30, biased=True, interleaved=False).program())
    together = run(executor, TEXT).scores.clone()
    native.set_threads(threads)
    cache = PagedCache(CacheShape(1, KEY_HEADS, HEAD))
    slots = [cache.admit() for _ in range(3)]
    executor.run(cache, TEXT[:50] + TEXT[:7], [slots[0]] * 50 + [slots[2]] * 7, wanted=[])
    at = {slots[0]: 50, slots[1]: 0, slots[2]: 7}
    for step in range(20):  # one, two and three rows of texts at different places
        rows = [(slot, at[slot] + n) for slot in slots for n in range(1 + (slot + step) % 3)]
        wanted = list(range(len(rows)))
        result = executor.run(cache, [TEXT[p] for _, p in rows], [slot for slot, _ in rows], wanted=wanted)
        assert torch.equal(result.scores, together[[position for _, position in rows]])
        at = {slot: cache.lengths[slot] for slot in slots}


def test_two_threads_run_one_executor() -> None:
    executor = native.Executor(Gqa(before=None, biased=False, interleaved=False).program())
    texts = [TEXT[n:] + TEXT[:n] for n in range(2)]
    want = [run(executor, text).scores.clone() for text in texts]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            first, second = pool.map(lambda text: run(executor, text), texts)
            assert torch.equal(first.scores, want[0])
            assert torch.equal(second.scores, want[1])


def test_log_sums_without_the_best_tokens() -> None:
    executor = native.Executor(Gqa(before=None, biased=False, interleaved=False).program())
    results = []
    for top in (0, 2):
        cache = PagedCache(CacheShape(1, KEY_HEADS, HEAD))
        wanted = list(range(9))
        results.append(executor.run(cache, TEXT[:9], [cache.admit()] * 9, wanted=wanted, top=top, log_sum=True))
    assert torch.equal(results[0].log_sum, results[1].log_sum)
    assert torch.allclose(results[0].log_sum, results[0].scores.logsumexp(1))


def test_long_runs_are_cut_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = native.Executor(Gqa(before=None, biased=False, interleaved=False).program())
    whole = run(executor, TEXT)
    names = ("ids", "values", "scores", "hidden")
    kept = [getattr(whole, name).clone() for name in names]
    monkeypatch.setattr("pretune.native.executor.ROWS_AT_ONCE", 33)
    parts = run(executor, TEXT)
    assert all(
        torch.equal(a, b) for a, b in zip(kept, (parts.ids, parts.values, parts.scores, parts.hidden), strict=True)
    )


def test_stale_numbers_in_pages_are_not_read() -> None:
    executor = native.Executor(Gqa(before=None, biased=False, interleaved=False).program())
    clean = run(executor, TEXT[: PAGE + 3]).scores.clone()
    cache = PagedCache(CacheShape(1, KEY_HEADS, HEAD))
    for _ in range(2):
        slot = cache.admit()
        cache.reserve(slot, 2 * PAGE)
        nan = torch.full((2 * PAGE, KEY_HEADS, HEAD), torch.nan)
        cache.write(slot, 0, nan, nan)
        rows = [executor.run(cache, [token], [slot], wanted=[0]).scores[0].clone() for token in TEXT[: PAGE + 3]]
        assert torch.equal(torch.stack(rows), clean)


def test_equal_scores_are_ordered_by_id_and_none_is_the_best_where_one_is_not_finite() -> None:
    matrix, _ = random_matrix("fp32", 300, 32)
    matrix.tensors["values"].zero_()
    bias = torch.zeros(300)
    bias[[5, 70, 299]] = 1.0
    source = Columns(0, 0, 32)
    program = Program((32,), (Embed(matrix, source), Scores(matrix, bias, source)), CacheShape(1, 1, 4))
    executor = native.Executor(program)
    cache = PagedCache(program.cache)
    slot = cache.admit()
    for top in (1, 3, 6, 300):
        result = executor.run(cache, [0], [slot], wanted=[0], top=top)
        assert result.ids[0, : min(top, 6)].tolist() == [5, 70, 299, 0, 1, 2][:top]
        assert sorted(result.ids[0].tolist()) == sorted(set(result.ids[0].tolist()))
    for place, value in ((7, torch.inf), (299, -torch.inf), (290, torch.nan)):
        spoilt = bias.clone()
        spoilt[place] = value
        program = Program((32,), (Embed(matrix, source), Scores(matrix, spoilt, source)), CacheShape(1, 1, 4))
        result = native.Executor(program).run(cache, [0], [slot], wanted=[0], top=2)
        assert result.ids.tolist() == [[-1, -1]]
        assert result.values.isnan().all()


def test_what_does_not_fit_is_refused() -> None:
    executor = native.Executor(Gqa(before=None, biased=False, interleaved=False).program())
    cache = PagedCache(CacheShape(1, KEY_HEADS, HEAD))
    slot = cache.admit()
    with pytest.raises(ValueError, match="191 tokens is longer than the model's 190 positions"):
        executor.run(cache, [0] * 191, [slot] * 191, wanted=[])
    with pytest.raises(ValueError, match="tokens are 0 to 90, the vocabulary has 90"):
        executor.run(cache, [0, 90], [slot] * 2, wanted=[])
    assert cache.lengths == [0]
    matrix, _ = random_matrix("fp32", 32, 32)
    a, b = Columns(0, 0, 32), Columns(0, 16, 32)
    shape = CacheShape(1, 1, 4)
    for widths, ops, message in [
        ((64,), (Multiply(matrix, None, a, b), Scores(matrix, None, a)), "cannot write over what it reads"),
        ((32,), (Scores(matrix, None, b),), "no 32 columns"),
        ((64,), (Scores(matrix, None, a), Add(a, b)), "ends with its only Scores"),
    ]:
        with pytest.raises(ValueError, match=message):
            native.Executor(Program(widths, ops, shape))
