"""Texts by native steps: those of transformers and of torch, and the same alone and among others, bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from programinterpreter import Interpreter
from test_every_family import CASES, make, prompts, reference
from tinymodels import byte_tokenizer

from pretune import native
from pretune.errors import UsageError
from pretune.generate import native_steps
from pretune.generate.generate import generate
from pretune.generate.native_steps import bytes_to_pack, native_model
from pretune.generate.options import GenerateConfig
from pretune.generate.session import DecodingSession
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.cast import cast_to_bf16
from pretune.runtime import memory

NEW = 12
EXECUTORS = ["interpreter", pytest.param("kernels", marks=pytest.mark.skipif(not native.available(), reason="kernels"))]


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What runs programs: plain torch, where there are no kernels."""
    if request.param == "interpreter":
        monkeypatch.setattr(native, "available", lambda: True)
        monkeypatch.setattr(native, "Executor", Interpreter)
    return str(request.param)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, LanguageModel]:
    return make(request.param, tmp_path_factory.mktemp("model"))


def texts(model: LanguageModel, runs: list[np.ndarray], **options: object) -> list[list[int]]:
    config = GenerateConfig(max_new_tokens=NEW, **options)  # type: ignore[arg-type]
    return [one.tokens for one in generate(model, byte_tokenizer(), runs, config)]


def native_session(model: LanguageModel, sequences: int) -> DecodingSession:
    session = DecodingSession(model, byte_tokenizer().vocabulary.size, sequences, 64)
    assert session.is_exact
    return session


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_those_of_transformers(executor: str, pair: tuple[object, LanguageModel], beams: int) -> None:
    theirs, model = pair
    derived = fuse(model)
    assert native_model(derived, derived.heads["clm"], 300) is not None
    assert texts(derived, prompts(), beams=beams) == reference(theirs, prompts(), num_beams=beams)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_logits_are_the_same_alone_and_among_others(
    executor: str, pair: tuple[object, LanguageModel], half: bool
) -> None:
    """Eight ragged prompts: bit for bit, through steps, several tokens at once, and rows that leave."""
    if executor == "interpreter" and half:
        pytest.skip("it computes row by row anyway")
    model = copy.deepcopy(pair[1])
    if half:
        cast_to_bf16(model)
    derived = fuse(model)
    rng = np.random.default_rng(0)
    runs = [rng.integers(2, 300, size=n) for n in (3, 17, 1, 30, 8, 8, 2, 16)]
    later = [rng.integers(2, 300, size=4) for _ in runs]
    together = native_session(derived, len(runs))
    first = together.read(runs)
    second = together.feed(torch.tensor([int(more[0]) for more in later]))
    third = together.feed_runs([more[1:3].tolist() for more in later]).view(len(runs), 2, -1)
    together.select(torch.tensor([6, 1, 3]))
    fourth = together.feed(torch.tensor([int(later[n][3]) for n in (6, 1, 3)]))
    assert together.best == fourth.argmax(1).tolist()
    for n, (run, more) in enumerate(zip(runs, later, strict=True)):
        alone = native_session(derived, 1)
        assert torch.equal(alone.read([run])[0], first[n])
        assert torch.equal(alone.feed(torch.tensor([int(more[0])]))[0], second[n])
        assert torch.equal(alone.feed(torch.tensor([int(more[1])]))[0], third[n, 0])
        assert torch.equal(alone.feed(torch.tensor([int(more[2])]))[0], third[n, 1])
        if n in (6, 1, 3):
            assert torch.equal(alone.feed(torch.tensor([int(more[3])]))[0], fourth[[6, 1, 3].index(n)])


def test_logits_are_those_of_torch(
    executor: str, pair: tuple[object, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    derived = fuse(pair[1])
    rng = np.random.default_rng(1)
    runs = [rng.integers(2, 300, size=n) for n in (5, 20, 1)]

    def every(session: DecodingSession) -> torch.Tensor:
        out = [session.read(runs), session.feed_runs([[5, 6, 7], [8], [9, 10]])]
        lengths = session.lengths
        session.truncate([lengths[0] - 2, lengths[1], lengths[2] - 1])
        session.select(torch.tensor([2, 0, 0]))
        out.append(session.feed(torch.tensor([11, 12, 13])))
        return torch.cat(out)

    got = every(native_session(derived, 3))
    monkeypatch.setattr(native_steps.native, "available", lambda: False)
    torch_session = DecodingSession(derived, 300, 3, 64)
    assert not torch_session.is_exact
    want = every(torch_session)
    torch.testing.assert_close(got, want, atol=2e-5 * float(want.abs().max()), rtol=1e-5)


def test_a_model_that_may_still_change_runs_by_torch(executor: str, pair: tuple[object, LanguageModel]) -> None:
    model = pair[1]
    assert native_model(model, model.heads["clm"], 300) is None
    assert not DecodingSession(model, 300, 1, 64).is_exact


def test_a_sequence_has_no_more_tokens_than_the_model_has_positions(
    executor: str, pair: tuple[object, LanguageModel]
) -> None:
    model = fuse(pair[1])
    session = native_session(model, 1)
    if model.max_length is None:
        pytest.skip("it has no limit")
    session.read([np.full(3, 5)])
    with pytest.raises(ValueError, match="longer than the model's 64 positions"):
        session.feed_runs([[5] * 64])


def test_kernels_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of decoding by torch, as on a machine without a compiler."""
    theirs, model = make("llama", tmp_path)
    monkeypatch.setenv("PRETUNE_NATIVE", "0")
    native.reload()
    try:
        assert not native.available()
        assert "PRETUNE_NATIVE" in str(native.reason())
        derived = fuse(model)
        assert not DecodingSession(derived, 300, 1, 64).is_exact
        assert texts(derived, prompts()) == reference(theirs, prompts())
        assert texts(derived, prompts(), beams=3) == reference(theirs, prompts(), num_beams=3)
    finally:
        monkeypatch.undo()
        native.reload()


def test_the_copy_of_the_weights_is_counted_once(
    executor: str, pair: tuple[object, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels have a copy of all weights, of rounded ones too, which was not asked for before it was made."""
    derived = fuse(pair[1])
    head, prompt = derived.heads["clm"], prompts()[:1]
    copy_bytes = bytes_to_pack(derived, head, 300)
    assert copy_bytes > sum(p.nbytes for p in pair[1].stack.parameters() if p.dim() == 2) / 2
    monkeypatch.setattr(memory, "free_memory", lambda device: copy_bytes)
    with pytest.raises(UsageError, match=r"beside a copy of the weights of .* GB for the kernels, needs"):
        texts(derived, prompt)
    with pytest.raises(UsageError, match="a copy of the weights in the layout of the kernels needs"):
        native_session(derived, 1)
    monkeypatch.setattr(memory, "free_memory", lambda device: 8 * copy_bytes + (1 << 20))
    whole = texts(derived, prompt)
    assert bytes_to_pack(derived, head, 300) == 0
    monkeypatch.setattr(memory, "free_memory", lambda device: 1 << 20)
    assert texts(derived, prompt) == whole
