"""Training and use on a busy machine: threads are adapted in both, and no bit changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from trainkit import recipe, replaced, shas

from pretune.api import load
from pretune.runtime import spinning
from pretune.runtime.affinity import Confinement, cpus
from pretune.runtime.openmp import SpinLimit
from pretune.train.run import pretrain
from pretune.train.step import TrainStep


class Watch(spinning.SpinWatch):
    """Counts who computes."""

    entered = 0

    @contextmanager
    def computing(self) -> Iterator[None]:
        self.entered += 1
        yield


def test_training_and_every_use_adapt_their_threads(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(None)
    monkeypatch.setattr(spinning, "_watches", [watch])
    pretrain(recipe(tmp_path / "run", store))
    assert watch.entered
    model = load(str(tmp_path / "run"))
    watch.entered = 0
    model.embed(["w1 w2 w3"])
    assert watch.entered == 1


def test_a_run_with_more_threads_than_cpus_says_so(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = replaced(recipe(tmp_path / "run", store), threads=cpus() + 1, track={"progress": "plain"})
    pretrain(begun)
    assert f"{cpus() + 1} threads, as chosen or as the run began, on {cpus()} CPUs" in capsys.readouterr().err


@pytest.mark.skipif(cpus() < 2, reason="one CPU")
def test_a_run_whose_threads_are_moved_about_has_the_same_bits(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spinning, "_watches", [spinning.SpinWatch(None)])
    two = {"threads": 2}
    pretrain(recipe(tmp_path / "quiet", store).model_copy(update=two))
    limit, confinement, run = SpinLimit.of_torch(), Confinement(), TrainStep.run

    def moved(self: TrainStep, step: int, *args: Any) -> Any:
        if limit is not None:
            limit.set(step % 2 == 0)
        tasks = {int(name) for name in os.listdir("/proc/self/task")}
        confinement.start(tasks, threading.get_native_id()) if step % 3 else confinement.end()
        return run(self, step, *args)

    monkeypatch.setattr(TrainStep, "run", moved)
    try:
        pretrain(recipe(tmp_path / "busy", store).model_copy(update=two))
    finally:
        confinement.end()
        if limit is not None:
            limit.set(False)
    last = recipe(tmp_path / "quiet", store).budget.steps
    assert last is not None
    assert torch.get_num_threads() == 2
    assert shas(tmp_path / "quiet", last) == shas(tmp_path / "busy", last)
