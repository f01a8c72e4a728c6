"""Each objective with the family that it was published with: resumed bit for bit, and the same for one rank and two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainkit import home_recipe, lines, make_store, run_ranks, shas, stop_at, untimed

from pretune.find import variants
from pretune.runtime.signals import SignalError
from pretune.train.run import pretrain
from pretune.train.step import TrainStep

STEPS, STOP = 6, 3
OVER: dict[str, Any] = {
    "budget": {"steps": STEPS},
    "checkpoint": {"every": 5},
    "evaluation": {"samples": 8, "every": 3},
    "model": {"dropout": 0.1},
}
OBJECTIVES = variants("objectives")
QUICK = ("mlm", "cert", "rtd", "prefix")  # what a step gathers, a second model, memory


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose tokenizer has sentinels."""
    return make_store(tmp_path_factory.mktemp("marked"), sentinels=8)


@pytest.mark.parametrize(
    "objective",
    [pytest.param(o, marks=() if o in ("mlm", "plm", "cert", "prefix") else pytest.mark.slow) for o in OBJECTIVES],
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    objective: str, marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halves, other = (tmp_path / name for name in ("whole", "halves", "other"))
    pretrain(home_recipe(objective, whole, marked, **OVER))
    with monkeypatch.context() as patch:
        stop_at(patch, STOP)
        with pytest.raises(SignalError, match=f"after step {STOP + 1}"):
            pretrain(home_recipe(objective, halves, marked, **OVER))
    steps: list[int] = []
    run = TrainStep.run

    def counting(self: TrainStep, step: int, *args: Any) -> Any:
        steps.append(step)
        return run(self, step, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "run", counting)
        pretrain(home_recipe(objective, halves, marked, **OVER))
    assert steps == list(range(STOP + 1, STEPS))
    pretrain(home_recipe(objective, other, marked, **OVER, seed=1))
    assert shas(whole, STEPS) == shas(halves, STEPS) != shas(other, STEPS)
    assert untimed(whole) == untimed(halves)
    weights = sorted(path.relative_to(whole) for path in whole.glob("**/model.safetensors") if "check" not in str(path))
    folders = ["generator", "initial", "."] if objective == "rtd" else ["initial", "."]
    assert {str(path.parent) for path in weights} == set(folders)
    for path in weights:
        assert (whole / path).read_bytes() == (halves / path).read_bytes()


@pytest.fixture(scope="module")
def ranks(marked: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of all runs; exit codes and standard errors of both ranks for each objective."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_ranks(marked, folder, *QUICK)


@pytest.fixture(scope="module")
def other_ranks(marked: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The same of the others."""
    folder = tmp_path_factory.mktemp("others")
    return folder, run_ranks(marked, folder, *(name for name in OBJECTIVES if name not in QUICK))


@pytest.mark.parametrize(
    "objective", [pytest.param(o, marks=() if o in QUICK else pytest.mark.slow) for o in OBJECTIVES]
)
def test_two_ranks_with_two_parts_each_are_one_process(objective: str, request: pytest.FixtureRequest) -> None:
    folder, actual = request.getfixturevalue("ranks" if objective in QUICK else "other_ranks")
    assert actual[objective][0] == [0, 0], actual[objective]
    check_alike(*(folder / f"{objective}-{count}" for count in ("one", "two")))


def test_a_wrong_scale_is_found_out(
    ranks: tuple[Path, dict[str, Any]], marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: as many predictions counted as if each rank had had the whole batch."""
    run = TrainStep.run

    def doubled(self: TrainStep, step: int, batches: Any, counts: dict[str, int], *rest: Any) -> Any:
        return run(self, step, batches, {name: 2 * count for name, count in counts.items()}, *rest)

    over = {"model": {"dropout": 0.1}, "optimizer": {"eps": 1e-3}, "data": {"accumulate": 1}}
    pretrain(home_recipe("mlm", tmp_path / "same", marked, **over))
    check_alike(ranks[0] / "mlm-one", tmp_path / "same")
    monkeypatch.setattr(TrainStep, "run", doubled)
    pretrain(home_recipe("mlm", tmp_path / "doubled", marked, **over))
    with pytest.raises(AssertionError):
        check_alike(ranks[0] / "mlm-one", tmp_path / "doubled")


def check_alike(one: Path, two: Path) -> None:
    """Weights, data statistics, losses and gradient norms of two runs are the same to rounding."""
    for path in one.glob("**/model.safetensors"):
        theirs = load_file(two / path.relative_to(one))
        for name, tensor in load_file(path).items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5)
    stats = [json.loads((run / "data_stats.json").read_text())["training"] for run in (one, two)]
    assert stats[0] == stats[1]
    for ours, theirs in zip(lines(two), lines(one), strict=True):
        losses = [name for name in theirs if "loss" in name or name == "grad_norm"]
        expected = pytest.approx({name: theirs[name] for name in losses}, rel=1e-4)
        assert {name: ours[name] for name in losses} == expected
