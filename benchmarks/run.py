"""Which comparisons are wanted, one after the other, and where their figures go."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import measurements, page, profile, search
from benchmarks.benchmark import Given, Work
from benchmarks.runner import measure
from pretune import find
from pretune.errors import BenchError, UsageError

log = logging.getLogger(__name__)

AXIS, ROOT = "suite", "benchmarks"
Chosen = Mapping[str, tuple[Work, list[str]]]


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        rounds, warmup: turns of each side that count, and before them.
        precision: of products, as `limits.dtype_and_threads` gives it.
        threads: of each side.
        output: folder of the results.
    """

    rounds: int
    warmup: int
    precision: Literal["bf16", "fp32"]
    threads: int
    output: Path

    @contextmanager
    def given(self, variant: str) -> Iterator[Given]:
        """What a work is asked for, with a folder that is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="pretune-bench-") as folder:
            yield Given(variant, Path(folder), self.precision, self.threads)


def select(words: Sequence[str]) -> dict[str, tuple[Work, list[str]]]:
    """Works and their variants by `WORK` or `WORK/VARIANT`, a WORK also a .py file of the user's own; all by default.

    Raises:
        UsageError: no such work or variant.
        MissingInputError: no such file.
    """
    chosen: dict[str, tuple[Work, list[str]]] = {}
    for word in words or find.variants(AXIS, ROOT):
        name, variant = _split(word)
        if name not in chosen:
            chosen[name] = find.find_class(AXIS, name, Work, ROOT)(), []  # type: ignore[type-abstract]
        work, variants = chosen[name]
        if variant and variant not in work.variants:
            raise UsageError(f"{name}: no variant {variant!r}; {find.suggest(variant, list(work.variants))}")
        variants += [v for v in ([variant] if variant else work.variants) if v not in variants]
    return chosen


def run(chosen: Chosen, options: Options) -> list[Path]:
    """Measure; record each variant and renew the page as soon as it is done.

    Returns:
        The files written.

    Raises:
        BenchError: some variants do not count; the others were recorded.
    """
    written: dict[Path, None] = {}
    refused: list[str] = []
    for work, variant in [(work, variant) for work, variants in chosen.values() for variant in variants]:
        log.info(f"{work.name}/{variant}")
        try:
            with options.given(variant) as given:
                result = measure(work, given, options.rounds, options.warmup)
        except BenchError as error:
            refused.append(f"{work.name}/{variant}: {error}")
            log.error(refused[-1])
            continue
        log.info(page.summary(result))
        written[measurements.record(options.output, work.name, work.about, {variant: result})] = None
        page.write(options.output)
    if refused:
        raise BenchError("\n".join(["not recorded:", *refused]))
    return [*written]


def run_search(chosen: Chosen, options: Options) -> list[Path]:
    """Search the best setting of each work's peer, on the first of its variants that is wanted.

    Returns:
        The files written.

    Raises:
        UsageError: a work has no search.
        BenchError: the first setting fails, or the machine drifted.
    """
    written = []
    here = measurements.machine()
    for work, variants in chosen.values():
        log.info(f"{work.name}/{variants[0]}: searching the peer's best setting")
        with options.given(variants[0]) as given:
            found = search.search(work, given, options.rounds, options.warmup)
        written.append(options.output / f"{work.name}-search-{here['capability'].lower()}.json")
        measurements.write(written[-1], {"work": work.name, "search": found, "machine": here})
    page.write(options.output)
    return written


def run_profile(chosen: Chosen, options: Options) -> list[Path]:
    """Tell where the time of our side goes, on each variant that is wanted.

    Returns:
        The files written.

    Raises:
        BenchError: our side of a variant failed; those before it were recorded.
    """
    written: dict[Path, None] = {}
    for work, variant in [(work, variant) for work, variants in chosen.values() for variant in variants]:
        log.info(f"{work.name}/{variant}: where the time goes")
        with options.given(variant) as given:
            found = profile.profile(work, given, options.rounds, options.warmup)
        log.info("\n".join(page.profile(variant, found)))
        written[measurements.record_profile(options.output, work.name, variant, found)] = None
        page.write(options.output)
    return [*written]


def _split(word: str) -> tuple[str, str]:
    """Of `WORK/VARIANT`, where WORK may be a path that ends with .py."""
    if ".py" in word:
        path, _, variant = word.partition(".py/")
        return (word, "") if word.endswith(".py") else (f"{path}.py", variant)
    work, _, variant = word.partition("/")
    return work, variant
