"""Guessed tokens change no text: greedy or sampled, alone or among others, with what ends and penalises texts."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from programinterpreter import Interpreter
from tinymodels import byte_tokenizer

from pretune import native
from pretune.errors import UsageError
from pretune.generate import generate as module
from pretune.generate.generate import generate
from pretune.generate.lookup import PromptLookup
from pretune.generate.options import Continuation, GenerateConfig
from pretune.generate.session import DecodingSession
from pretune.models import build
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.cast import cast_to_bf16


@pytest.fixture(scope="module", params=["gpt2", "bart"])
def plain(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(3)
    vocabulary = byte_tokenizer().vocabulary.size
    return build(request.param, "tiny", ["clm"], overrides={"vocab_size": vocabulary}).eval()


@pytest.fixture
def model(plain: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """One that decodes exactly, by kernels or by what stands for them."""
    if not native.available():
        monkeypatch.setattr(native, "available", lambda: True)
        monkeypatch.setattr(native, "Executor", Interpreter)
    return fuse(plain)


class Counter:
    """Counts the steps of sessions, and the tokens that they are fed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = self.guesses = self.most = 0
        feed, feed_runs = DecodingSession.feed, DecodingSession.feed_runs

        def one(session: DecodingSession, tokens: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            return feed(session, tokens)

        def several(session: DecodingSession, runs: list[list[int]]) -> torch.Tensor:
            self.steps += 1
            self.guesses += sum(len(run) - 1 for run in runs)
            self.most = max(self.most, sum(len(run) - 1 for run in runs))
            return feed_runs(session, runs)

        monkeypatch.setattr(DecodingSession, "feed", one)
        monkeypatch.setattr(DecodingSession, "feed_runs", several)


def prompts(seed: int = 0) -> list[np.ndarray]:
    """Of some lengths, two with runs that come again."""
    rng = np.random.default_rng(seed)
    period = rng.integers(1, 200, 5)
    return [
        np.tile(period, 4),
        rng.integers(1, 200, 3),
        np.tile(rng.integers(1, 200, 3), 6)[:16],
        rng.integers(1, 200, 9),
    ]


def texts(model: LanguageModel, runs: list[np.ndarray], **options: object) -> list[Continuation]:
    return generate(model, byte_tokenizer(), runs, GenerateConfig.model_validate({"max_new_tokens": 40, **options}))


@pytest.mark.parametrize("lookup", [pytest.param(2, marks=pytest.mark.slow), 16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.02, "seed": 3},
        {"temperature": 1.0, "top_k": 3, "seed": 5},
        {"repetition_penalty": 1.3, "min_new_tokens": 12},
        {"no_repeat_ngram_size": 4},
    ],
    ids=["greedy", "cold", "sampled", "penalty", "ngrams"],
)
def test_a_text_is_that_without_guesses(
    model: LanguageModel, options: dict[str, object], lookup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lookup == 2 and not native.available():
        pytest.skip("what stands for kernels is slow")
    want = texts(model, prompts(), lookup=0, **options)
    counter = Counter(monkeypatch)
    assert texts(model, prompts(), lookup=lookup, **options) == want
    assert counter.guesses or "no_repeat_ngram_size" in options, "the control: there were guesses"
    assert counter.most <= lookup, "in a step, of all texts together"
    assert [texts(model, [run], lookup=lookup, **options)[0] for run in prompts()] == want


def test_in_bf16(plain: LanguageModel) -> None:
    if not native.available():
        pytest.skip("kernels")
    half = copy.deepcopy(plain)
    cast_to_bf16(half)
    model = fuse(half)
    for seed in range(3):
        assert texts(model, prompts(seed)) == texts(model, prompts(seed), lookup=0)


def test_what_is_copied_takes_fewer_steps(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prompts()[1]
    loop = np.array(texts(model, [run], lookup=0)[0].tokens)
    runs = [np.concatenate([run, loop])] if not model.has_encoder else [run]
    want = texts(model, runs, lookup=0)
    counter = Counter(monkeypatch)
    assert texts(model, runs) == want
    assert counter.steps <= 20, "of 39"


def test_a_stop_text_inside_guesses_ends_there(model: LanguageModel) -> None:
    want = texts(model, prompts(), lookup=0)[0]
    stop = byte_tokenizer().decode(want.tokens[20:23])
    assert texts(model, prompts(), stop=(stop,)) == texts(model, prompts(), stop=(stop,), lookup=0)
    assert texts(model, prompts(), max_new_tokens=7) == texts(model, prompts(), max_new_tokens=7, lookup=0)


def test_torch_does_not_guess(plain: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    """Its kernels sum in another order for several rows."""
    with caplog.at_level(logging.WARNING, "pretune"):
        want = texts(plain, prompts(), lookup=0)
        assert texts(plain, prompts()) == want
        assert not caplog.records
        assert texts(plain, prompts(), lookup=4) == want
    assert "lookup = 4 has no effect" in caplog.text


def test_guesses_follow_the_last_time() -> None:
    lookup = PromptLookup.of([1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3], 16)
    assert lookup.guess(16) == [6, 7, 1, 2]
    assert lookup.guess(2) == [6, 7]
    assert lookup.guess(0) == []
    lookup.learn(4, [6, 7, 1, 2, 3], 4)
    assert lookup.guess(16) == [6, 7, 1, 2, 3, 6, 7, 1], "twice as many, going round"
    lookup.learn(8, [6, 7, 1, 2, 3, 9], 0)
    assert PromptLookup.of([1, 2], 16).guess(4) == []
    copied = PromptLookup.of([1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3], 16)
    assert copied.guess(16) == [4, 5, 6, 7]
    copied.learn(4, [4, 30], 1)
    assert copied.guess(16) == [], "nothing has followed it yet"
    copied.learn(0, [4, 30, 6], 0)
    assert copied.guess(16) == [7], "a copy goes on behind a word that differs, carefully"
    copied.learn(1, [4, 30, 6, 7, 8], 1)
    assert copied.guess(16) == [9, 0, 1, 2], "three tokens in order say more than one"
    assert PromptLookup.of([1, 1, 1, 1, 1], 0).guess(4) == []


def test_wrong_guesses_become_rare() -> None:
    """A text in which every guess is wrong: at most one step in twenty has a guess, of few tokens."""
    lookup = PromptLookup.of([1, 2, 3, 4] * 3, 16)
    guessed = []
    for step in range(1000):
        guess = lookup.guess(100)
        guessed.append(len(guess))
        lookup.learn(len(guess), [[1, 2, 3, 5][step % 4]], 0)
    assert sum(map(bool, guessed)) <= 25
    assert max(guessed) == 4
    assert any(guessed[500:]), "the control: it goes on to try"


def test_options(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="beam search does not guess"):
        GenerateConfig(beams=2, lookup=3)
    with pytest.raises((ValueError, UsageError)):
        GenerateConfig(lookup=-1)
    assert module.LOOKUP > 0
