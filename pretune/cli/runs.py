"""The verb that lists the runs of a folder: runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pretune.cli.session import DEFAULT, Common
from pretune.language import translate

if TYPE_CHECKING:
    from rich.table import Table

    from pretune.report.runs import RunSummary

_PIPED_WIDTH = 1000  # characters of a line where no terminal bounds it


def runs(
    folder: Path = Path(),
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    session: Common = DEFAULT,
) -> None:
    """List the runs of a folder: state, metric, steps, minutes.

    Args:
        folder: a folder with runs in it, at any of its first levels; by default the working folder.
        as_json: print JSON instead of a table.
    """
    from pretune.report.runs import list_runs

    summaries = list_runs(folder)
    if as_json:
        print(json.dumps([asdict(run) for run in summaries], indent=2, ensure_ascii=False))
        return
    if not summaries:
        session.say(f"no runs in {folder.absolute()}; `pretune pretrain` and `pretune finetune` make one (--output)")
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False, markup=False).print(
        _table(summaries, folder)
    )


def _table(summaries: Sequence[RunSummary], folder: Path) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "trains", "model", "metric"):
        table.add_column(translate(name), overflow="fold")
    for name in ("steps", "minutes"):
        table.add_column(translate(name), justify="right")
    table.add_column(translate("began (UTC)"))
    for run in summaries:
        value = "" if run.value is None else f"{run.metric} {run.value:.4g}"
        began = run.began[:16].replace("T", " ")
        path = Path(run.path)
        name = str(path.relative_to(folder)) if path != folder else path.resolve().name
        table.add_row(
            name, translate(run.status), run.trains, run.model, value, f"{run.step:,}", f"{run.minutes:,.1f}", began
        )
    return table
