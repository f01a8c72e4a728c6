"""Trains candidates for the defaults of `finetune` on many sets and sizes, beside the two cheap baselines.

    python -m benchmarks.defaults.sweep MODEL --sets trec sst2 --sizes 8 300 --draws 1 2 --candidates contrast default

`setfit` is a candidate, too: the library, with the pairs of its paper, in an environment of its own.
Sizes up to 64 are examples of each label, larger ones of all together. What is in the file of results is not measured
again, so that a sweep can be stopped and goes on; `python -m benchmarks.defaults.table` shows it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.environments import python
from benchmarks.understanding.sets import Record, draw_per_label, draw_records, find_set
from pretune.errors import BenchError

RESULTS = Path(__file__).parent / "results.json"
SETFIT = "setfit"
Result: TypeAlias = dict[str, Any]
_SETFIT = Path(__file__).parents[1] / "peers" / "setfit_finetune.py"
_ITERATIONS = 20  # pairs of each kind for a text, as SetFit's paper has them
_TESTED = 400  # records of a test set
_PER_LABEL = 64  # the largest size that is one of each label


def _contrast(**fields: object) -> dict[str, Any]:
    return {"task": {"classification": {"head": "mean", "fit_head": True, "contrast": True}}, **fields}


def _vectors(**fields: object) -> dict[str, Any]:
    return {"task": {"classification": {"head": "mean", "fit_head": True}}, **fields}


def _standard(**fields: object) -> dict[str, Any]:
    return {"task": {"classification": {"head": "standard", "fit_head": False}}, **fields}


def candidates(examples: int) -> dict[str, dict[str, Any]]:
    """Fields of a recipe by the name of the candidate; where none are named, the defaults choose."""
    steps = round(2 * examples**0.75)
    return {
        "default": {"task": "classification"},
        "contrast": _contrast(steps=steps, batch=16, lr=1e-4, warmup=0.1),
        "contrast half": _contrast(steps=max(1, steps // 2), batch=16, lr=1e-4, warmup=0.1),
        "contrast mixed": _contrast(steps=steps, batch=16, lr=1e-4, warmup=0.1, keep_initial=0.3),
        "contrast 32": _contrast(steps=steps, batch=32, lr=1e-4, warmup=0.1),
        "contrast 64": _contrast(steps=max(1, round(10 * examples / 64)), batch=64, lr=1e-4, warmup=0.1),
        "vectors": _vectors(steps=steps, batch=16, lr=1e-4, warmup=0.1),
        "standard": _standard(steps=max(60, steps), batch=16, lr=1e-4, warmup=0.1, **{"evaluation.keep": "last"}),
    }


def draw(records: Sequence[Record], size: int, number: int) -> list[Record]:
    """The training records of a size, a function of the number of the draw."""
    return draw_per_label(records, size, number) if size <= _PER_LABEL else draw_records(records, size, number)


def baselines(model: Any, train: Sequence[Record], test: Sequence[Record]) -> dict[str, float]:
    """Accuracies of logistic regression on TF-IDF and on the model's vectors; pairs are read as two texts."""
    from pretune.baselines.tfidf import fit_tfidf
    from pretune.baselines.vectors import fit_vectors
    from pretune.report.pair_vectors import pair_vectors

    labels, truth = ([str(record["label"]) for record in part] for part in (train, test))
    texts, tested = ([str(record["text"]) for record in part] for part in (train, test))
    seconds, others = ([str(record.get("second", "")) for record in part] for part in (train, test))
    pairs = any(seconds)
    tfidf = fit_tfidf(texts, labels, seconds if pairs else None)
    by_tfidf = tfidf.probabilities(tested, others if pairs else None).argmax(axis=1)

    def vectors(first: list[str], second: list[str]) -> Any:
        return pair_vectors(model, first, second) if pairs else model.embed(first, normalize=True)

    linear = fit_vectors(vectors(texts, seconds), labels)
    by_vectors = linear.probabilities(vectors(tested, others)).argmax(axis=1)
    return {
        "tfidf": _accuracy([tfidf.labels[n] for n in by_tfidf.tolist()], truth),
        "vectors": _accuracy([linear.labels[n] for n in by_vectors.tolist()], truth),
    }


