"""`python -m benchmarks.writing SET...`: learn to write on public sets below PRETUNE_DATA, beside what is free.

python -m benchmarks.writing --list                      the sets
python -m benchmarks.writing --baselines                 what is free of training, scored
python -m benchmarks.writing multi30k --minutes 60       three seeds; a run that was ended goes on
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.command import run_command

app = App(name="python -m benchmarks.writing", help=__doc__)


@app.default
def measure(
    *names: str,
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    minutes: Annotated[float, Parameter(validator=Number(gte=0))] = 0.0,
    limit: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    timeout: Annotated[float, Parameter(validator=Number(gt=0))] = 240.0,
    recipe: str = "{}",
    baselines: bool = False,
    listing: Annotated[bool, Parameter(name="--list")] = False,
    folder: Path = Path(".cache/writing"),
    output: Path = Path("benchmarks/results"),
) -> None:
    """Train on each set with its committed recipe, score what is written, and print a table.

    Args:
        names: of sets; all by default.
        seeds: runs of each set.
        minutes: of training of each run; by default what the recipe of the set says.
        limit: test records at most; 0 for all.
        timeout: minutes of a run with its writing at most.
        recipe: fields of the recipe over the committed ones, as JSON.
        baselines: score what is free of training, and train nothing.
        listing: print the sets, and run nothing.
        folder: where tokenizers and runs stay.
        output: folder of the file of results.
    """
    from benchmarks.measurements import machine
    from benchmarks.writing.measure import Measurement
    from benchmarks.writing.sets import all_sets, find_set
    from benchmarks.writing.table import table

    chosen = [find_set(name) for name in names] or list(all_sets().values())
    if listing:
        for each in chosen:
            print(f"{each.name:12} {each.task:11} {','.join(each.metrics):28} {each.language} {each.note}".rstrip())
        return
    path = output / f"writing-{machine()['capability'].lower()}.json"
    measurement = Measurement(path, folder, seeds, minutes, limit, timeout, json.loads(recipe))
    for each in chosen:
        measurement.baseline(each)
    if not baselines:
        measurement.run(chosen)
    print(table(measurement.tree(), [each.name for each in chosen]))


if __name__ == "__main__":
    run_command(app)
