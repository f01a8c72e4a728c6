"""1,000 random cases for the scores of relations, and what the official scorer of SemEval-2010 task 8 says of them.

    python tests/tasks/semeval_cases.py semeval2010_task8_scorer-v1.2.pl

writes `semeval_scores.json` beside this file: macro- and micro-averaged F1 of each case, in percent with two decimals.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SCORES = Path(__file__).parent / "semeval_scores.json"
CASES = 1000
RELATIONS = ("Cause-Effect", "Component-Whole", "Entity-Origin", "Message-Topic")
CLASSES = ("Other", *(f"{name}({ends})" for name in RELATIONS for ends in ("e1,e2", "e2,e1")))


def case(number: int) -> tuple[list[str], list[str]]:
    """Truth and guesses of some sentences; guesses are right with a probability that differs from case to case."""
    random = np.random.default_rng(number)
    size, skill = int(random.integers(12, 80)), random.random()
    truth = random.integers(0, len(CLASSES), size)
    guess = np.where(random.random(size) < skill, truth, random.integers(0, len(CLASSES), size))
    return [CLASSES[n] for n in truth], [CLASSES[n] for n in guess]


def official(scorer: str, folder: Path, truth: list[str], guess: list[str]) -> tuple[float, float]:
    """Macro- and micro-averaged F1 in both directions, in percent."""
    for name, labels in (("guess.txt", guess), ("truth.txt", truth)):
        (folder / name).write_text("".join(f"{n}\t{label}\n" for n, label in enumerate(labels, 1)))
    command = ["perl", scorer, str(folder / "guess.txt"), str(folder / "truth.txt")]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    part = report.split("TAKING DIRECTIONALITY INTO ACCOUNT")[1]
    micro, macro = (float(value) for value in re.findall(r"^P =.*F1 = +([\d.]+)%", part, re.MULTILINE))
    return macro, micro


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        scores = [official(sys.argv[1], Path(name), *case(number)) for number in range(CASES)]
    SCORES.write_text("[\n" + ",\n".join(json.dumps(pair) for pair in scores) + "\n]\n")
