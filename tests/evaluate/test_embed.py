"""Embedding: the same vectors however the work is split, in the order of the texts; what fails in a thread is heard."""

from __future__ import annotations

import logging
import signal
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer
from torch import Tensor

import pretune
from pretune.api import Model
from pretune.batch import ragged
from pretune.errors import DataError
from pretune.evaluate import embed
from pretune.evaluate.embed import _parts, budget_of
from pretune.nn.vectors import PoolingMode
from pretune.runtime.worker_policy import WorkerPolicy
from pretune.text.tokenizer.tokenizer import Tokenizer

SENTENCE = "the quick brown fox jumps over the lazy dog and the cat ate a hat don't you think"
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[n % 5 : n % 5 + 1 + (7 * n) % 13]) for n in range(60)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root = tmp_path_factory.mktemp("models")
    save_bert(root / "bert", word_tokenizer())
    save_gpt2(root / "gpt2", byte_tokenizer())
    return {path.name: pretune.load(path, device="cpu", precision="fp32") for path in root.iterdir()}


@pytest.fixture(autouse=True)
def all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many workers as there are, however busy the machine is."""
    monkeypatch.setattr(embed, "_worker_policy", WorkerPolicy(is_fixed=True))


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts so small that several workers get some, of a network however small."""
    monkeypatch.setattr(embed, "_MIN_TOKENS", 16)
    monkeypatch.setattr(embed, "_MIN_FLOPS", 0.0)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """So many cores; parts small enough that each thread gets some."""
    small_parts(monkeypatch)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@cache
def hidden_states(model: Model, text: str) -> Tensor:
    """What the network gives for one text, as it was loaded. Shape: return: (T, width)"""
    vocabulary, length = model.tokenizer.vocabulary, model.length
    tokens = vocabulary.add_special_tokens(model.tokenizer.encode(text)[: length - vocabulary.overhead(False)])[0]
    with torch.inference_mode():
        return model.network(ragged([tokens])).last_hidden_state


def slowly(model: Model, text: str, pooling: PoolingMode) -> NDArray[np.float32]:
    """The vector of one text, computed alone."""
    hidden = hidden_states(model, text)
    return {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling].numpy()


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("budget", [20, 4096])
def test_each_vector_is_that_of_its_text(
    models: dict[str, Model], threads: int, name: str, pooling: PoolingMode, budget: int
) -> None:
    model = models[name]
    actual = model.embed(TEXTS, pooling, budget=budget)
    wanted = np.stack([slowly(model, text, pooling) for text in TEXTS])
    assert actual.dtype == np.float32
    assert np.abs(actual - wanted).max() < 1e-5 * max(1.0, float(np.abs(wanted).max()))
    assert len(np.unique(np.round(wanted, 3), axis=0)) > 4, "texts that differ, so that a wrong order is seen"


def test_few_texts(models: dict[str, Model], threads: int) -> None:
    model = models["bert"]
    assert model.embed([]).shape == (0, 32)
    assert np.allclose(model.embed(["a hat"])[0], slowly(model, "a hat", "mean"), atol=1e-5)
    assert np.allclose(model.embed(("a hat", "")), [slowly(model, t, "mean") for t in ("a hat", "")], atol=1e-5)
    assert np.linalg.norm(model.embed(TEXTS, normalize=True), axis=1) == pytest.approx(1.0, abs=1e-5)


