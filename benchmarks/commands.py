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
from benchmarks.benchmark import Benchmark, Clock, Context
from benchmarks.runner import measure
from pretune import find
from pretune.errors import BenchError, UsageError

log = logging.getLogger(__name__)

AXIS, ROOT = "suite", "benchmarks"
Chosen = Mapping[str, tuple[Benchmark, list[str]]]


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        rounds, warmup: runs of each side that count, and before them.
        precision: dtype of matmuls, as `limits.dtype_and_threads` gives it.
        threads: of each side.
        output: folder of the results.
        clock: whose seconds are compared.
    """

    rounds: int
    warmup: int
    precision: Literal["bf16", "fp32"]
    threads: int
    output: Path
    clock: Clock = "wall"

    @contextmanager
    def context(self, variant: str) -> Iterator[Context]:
        """What a benchmark is asked for, with a folder that is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="pretune-bench-") as folder:
            yield Context(variant, Path(folder), self.precision, self.threads, self.clock)


def select(words: Sequence[str]) -> dict[str, tuple[Benchmark, list[str]]]:
    """Finds benchmarks and their variants by `NAME` or `NAME/VARIANT`; a NAME may be a .py file. All by default.

    Raises:
        UsageError: no such benchmark or variant.
        MissingInputError: no such file.
    """
    chosen: dict[str, tuple[Benchmark, list[str]]] = {}
    for word in words or find.variants(AXIS, ROOT):
        name, variant = _split(word)
        if name not in chosen:
            chosen[name] = find.find_class(AXIS, name, Benchmark, ROOT)(), []  # type: ignore[type-abstract]
        benchmark, variants = chosen[name]
        if variant and variant not in benchmark.variants:
            raise UsageError(f"{name}: no variant {variant!r}; {find.suggest(variant, list(benchmark.variants))}")
        variants += [v for v in ([variant] if variant else benchmark.variants) if v not in variants]
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
    for benchmark, variant in [(benchmark, variant) for benchmark, variants in chosen.values() for variant in variants]:
        log.info(f"{benchmark.name}/{variant}")
        try:
            with options.context(variant) as context:
                result = measure(benchmark, context, options.rounds, options.warmup)
        except BenchError as error:
            refused.append(f"{benchmark.name}/{variant}: {error}")
            log.error(refused[-1])
            continue
        log.info(page.summary(result))
        written[measurements.record(options.output, benchmark.name, benchmark.about, {variant: result})] = None
        page.write(options.output)
    if refused:
        raise BenchError("\n".join(["not recorded:", *refused]))
    return [*written]


def run_search(chosen: Chosen, options: Options) -> list[Path]:
    """Search the best setting of each benchmark's peer, on the first of its variants that is wanted.

    Returns:
        The files written.

    Raises:
        UsageError: a benchmark has no search.
        BenchError: the first setting fails, or the machine drifted.
    """
    written = []
    here = measurements.machine()
    for benchmark, variants in chosen.values():
        log.info(f"{benchmark.name}/{variants[0]}: searching the peer's best setting")
        with options.context(variants[0]) as context:
            best = search.search(benchmark, context, options.rounds, options.warmup)
        written.append(options.output / f"{benchmark.name}-search-{here['capability'].lower()}.json")
        measurements.write(written[-1], {"benchmark": benchmark.name, "search": best, "machine": here})
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
    for benchmark, variant in [(benchmark, variant) for benchmark, variants in chosen.values() for variant in variants]:
        log.info(f"{benchmark.name}/{variant}: where the time goes")
        with options.context(variant) as context:
            measured = profile.profile(benchmark, context, options.rounds, options.warmup)
        log.info("\n".join(page.profile(variant, measured)))
        written[measurements.record_profile(options.output, benchmark.name, variant, measured)] = None
        page.write(options.output)
    return [*written]


def _split(word: str) -> tuple[str, str]:
    """Of `BENCHMARK/VARIANT`, where BENCHMARK may be a path that ends with .py."""
    if ".py" in word:
        path, _, variant = word.partition(".py/")
        return (word, "") if word.endswith(".py") else (f"{path}.py", variant)
    benchmark, _, variant = word.partition("/")
    return benchmark, variant
