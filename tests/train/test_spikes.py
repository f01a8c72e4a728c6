"""Explosions of the loss that stay finite: found at once, said, left out or undone, the same bits after any kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainkit import SHAPE, lines, recipe, replaced, shas, stop_at

from pretune.batch import Batch
from pretune.errors import DivergenceError
from pretune.loss import Term
from pretune.objectives.objective import Objective
from pretune.report.report import write_report
from pretune.runtime.distributed import Distributed
from pretune.runtime.signals import SignalError
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from pretune.train.spike import History, SpikeConfig, find_spike
from pretune.train.step import TermAccumulator

COUNTS = {"mlm": 10}


def spikes_in(losses: Any, norms: Any | None = None) -> list[int]:
    history: History = {}
    config = SpikeConfig()
    norms = np.ones(len(losses)) if norms is None else norms
    steps = enumerate(zip(np.asarray(losses).tolist(), np.asarray(norms).tolist(), strict=True))
    return [n for n, (loss, norm) in steps if find_spike(history, COUNTS, loss, norm, config) is not None]


def test_a_threefold_loss_is_found_in_its_step() -> None:
    rng = np.random.default_rng(0)
    losses = 4.0 + 0.1 * rng.standard_normal(400)
    losses[300] *= 3
    assert spikes_in(losses) == [300]
    norms = np.exp(0.2 * rng.standard_normal(400))
    norms[350] *= 30
    assert spikes_in(np.full(400, 4.0), norms) == [350]


def test_healthy_runs_have_next_to_no_spikes() -> None:
    """20 runs of 2,000 steps each: falling losses, a lost cause, and the long tails of small batches in fine-tuning."""
    rng = np.random.default_rng(1)
    steps = np.arange(2000)
    found = 0
    for _ in range(20):
        falling = 2.0 + 8.0 * np.exp(-steps / 150) + 0.15 * rng.standard_normal(2000)
        flat = 10.4 + 0.01 * rng.standard_normal(2000)
        rounded = np.round(flat, 1)  # whose median distance from the median is 0
        tails = rng.gamma(0.5, 0.1, 2000)
        norms = np.exp(0.7 * rng.standard_normal(2000))
        found += sum(len(spikes_in(losses, norms)) for losses in (falling, flat, rounded, tails))
    assert found <= 4  # in 160,000 steps


def test_what_is_trained_is_compared_with_itself() -> None:
    history: History = {}
    config = SpikeConfig(window=8)
    for _ in range(20):
        assert find_spike(history, {"mlm": 5, "clm": 0}, 1.0, 1.0, config) is None
        assert find_spike(history, {"mlm": 0, "clm": 5}, 9.0, 1.0, config) is None
    assert sorted(history) == ["clm", "mlm"]
    assert all(len(each) == 8 for each in history.values())
    assert find_spike(history, {"mlm": 5}, 9.0, 1.0, config) is not None


def test_which_checkpoints_a_later_spike_may_need() -> None:
    config = SpikeConfig(policy="rollback", every=10)
    for step in range(100):
        for later in range(step + 1, step + 30):
            needed = [good for good in range(10, step + 1, 10) if good <= later - 5]
            assert not needed or later > step + 16 or needed[-1] in config.good_states(step)
        assert len(config.good_states(step)) <= 2
    assert SpikeConfig(every=10).good_states(50) == []


@pytest.mark.parametrize("other", [3.0, float("nan")])
def test_all_ranks_decide_by_the_same_norm(monkeypatch: pytest.MonkeyPatch, other: float) -> None:
    """Two machines add a norm up in orders of their own: one might see a spike where the other sees none."""
    of_other = [other, 5.0, 0.0]
    monkeypatch.setattr(Distributed, "sum", lambda self, values: [a + b for a, b in zip(values, of_other, strict=True)])
    accumulator = TermAccumulator()
    accumulator.add([Term("mlm", torch.tensor(2.0), 10)])
    result = accumulator.read(["mlm"], Distributed(0, 2), torch.tensor(1.0))
    assert result.sums == {"mlm": 7.0}
    assert result.norm == 2.0 or not result.finite
    assert result.finite == (other == 3.0)


# -- runs with poisoned samples ---------------------------------------------------------------------------------------


def poisoned(store: Path, output: Path, policy: str, **over: Any) -> Recipe:
    tables = {
        "spike": {"policy": policy, "window": 8, "every": 4},
        "budget": {"steps": 24},
        "checkpoint": {"every": 100, "keep": 1},
        "evaluation": {"samples": 0},
        "optimizer": {"lr": 1e-3},
        "model": {"family": "bert", "size": "tiny", "overrides": {**SHAPE, "hidden_dropout_prob": 0.0}},
        "objective": {"mlm": 1.0},
        "max_skipped": 0.5,
        "track": {"every": 1, "progress": "plain", "report": False},
    }
    return replaced(recipe(output, store), **{**tables, **over})


def poison(monkeypatch: pytest.MonkeyPatch, at: int, factor: float = 300.0) -> None:
    """Let the loss of the samples of a step of the clean run explode, whenever they are drawn."""
    forward = Objective.forward
    clean = json.loads((CLEAN["folder"] / "samples.json").read_text())[at]
    bad = {tuple(sample) for sample in clean}

    def exploding(self: Objective, model: Any, batch: Batch) -> list[Term]:
        terms = forward(self, model, batch)
        scale = factor if self.training and bad & {tuple(map(int, sample)) for sample in batch.samples} else 1.0
        return [Term(t.name, t.sum * scale, t.count, t.weight, t.correct) for t in terms]

    monkeypatch.setattr(Objective, "forward", exploding)


CLEAN: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def clean(tmp_path_factory: pytest.TempPathFactory, store: Path) -> None:
    """A run without poison, with the samples of each of its steps."""
    folder = tmp_path_factory.mktemp("clean")
    samples: list[list[list[int]]] = []
    forward = Objective.forward

    def noting(self: Objective, model: Any, batch: Batch) -> list[Term]:
        samples.append([[int(n) for n in sample] for sample in batch.samples])
        return forward(self, model, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "forward", noting)
        pretrain(poisoned(store, folder / "run", "note"))
    (folder / "samples.json").write_text(json.dumps(samples))
    CLEAN.update(folder=folder, losses=[line["loss"] for line in lines(folder / "run")])


def finished(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())["finished"]
    return facts


def test_a_healthy_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run = CLEAN["folder"] / "run"
    assert finished(run)["skipped_steps"] == finished(run)["spikes"] == 0
    assert "went back" not in (run / "run.json").read_text()


def test_note_says_it_and_trains_on(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, 15)
    pretrain(poisoned(store, tmp_path / "run", "note"))
    text = capsys.readouterr().err
    assert "warning: spike at step 16: loss" in text
    assert "1 of 24 steps with a spike" in text
    assert finished(tmp_path / "run")["spikes"] == 1
    assert len(lines(tmp_path / "run")) == 24


def test_skip_leaves_the_step_out_and_says_n_of_m(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, 15)
    pretrain(poisoned(store, tmp_path / "run", "skip"))
    text = capsys.readouterr().err
    assert "warning: skipped step 16: loss" in text
    assert "warning: 1 of 24 steps skipped" in text
    assert finished(tmp_path / "run")["skipped_steps"] == 1
    assert "1 of 24" in write_report(tmp_path / "run").read_text()
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert losses[:15] == CLEAN["losses"][:15]
    assert losses[-1] == pytest.approx(CLEAN["losses"][-1], rel=0.02)


def test_rollback_goes_back_and_round_the_data(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, 15)
    pretrain(poisoned(store, tmp_path / "run", "rollback"))
    text = capsys.readouterr().err
    assert "Went back to checkpoint-12; the data of steps 13 to 16 are left out" in text
    assert finished(tmp_path / "run")["rollbacks"] == [[16, 12]]
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(1, 25))
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert losses[:12] == CLEAN["losses"][:12]
    assert losses[12:16] == pytest.approx(CLEAN["losses"][16:20], rel=0.02)  # the data after the spike


@pytest.mark.parametrize("steps", [(15,), pytest.param((12, 14, 13), marks=pytest.mark.slow)])
def test_a_rollback_is_the_same_after_any_kill(
    steps: tuple[int, ...], tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 15)
    pretrain(poisoned(store, tmp_path / "whole", "rollback"))
    for step in steps:
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(SignalError):
                pretrain(poisoned(store, tmp_path / "parts", "rollback"))
    pretrain(poisoned(store, tmp_path / "parts", "rollback"))
    assert shas(tmp_path / "parts", 24) == shas(tmp_path / "whole", 24)
    assert finished(tmp_path / "parts")["rollbacks"] == [[16, 12]]


def test_too_many_rollbacks_stop_the_run(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Objective.forward
    calls: list[int] = []

    def worse(self: Objective, model: Any, batch: Batch) -> list[Term]:
        calls.append(1)
        scale = 300.0 if self.training and len(calls) > 15 else 1.0
        return [Term(t.name, t.sum * scale, t.count, t.weight, t.correct) for t in forward(self, model, batch)]

    monkeypatch.setattr(Objective, "forward", worse)
    with pytest.raises(DivergenceError, match="after 3 rollbacks already"):
        pretrain(poisoned(store, tmp_path / "run", "rollback"))


def test_a_level_that_stays_is_no_spike_for_ever(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = Objective.forward
    calls: list[int] = []

    def higher(self: Objective, model: Any, batch: Batch) -> list[Term]:
        calls.append(1)
        scale = 3.0 if self.training and len(calls) > 12 else 1.0
        return [Term(t.name, t.sum * scale, t.count, t.weight, t.correct) for t in forward(self, model, batch)]

    monkeypatch.setattr(Objective, "forward", higher)
    pretrain(poisoned(store, tmp_path / "run", "skip"))
    assert "5 steps in a row were spikes: the loss stays at this level" in capsys.readouterr().err
    assert finished(tmp_path / "run")["skipped_steps"] == 5


def test_a_run_of_which_too_much_is_skipped_fails(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = {"nonfinite": 100, "max_skipped": 0.1, "optimizer": {"lr": 1e30, "clip": 0.0}, "schedule": {"warmup": 0.0}}
    with pytest.raises(DivergenceError, match=r"3 of \d+ steps were skipped, more than max_skipped = 0.1 of the 24"):
        pretrain(poisoned(store, tmp_path / "run", "off", **over))
    assert "finished" not in json.loads((tmp_path / "run/run.json").read_text())
    assert not (tmp_path / "run/model.safetensors").exists()


def test_no_model_is_written_whose_last_evaluation_is_no_number(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The update of the last step ruins the weights, and no later step could tell."""
    over = {"optimizer": {"lr": 1e30, "clip": 0.0}, "schedule": {"warmup": 0.0, "kind": "constant"}}
    over |= {"budget": {"steps": 1}, "evaluation": {"samples": 16, "every": 1}}
    for _ in range(2):
        with pytest.raises(DivergenceError, match="step 1: the weights give no finite loss on the validation data"):
            pretrain(poisoned(store, tmp_path / "run", "note", **over))
    assert "warning: step 1: validation loss nan" in capsys.readouterr().err
    assert lines(tmp_path / "run")[-1]["eval/loss"] is None
    assert "NaN" not in (tmp_path / "run/metrics.jsonl").read_text()
