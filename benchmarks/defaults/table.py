"""Shows what the sweep measured, and what a choice by all other sets would have given on each: leave one set out.

python -m benchmarks.defaults.table
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.defaults.sweep import RESULTS, SETFIT

_COMPARED = 3  # sets on which a candidate must have been measured, to be chosen among
Gains = dict[tuple[str, int], dict[str, list[float]]]


def gains(results: Sequence[Mapping[str, Any]]) -> Gains:
    """By set and size, how far each candidate is above the better of the two baselines of its draw."""
    best = {
        (row["set"], row["size"], row["draw"]): max(row["tfidf"], row["vectors"])
        for row in results
        if row["candidate"] == "baselines"
    }
    out: Gains = defaultdict(lambda: defaultdict(list))
    for row in results:
        if row["candidate"] != "baselines":
            gain = row["score"] - best[row["set"], row["size"], row["draw"]]
            out[row["set"], row["size"]][row["candidate"]].append(gain)
    return out


def rows(measured: Gains) -> Iterator[str]:
    """A line of Markdown for each set and size."""
    names = sorted({name for each in measured.values() for name in each})
    yield f"| set | size | {' | '.join(names)} |"
    yield f"|---|---|{'---|' * len(names)}"
    for (name, size), each in sorted(measured.items(), key=lambda item: (item[0][1], item[0][0])):
        cells = [f"{np.mean(each[c]):+.3f} ({len(each[c])})" if c in each else "" for c in names]
        yield f"| {name} | {size} | {' | '.join(cells)} |"


def leave_one_out(measured: Gains, size: int, candidates: Sequence[str]) -> Iterator[str]:
    """For each set of a size, the candidate that is best on all others, and what it gives there."""
    sets = {name: each for (name, n), each in measured.items() if n == size and all(c in each for c in candidates)}
    for name, each in sorted(sets.items()):
        others = [value for other, value in sets.items() if other != name]
        if others:
            mean = {c: float(np.mean([np.mean(value[c]) for value in others])) for c in candidates}
            chosen = max(mean, key=lambda c: mean[c])
            there = np.mean(each[chosen])
            yield f"size {size}, without {name}: {chosen} ({mean[chosen]:+.3f}) gives {there:+.3f} there"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS)
    measured = gains(json.loads(parser.parse_args().results.read_text()))
    print("Accuracy above the better of TF-IDF and frozen vectors (draws):\n")
    print("\n".join(rows(measured)))
    for size in sorted({size for _, size in measured}):
        counts = Counter(c for (_, n), each in measured.items() if n == size for c in each)
        names = sorted(name for name, count in counts.items() if count >= _COMPARED and name != SETFIT)
        print("\n".join(leave_one_out(measured, size, names)))


if __name__ == "__main__":
    main()
