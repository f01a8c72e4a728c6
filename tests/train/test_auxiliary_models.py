"""The models that an objective trains beside the main one: saved in folders of their own, or refused before a step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn

from pretune.errors import UsageError
from pretune.models import build
from pretune.train.components import TrainComponents


def components(model: object) -> TrainComponents:
    objective = SimpleNamespace(auxiliary_models=lambda: {"generator": model})
    return TrainComponents(cast(Any, None), cast(Any, objective), [], cast(Any, None))


def test_language_models_are_saved() -> None:
    model = build("bert", "tiny", ["mlm"], overrides={"vocab_size": 40})
    assert components(model).auxiliary_models() == {"generator": model}


def test_another_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"auxiliary model 'generator' is a Linear, which could not be saved"):
        components(nn.Linear(2, 2)).auxiliary_models()
