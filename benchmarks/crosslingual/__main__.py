"""`python -m benchmarks.crosslingual`: align two languages from scratch, and take a classifier to the other."""

from __future__ import annotations

import json
import logging
import statistics
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.command import run_command

app = App(name="python -m benchmarks.crosslingual", help=__doc__)
_log = logging.getLogger("benchmarks")


@app.default
def measure(
    *,
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    minutes: Annotated[float, Parameter(validator=Number(gt=0))] = 120.0,
    recipe: str = "{}",
    reviews: bool = True,
    folder: Path = Path("build/crosslingual"),
    output: Path = Path("benchmarks/results"),
) -> None:
    """Train with each seed, score held-out translations and Chinese reviews, and print the means.

    A run that is in the file of results is not made again; one that was stopped goes on.

    Args:
        seeds: number of runs.
        minutes: of a run at most.
        recipe: fields over those of `recipes/translations.toml`, as JSON; `vocabulary` is the size of the tokenizer.
        reviews: score classifiers across languages too.
        folder: of the tokenizer and the models.
        output: folder of the file of results.
    """
    from benchmarks.crosslingual.one import Order
    from benchmarks.measurements import machine, write
    from benchmarks.understanding.measure import run_apart

    path = output / f"crosslingual-{machine()['capability'].lower()}.json"
    tree: dict[str, Any] = {"benchmark": "crosslingual", "machine": machine(), "runs": {}}
    if path.is_file():
        tree = json.loads(path.read_text(encoding="utf-8"))
    fields = json.loads(recipe)
    for seed in range(seeds):
        key = f"{json.dumps(fields, sort_keys=True)} / reviews {reviews} / seed {seed}"
        if "scores" not in tree["runs"].get(key, {}):
            order = Order(seed, str(folder.resolve()), fields, reviews)
            tree["runs"][key] = run_apart(order, minutes, "benchmarks.crosslingual.one")
            write(path, tree)
        _log.info("%s: %s", key, tree["runs"][key].get("scores", tree["runs"][key].get("error")))
    print(table(tree["runs"]))


def table(runs: dict[str, Any]) -> str:
    """A row for each score: mean and deviation over seeds."""
    finished = [run["scores"] for run in runs.values() if "scores" in run]
    lines = ["| score | mean | runs |", "| --- | --- | --- |"]
    for name in dict.fromkeys(name for scores in finished for name in scores):
        values = [scores[name] for scores in finished if name in scores]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        lines.append(f"| {name} | {statistics.mean(values):.3f}{spread} | {len(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(app)
