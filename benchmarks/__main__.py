"""The command line of the benchmarks: `python -m benchmarks`, from the root of the repository."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from pretune import __version__
from pretune.cli.session import DEFAULT, Common, guard
from pretune.errors import UsageError

_RESULTS = Path("benchmarks/results")

app = App(
    name="python -m benchmarks",
    version=__version__,
    version_flags=["--version"],
    default_parameter=Parameter(negative=""),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@app.default
def bench(
    benchmarks: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    /,
    *,
    rounds: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    warmup: Annotated[int, Parameter(validator=Number(gte=0))] = 2,
    output: Annotated[Path | None, Parameter(show_default=False)] = None,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    list_benchmarks: Annotated[bool, Parameter(name="--list")] = False,
    search: bool = False,
    profile: bool = False,
    page: bool = False,
    session: Common = DEFAULT,
) -> None:
    """Measure pretune against its peers on this machine.

    Ours and a peer take turns in processes of their own; the peer in an environment that is made on first use in
    ~/.cache/pretune/peers (PRETUNE_PEERS names another place). Figures go to a JSON file a benchmark
    and to a page.

    Args:
        benchmarks: NAME or NAME/VARIANT, such as train_step/mlm-mini-packed; all by default. NAME may be a .py file.
        rounds: runs of each side that count.
        warmup: runs of each side before them.
        output: folder of the results; benchmarks/results where it exists, else bench-results.
        precision: of products, ours and the peer's at its best; auto takes the faster of this machine.
        list_benchmarks: name the benchmarks and their variants, and measure nothing.
        search: look for the peer's best setting on one variant, instead of racing against it.
        profile: tell by operation where our time goes, instead of racing.
        page: write the page again from the results that are there, and measure nothing.
    """
    if search and profile:
        raise UsageError("give one of --search and --profile")
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
    options = commands.Options(rounds, warmup, *dtype_and_threads(precision, session.threads), folder)
    measure = commands.run_search if search else commands.run_profile if profile else commands.run
    for path in measure(chosen, options):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what the command line asks for; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guard(lambda: _dispatch(words), debug="--debug" in words)


def _dispatch(words: list[str]) -> int:
    try:
        app(words, exit_on_error=False)
    except CycloptsError:
        return UsageError.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