def _accuracy(guess: Sequence[str], truth: Sequence[str]) -> float:
    return round(float(np.mean([a == b for a, b in zip(guess, truth, strict=True)])), 4)


def measure(folder: str, name: str, size: int, number: int, wanted: Sequence[str], known: Mapping[str, Any]) -> Any:
    """Yields a result for each candidate that is not known, the baselines first."""
    import pretune

    split = find_set(name).split()
    train, test = draw(split.train, size, number), draw_records(split.test, _TESTED, 0)
    base = {"set": name, "size": size, "draw": number, "examples": len(train)}
    if _key({**base, "candidate": "baselines"}) not in known:
        yield {**base, "candidate": "baselines", **baselines(pretune.load(folder), train, test)}
    second = {"second": "second"} if "second" in train[0] else {}
    for candidate in wanted:
        if _key({**base, "candidate": candidate}) in known:
            continue
        fields = {"seed": number, **second}
        if candidate == SETFIT:
            guess, seconds = _by_setfit(folder, train, test, number)
        else:
            guess, seconds = _by_finetune(folder, train, test, {**fields, **candidates(len(train))[candidate]})
        truth = [str(record["label"]) for record in test]
        yield {**base, "candidate": candidate, "score": _accuracy(guess, truth), "seconds": round(seconds, 1)}


def _by_finetune(
    folder: str, train: Sequence[Record], test: Sequence[Record], fields: Mapping[str, Any]
) -> tuple[list[str], float]:
    """Labels of the tested records, and the seconds of the training."""
    import pretune

    with tempfile.TemporaryDirectory() as output:
        quiet: dict[str, Any] = {"output": f"{output}/run", "track.report": False, "track.progress": "quiet"}
        start = time.perf_counter()
        model = pretune.finetune(train=train, model=folder, **quiet, **fields)
        seconds = time.perf_counter() - start
        texts = [(r["text"], r["second"]) if "second" in fields else r["text"] for r in test]
        return [str(answer.label) for answer in model.predict(texts)], seconds  # type: ignore[arg-type]


def _by_setfit(folder: str, train: Sequence[Record], test: Sequence[Record], number: int) -> tuple[list[str], float]:
    """The same of SetFit, in an environment of its own.

    Raises:
        BenchError: it reads no pairs of texts, or failed.
    """
    if "second" in train[0]:
        raise BenchError("SetFit reads one text; leave sets of pairs out")
    with tempfile.TemporaryDirectory() as scratch:
        job = Path(scratch) / "job.json"
        texts = {name: [str(record["text"]) for record in part] for name, part in (("texts", train), ("tested", test))}
        labels = [str(record["label"]) for record in train]
        order = {"model": folder, **texts, "labels": labels, "seed": number, "iterations": _ITERATIONS}
        job.write_text(json.dumps(order), encoding="utf-8")
        # -P leaves out the folder of the script, which has files named like libraries
        command: list[str | Path] = [python(SETFIT), "-P", _SETFIT, job]
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, env=variables)
    if done.returncode:
        raise BenchError("\n".join(done.stderr.splitlines()[-5:]))
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["labels"], answer["seconds"]


def _key(result: Mapping[str, Any]) -> str:
    return " ".join(str(result[name]) for name in ("set", "size", "draw", "candidate"))


def main() -> None:
    """Measures what is asked for, and writes each result at once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 16, 300])
    parser.add_argument("--draws", nargs="+", type=int, default=[1])
    parser.add_argument("--candidates", nargs="+", default=["default"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.getLogger("pretune").setLevel(logging.ERROR)
    results: list[Result] = json.loads(options.output.read_text()) if options.output.exists() else []
    known = {_key(result): result for result in results}
    for number in options.draws:
        for size in options.sizes:
            for name in options.sets:
                for result in measure(options.model, name, size, number, options.candidates, known):
                    results.append(result)
                    print(json.dumps(result), flush=True)
                    text = ",\n".join(json.dumps(each) for each in sorted(results, key=_key))
                    options.output.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
