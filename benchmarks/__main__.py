"""The command line of the benchmarks: `python -m benchmarks`, from the root of the repository."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from pretune.cli.session import DEFAULT, Common, new_app, run_app
from pretune.errors import UsageError

_RESULTS = Path("benchmarks/results")

app = new_app("python -m benchmarks")


@app.default
def bench(
    benchmarks: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    /,
    *,
    rounds: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    warmup: Annotated[int, Parameter(validator=Number(gte=0))] = 2,
    output: Annotated[Path | None, Parameter(show_default=False)] = None,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    clock: Literal["wall", "cpu"] = "wall",
    list_benchmarks: Annotated[bool, Parameter(name="--list")] = False,
    search: bool = False,
    profile: bool = False,
    page: bool = False,
    session: Common = DEFAULT,
) -> None:
    """Measure pretune against its peers on this machine.

    Ours and a peer run in turn, in processes of their own; the peer in an environment that is made on first use in
    ~/.cache/pretune/peers (PRETUNE_PEERS names another folder). Figures go to one JSON file per benchmark and to a
    page.

    Args:
        benchmarks: NAME or NAME/VARIANT, such as train_step/mlm-mini-packed; all by default. NAME may be a .py file.
        rounds: number of measured runs of each side.
        warmup: number of runs of each side before them.
        output: folder of the results; benchmarks/results where it exists, else bench-results.
        precision: dtype of matmuls, ours and the peer's at its best; auto uses bf16 where the hardware multiplies it.
        clock: what is compared: time on the wall, or, where others use the machine, CPU time, with `--threads 1`.
        list_benchmarks: list the benchmarks and their variants, and measure nothing.
        search: search for the peer's best settings on one variant, instead of comparing.
        profile: profile our side by operation, instead of comparing.
        page: regenerate the page from the existing results, and measure nothing.
    """
    if search and profile:
        raise UsageError("give one of --search and --profile")
    if clock == "cpu" and (session.threads != 1 or search or profile):
        raise UsageError("--clock cpu adds up the time of all threads: use it with --threads 1, and to compare")
    folder = output or (_RESULTS if _RESULTS.is_dir() else Path("bench-results"))
    session.start("benchmarks")
    if page:
        from benchmarks.page import write

        print(write(folder))
        return
    from benchmarks import commands
    from benchmarks.limits import dtype_and_threads

    chosen = commands.select(benchmarks)
    if list_benchmarks:
        print(*(f"{name}/{variant}" for name, (_, variants) in chosen.items() for variant in variants), sep="\n")
        return
    session.say(f"measuring {', '.join(chosen)} -> {folder}")
    options = commands.Options(rounds, warmup, *dtype_and_threads(precision, session.threads), folder, clock)
    measure = commands.run_search if search else commands.run_profile if profile else commands.run
    for path in measure(chosen, options):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit code."""
    return run_app(app, argv)


if __name__ == "__main__":
    sys.exit(main())
