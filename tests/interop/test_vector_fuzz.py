"""200 random folders of `sentence-transformers`: read as there and written as they read, or refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import fuzzvectors
import pytest

SAMPLE = 16
ALL = 200


def faults(seeds: Sequence[int], folder: Path) -> tuple[list[str], Counter[str]]:
    """What is not as it should be, and how many cases came to what."""
    verdicts = fuzzvectors.run(seeds, folder)
    wrong = [f"{case}: {verdict.reason}" for case, verdict in verdicts if verdict.result == "fault"]
    return wrong, Counter(verdict.result for _, verdict in verdicts)


def test_a_sample_of_random_folders(tmp_path: Path) -> None:
    wrong, results = faults(range(SAMPLE), tmp_path)
    assert wrong == []
    assert results["equal"] > SAMPLE // 4, "the sample says nothing"


@pytest.mark.slow
@pytest.mark.parametrize("start", range(SAMPLE, SAMPLE + ALL, 50))
def test_random_folders(start: int, tmp_path: Path) -> None:
    assert faults(range(start, start + 50), tmp_path)[0] == []
