"""A method's file may leave out what it does not need; what is there is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pretune.errors import MissingInputError, UsageError
from pretune.loss import Term
from pretune.tune.method import find_method


def write(path: Path, *functions: str) -> str:
    head = "from pretune import config\n\n\nclass Config(config.Config):\n    rank: int = 2\n"
    path.write_text("\n\n".join([head, "def apply(model, config):\n    return model\n", *functions]))
    return str(path)


def test_what_a_file_lacks_does_nothing(tmp_path: Path) -> None:
    method, model = find_method(write(tmp_path / "bare.py"), {"rank": 3}), nn.Linear(2, 2)
    assert method.config.rank == 3  # type: ignore[attr-defined]
    assert method.apply(model) is model
    assert method.terms(model) == []
    method.after_step(model, 0.5)
    assert not method.can_merge
    assert method.merge(model) is model
    assert method.acted(model) is None
    assert method.idle(model) == []
    assert method.ranks(model) == {}
    assert method.may_be_surgery


def test_what_a_file_has_is_called(tmp_path: Path) -> None:
    own = write(
        tmp_path / "whole.py",
        "from pretune.loss import Term\n\n\ndef terms(model):\n    return [Term('size', model.weight.sum(), 4, 0.5)]",
        "def after_step(model, fraction):\n    model.weight.data.fill_(fraction)",
        "def merge(model):\n    return model",
        "def acted(model):\n    return ['weight'] if model.weight.any() else []",
        "def idle(model):\n    return ['weight: is still 0']",
        "def ranks(model):\n    return {'weight': 2}",
    )
    method, model = find_method(own, {}), nn.Linear(2, 2)
    (term,) = method.terms(model)
    assert isinstance(term, Term)
    assert (term.name, term.count, term.weight) == ("tune.size", 4, 0.5)
    method.after_step(model, 0.25)
    assert torch.equal(model.weight, torch.full((2, 2), 0.25))
    assert method.acted(model) == ["weight"]
    assert method.idle(model) == ["weight: is still 0"]
    assert method.ranks(model) == {"weight": 2}
    assert method.can_merge


def test_bad_files_and_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rank"):
        find_method(write(tmp_path / "one.py"), {"rank": "many"})
    (tmp_path / "two.py").write_text("def apply(model, config):\n    return model\n")
    with pytest.raises(UsageError, match="has no Config"):
        find_method(str(tmp_path / "two.py"), {})
    with pytest.raises(MissingInputError, match="no such file"):
        find_method(str(tmp_path / "three.py"), {})
    with pytest.raises(UsageError, match="did you mean 'frozen'"):
        find_method("frosen", {})


@pytest.mark.parametrize("name", ["full", "frozen", "top"])
def test_methods_without_surgery(name: str) -> None:
    assert not find_method(name, {}).may_be_surgery


def test_merging_is_rehearsed_without_memory(tmp_path: Path) -> None:
    own = write(tmp_path / "merging.py", "def merge(model):\n    model[0] = model[1]\n    return model")
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    rehearsed = find_method(own, {}).rehearse_merge(model)
    assert rehearsed is not None
    assert {tensor.device.type for tensor in rehearsed.state_dict().values()} == {"meta"}
    assert isinstance(rehearsed[0], nn.BatchNorm1d)
    assert isinstance(model[0], nn.Linear)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
