"""`python -m benchmarks.prompting GROUP...`: what prompts reach on SST-2, and how fast; it goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.command import run_command

app = App(name="python -m benchmarks.prompting", help=__doc__)


@app.default
def measure(
    *groups: str,
    develop: bool = False,
    limit: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    cache: Path = Path(".cache/prompting"),
    output: Path = Path("benchmarks/results"),
) -> None:
    """Measure what is not in the file of results, and print all that is.

    Args:
        groups: of zero, few, speed, tuned, pet, all of which by default; and of prompts, among which one was chosen.
        develop: choose settings by training sentences alone.
        limit: held-out sentences at most; 0 for all.
        cache: folder of what is trained on the way.
        output: folder of the file of results.
    """
    from benchmarks.prompting.measure import Measurement

    print(Measurement(output, cache, develop, limit).run(list(groups)))


if __name__ == "__main__":
    run_command(app)
