"""The material of the drill, made once in a session."""

from __future__ import annotations

import pytest
from drillcases import Material
from drillkit import Zygote


@pytest.fixture(scope="session")
def material(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A tokenizer, a store, files, and models when they are first needed."""
    return Material(tmp_path_factory.mktemp("material"), zygote)