def test_long_texts_are_cut_and_counted(
    models: dict[str, Model], threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = models["bert"]
    assert model.length == 48
    long = "the cat " * 30
    with caplog.at_level(logging.WARNING, "pretune"):
        actual = model.embed([*TEXTS, long, "the cat " * 23, "a hat", long])
    assert caplog.messages == ["2 of 64 texts cut to 48 tokens"]
    assert np.allclose(actual[60], actual[61], atol=1e-5), "46 words and two special tokens are what is read"
    assert np.allclose(actual[60], actual[63], atol=1e-5)
    assert not np.allclose(actual[60], actual[62], atol=1e-2)


def test_a_text_without_tokens_is_named_by_its_number(models: dict[str, Model], threads: int) -> None:
    with pytest.raises(DataError, match="text 41 of 60 has no tokens"):
        models["gpt2"].embed([*TEXTS[:40], "", *TEXTS[41:]])
    with pytest.raises(DataError, match=r"text 41 of 60: lone surrogate U\+D800 at character 2"):
        models["gpt2"].embed([*TEXTS[:40], "a \ud800", *TEXTS[41:]])


class Limits(WorkerPolicy):
    """Allows so many workers, a number for each part that was computed."""

    def __init__(self, *limits: int) -> None:
        super().__init__()
        self.limits, self.workers = list(limits), list[str]()

    def max_workers(self, available: int) -> int:
        return min(available, self.limits[min(len(self.workers), len(self.limits) - 1)])

    def update(self, ran: int, waited: int, available: int) -> None:
        self.workers.append(threading.current_thread().name)


def test_how_many_workers_compute_changes_no_bit(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    policies = [Limits(3), Limits(1), Limits(1, 1, 1, 3), Limits(3, 1)]
    try:
        vectors = []
        for policy in policies:
            monkeypatch.setattr(embed, "_worker_policy", policy)
            vectors.append(models["bert"].embed(TEXTS))
    finally:
        torch.set_num_threads(before)
    assert len({rows.tobytes() for rows in vectors}) == 1
    assert len({len(policy.workers) for policy in policies}) == 1, "each part once"
    assert len(set(policies[1].workers)) == 1
    assert len(set(policies[2].workers[:3])) == 1
    assert {*policies[1].workers, *policies[2].workers[:3]} == {threading.main_thread().name}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("where", ["tokenizer", "network"])
def test_an_error_in_a_thread_reaches_the_caller(
    models: dict[str, Model], threads: int, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["bert"]
    calls: list[str] = []

    def fail(*_: Any, **__: Any) -> Any:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            raise RuntimeError("the third call fails")
        return whole(*_, **__)

    if where == "tokenizer":
        whole: Any = Tokenizer.encode_batch
        monkeypatch.setattr(Tokenizer, "encode_batch", fail)
    else:
        whole = model._fused.embedding.forward
        monkeypatch.setattr(model._fused.embedding, "forward", fail)
    with pytest.raises(RuntimeError, match="the third call fails"):
        model.embed(TEXTS, budget=20)
    assert len(calls) < len(_parts(TEXTS, 48, 20, threads)), "what had not begun was dropped"
    if where == "tokenizer" or threads > 1:
        assert threading.main_thread().name not in calls[2:]
    assert not [t for t in threading.enumerate() if t.name.startswith(("pretune-embed", "ThreadPool"))]
    assert torch.get_num_threads() == threads


def test_ctrl_c_drops_what_has_not_begun(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    before, main, calls, whole = (
        torch.get_num_threads(),
        threading.main_thread().ident,
        list[str](),
        Tokenizer.encode_batch,
    )
    assert main is not None

    def interrupt(*args: Any, **options: Any) -> Any:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.2)
        time.sleep(0.01)
        return whole(*args, **options)

    monkeypatch.setattr(Tokenizer, "encode_batch", interrupt)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            models["bert"].embed(TEXTS, budget=20)
    finally:
        torch.set_num_threads(before)
        signal.signal(signal.SIGINT, handler)
    assert len(calls) < len(_parts(TEXTS, 48, 20, 2)) - 5


def test_the_cores_are_shared_out(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    model, before, seen = models["bert"], torch.get_num_threads(), set()
    whole = model._fused.embedding.forward

    def look(*args: Any) -> Any:
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        return whole(*args)

    monkeypatch.setattr(model._fused.embedding, "forward", look)
    late: list[int] = []
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(embed, "_WORKERS", 2)
        model.embed(TEXTS)
        assert {cores for _, cores in seen} == {2}
        assert len(seen) <= 2
        seen.clear()
        model.embed(["a hat"])
        assert seen == {(threading.main_thread().name, 4)}, "one text is computed by all cores"
        thread = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert late == [4], "threads that start later have the caller's number"
    finally:
        torch.set_num_threads(before)


def test_little_work_is_that_of_one_core(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other cost more than they compute there, beside busy processes above all."""
    model, before, seen = models["bert"], torch.get_num_threads(), list[tuple[str, int]]()
    whole = model._fused.embedding.forward

    def look(*args: Any) -> Any:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return whole(*args)

    monkeypatch.setattr(model._fused.embedding, "forward", look)
    monkeypatch.setattr(embed, "_MIN_TOKENS", 16)
    try:
        torch.set_num_threads(2)
        alone = model.embed(TEXTS)
        assert seen == [(threading.main_thread().name, 1)], "one part, which one core computes"
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(embed, "_MIN_FLOPS", 0.0)
        np.testing.assert_allclose(model.embed(TEXTS), alone, atol=1e-6)
        assert len(seen) > 2
    finally:
        torch.set_num_threads(before)


def test_the_last_layer_computes_what_is_pooled(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    model = models["bert"]
    last = model._fused.stack.blocks[-1]
    whole = last.forward

    def look(*args: Any) -> Any:
        out = whole(*args)
        rows.append(len(out))
        return out

    monkeypatch.setattr(last, "forward", look)
    for pooling in ("cls", "last"):
        rows.clear()
        model.embed(TEXTS, pooling)  # type: ignore[arg-type]
        assert sum(rows) == len(TEXTS)
    rows.clear()
    model.embed(TEXTS, "mean")
    assert sum(rows) > 3 * len(TEXTS)


def test_bf16_is_near(models: dict[str, Model], tmp_path: Path) -> None:
    save_bert(tmp_path, word_tokenizer())
    half = pretune.load(tmp_path, device="cpu", precision="bf16")
    exact, actual = models["bert"].embed(TEXTS, normalize=True), half.embed(TEXTS, normalize=True)
    assert (exact * actual).sum(axis=1).min() > 0.999
    assert not np.array_equal(exact, actual)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_parts_hold_every_text_once_longest_first(workers: int) -> None:
    texts = ["a" * (n * 37 % 400) for n in range(500)]
    parts = _parts(texts, 64, 512, workers)
    order = np.concatenate(parts).tolist()
    assert sorted(order) == list(range(500))
    lengths = [len(texts[n]) for n in order]
    assert lengths == sorted(lengths, reverse=True)
    tokens = [sum(min(len(texts[n]) // 4 + 2, 64) for n in part) for part in parts]
    assert max(tokens) <= 512
    assert workers == 1 or tokens[-2] < 300, "the last parts are small"
    assert [len(part) for part in _parts(["a" * 10_000] * 3, 64, 10, 2)] == [1, 1, 1], "longer than the budget: alone"
    assert _parts([], 64, 512, workers) == []
    assert budget_of(torch.device("cpu")) < budget_of(torch.device("cuda"))
