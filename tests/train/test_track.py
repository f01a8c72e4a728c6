import json
import sys
import types

import pytest

from pretune.errors import MissingPackageError
from pretune.train.logging.trackers import MetricsFile, TrackConfig, open_trackers


def read(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_beyond_the_checkpoint_are_dropped(tmp_path):
    first = MetricsFile(tmp_path)
    first.log(1, {"loss": 2.0})
    size = first.flush()
    first.log(2, {"loss": 1.0})
    first.close()
    again = MetricsFile(tmp_path, size)
    again.log(2, {"loss": 1.5})
    again.close()
    assert read(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]


def test_a_metrics_file_that_lost_lines_is_gone_on_with(tmp_path):
    MetricsFile(tmp_path, 1000).log(3, {"loss": 1.0})
    assert read(tmp_path) == [{"step": 3, "loss": 1.0}]


def test_tensorboard_takes_the_metrics(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tracker,) = open_trackers(tmp_path, TrackConfig(to=("tensorboard",)), {}, 0)
    tracker.log(3, {"loss": 2.5})
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 2.5)]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"pretune\[track\]") as caught:
        open_trackers(tmp_path, TrackConfig(to=(name,)), {}, 0)
    assert caught.value.code == 69


def test_wandb_runs_offline(tmp_path, monkeypatch):
    seen = []
    run = types.SimpleNamespace(log=lambda m, step: seen.append((step, m)), finish=lambda: seen.append("finish"))
    module = types.ModuleType("wandb")
    module.init = lambda **settings: (seen.append(settings["mode"]), run)[1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    (tracker,) = open_trackers(tmp_path, TrackConfig(to=("wandb",)), {"seed": 1}, 0)
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert seen == ["offline", (1, {"loss": 1.0}), "finish"]


def test_mlflow_gets_parameters_once(tmp_path, monkeypatch):
    seen = []
    module = types.ModuleType("mlflow")
    for name in ("set_tracking_uri", "set_experiment", "start_run", "log_params", "log_metrics", "end_run"):
        setattr(module, name, lambda *args, _name=name, **kwargs: seen.append(_name))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    for step in (0, 5):
        (tracker,) = open_trackers(tmp_path, TrackConfig(to=("mlflow",)), {"seed": 1}, step)
        tracker.log(step + 1, {"loss": 1.0})
        tracker.close()
    assert seen.count("log_params") == 1
    assert seen.count("log_metrics") == seen.count("end_run") == 2
