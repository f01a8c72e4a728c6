"""500 random tiny models of all families, as `transformers` saves them: read as there, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import fuzzmodels
import pytest

SAMPLE = 64
ALL = 500


def faults(seeds: Sequence[int], folder: Path) -> list[str]:
    return [f"{case}: {verdict.reason}" for case, verdict in fuzzmodels.run(seeds, folder) if verdict.result == "fault"]


def test_a_sample_of_random_models(tmp_path):
    verdicts = fuzzmodels.run(range(SAMPLE), tmp_path)
    assert [f"{case}: {verdict.reason}" for case, verdict in verdicts if verdict.result == "fault"] == []
    equal = {case.family for case, verdict in verdicts if verdict.result == "equal"}
    assert len(equal) > 10, "the sample says nothing"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(SAMPLE, SAMPLE + ALL, 100))
def test_random_models(start, tmp_path):
    assert faults(range(start, start + 100), tmp_path) == []
