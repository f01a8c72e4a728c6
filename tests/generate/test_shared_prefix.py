"""Prompts that begin alike are read once, and give what each gives alone, bit for bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from programinterpreter import Interpreter
from tinymodels import byte_tokenizer

from pretune import native
from pretune.generate.generate import generate
from pretune.generate.options import GenerateConfig
from pretune.generate.session import DecodingSession
from pretune.generate.shared_prefix import read_prompts, shared_prefixes
from pretune.models import build
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel

BEGIN = np.arange(1, 40)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    if not native.available():
        monkeypatch.setattr(native, "available", lambda: True)
        monkeypatch.setattr(native, "Executor", Interpreter)
    torch.manual_seed(0)
    return fuse(build("gpt2", "tiny", ["clm"], overrides={"vocab_size": 300}).eval())


def together(*ends: list[int]) -> list[np.ndarray]:
    return [np.concatenate([BEGIN, np.array(end, np.int64)]) for end in ends]


def session(model: LanguageModel, count: int) -> DecodingSession:
    return DecodingSession(model, 300, count, 100)


@pytest.mark.parametrize(
    ("runs", "read"),
    [
        (together([7], [8, 9], [8, 7, 6], []), 38 + 2 + 3 + 4 + 1),
        ([BEGIN] * 5, 38 + 5),
        (
            [*together([5] * 20, [5] * 20, [6, 7]), np.arange(100, 130), np.arange(100, 131)],
            59 + 38 + 41 - 38 + 2 + 29 + 3,
        ),
    ],
    ids=["ends", "samples", "two"],
)
def test_what_is_common_is_read_once(
    model: LanguageModel, runs: list[np.ndarray], read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = torch.cat([session(model, 1).read([run]) for run in runs])
    fed = []
    for name in ("read", "extend"):
        method = getattr(DecodingSession, name)
        monkeypatch.setattr(
            DecodingSession,
            name,
            lambda self, runs, method=method: fed.append(sum(map(len, runs))) or method(self, runs),
        )
    shared = session(model, len(runs))
    assert read_prompts(shared, runs).equal(want)
    assert sum(fed) <= read < sum(map(len, runs))
    assert shared.lengths == tuple(map(len, runs))
    tokens = torch.arange(len(runs))
    after = shared.feed(tokens)
    for n, run in enumerate(runs):
        alone = session(model, 1)
        alone.read([run])
        assert after[n : n + 1].equal(alone.feed(tokens[n : n + 1])), "what one writes is not in another"


def test_samples_of_one_prompt(model: LanguageModel) -> None:
    config = GenerateConfig(max_new_tokens=12, temperature=1.0, seed=4)
    first, *others = (one.tokens for one in generate(model, byte_tokenizer(), [BEGIN] * 4, config))
    assert first == generate(model, byte_tokenizer(), [BEGIN], config)[0].tokens
    assert len({tuple(tokens) for tokens in (first, *others)}) == 4


def test_nothing_is_shared_where_it_would_change_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gpt2", "tiny", ["clm"], overrides={"vocab_size": 300}).eval()
    monkeypatch.setattr(DecodingSession, "extend", None)
    with torch.no_grad():
        assert read_prompts(session(model, 3), [BEGIN] * 3).shape == (3, 300)
    derived = fuse(model)
    for runs in ([BEGIN], [np.array([1]), BEGIN, BEGIN], [np.array([1, 2]), np.array([1, 3])], [BEGIN, BEGIN[::-1]]):
        assert len(read_prompts(session(derived, len(runs)), runs)) == len(runs)


def cost(runs: list[np.ndarray]) -> int:
    groups = shared_prefixes(runs)
    assert sorted(n for group in groups for n in group.members) == list(range(len(runs)))
    for group in groups:
        begin = runs[group.members[0]][: group.length].tolist()
        assert all(runs[n][: group.length].tolist() == begin and group.length < len(runs[n]) for n in group.members)
    return sum(map(len, runs)) - sum(group.length * (len(group.members) - 1) for group in groups)


def test_random_prompts() -> None:
    """No more is read than in one group for all, or in none; an order changes nothing."""
    for seed in range(60):
        rng = random.Random(seed)
        runs = [np.array([rng.randrange(2) for _ in range(rng.randrange(1, 12))]) for _ in range(rng.randrange(1, 9))]
        common = min(len(run) - 1 for run in runs)
        while common and len({tuple(run[:common]) for run in runs}) > 1:
            common -= 1
        assert cost(runs) <= sum(map(len, runs)) - common * (len(runs) - 1)
        assert cost(runs) == cost(runs[::-1])
