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

_MODEL_WIDTH = 16  # characters of a model's name
_NARROW = 100  # characters of a terminal that leaves no room for when runs began
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

    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False, markup=False)
    console.print(_table(summaries, folder, is_narrow=console.width < _NARROW))


def _table(summaries: Sequence[RunSummary], folder: Path, *, is_narrow: bool) -> Table:
    from rich.table import Table

    gap = 1 if is_narrow else 2
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(translate("run"), overflow="fold")
    table.add_column(translate("state"), min_width=11)
    for name in ("trains", "model", "metric"):
        table.add_column(translate(name), no_wrap=True)
    for name in ("steps", "minutes"):
        table.add_column(translate(name), justify="right", no_wrap=True)
    if not is_narrow:
        table.add_column(translate("began (UTC)"), no_wrap=True)
    for run in summaries:
        value = "" if run.value is None else f"{translate(run.metric)} {run.value:.4g}"
        path = Path(run.path)
        name = str(path.relative_to(folder)) if path != folder else path.resolve().name
        counts = (f"{run.step:,}", f"{run.minutes:,.1f}")
        began = [] if is_narrow else [run.began[:16].replace("T", " ")]
        table.add_row(name, translate(run.status), run.trains, _short(run.model), value, *counts, *began)
    return table


def _short(model: str) -> str:
    """The end of a long path."""
    if len(model) <= _MODEL_WIDTH:
        return model
    *_, parent, name = ("", *Path(model).parts)
    both = f"{parent}/{name}"
    return f"…{(both if len(both) < _MODEL_WIDTH else name)[1 - _MODEL_WIDTH :]}"
