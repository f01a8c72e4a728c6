"""A backend in a file of a user's own: tried first, and what it refuses goes to pretune's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretune.batch import Layout
from pretune.errors import MissingInputError, UsageError
from pretune.find import find
from pretune.nn.attention import BACKENDS, Attention, prefer_backend
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL

OWN = """
from pretune.nn.backends import reference

CALLS = []


def refuse(call):
    return "only bidirectional" if call.is_causal else None


def attend(call):
    CALLS.append(call)
    return reference.attend(call)
"""


def test_it_is_tried_first(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(OWN)
    torch.manual_seed(0)
    layout, x = Layout.of([3, 5]), torch.randn(8, 16)
    for structure, calls in ((BIDIRECTIONAL, 1), (CAUSAL, 0)):
        module = Attention(16, 2, structure).eval()
        expected = module(x, layout)
        prefer_backend(module, str(path))
        own = find("nn.backends", str(path))
        own.CALLS.clear()
        torch.testing.assert_close(module(x, layout), expected, atol=1e-5, rtol=1e-5)
        assert len(own.CALLS) == calls


def test_what_is_no_backend_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("PRIORITY = 1\n")
    with pytest.raises(UsageError, match="has no refuse and no attend; its file must define refuse, attend"):
        prefer_backend(Attention(16, 2, CAUSAL), str(tmp_path / "empty.py"))
    with pytest.raises(UsageError, match="did you mean 'flash'"):
        prefer_backend(Attention(16, 2, CAUSAL), "flsh")
    with pytest.raises(MissingInputError, match=r"gone\.py"):
        prefer_backend(Attention(16, 2, CAUSAL), str(tmp_path / "gone.py"))


def test_the_fastest_that_can_is_first() -> None:
    assert [b.PRIORITY for b in BACKENDS.values()].count(0) == 1
    assert len({b.PRIORITY for b in BACKENDS.values()}) == len(BACKENDS)
