"""Training, embedding and decoding beside busy processes: spinning as we choose it against fixed settings.

Each run starts as many busy processes as its variant says, in the session of its side, where the scheduler gives all of
them equal rights, and ends them; that they are noticed is part of the time. The fixed settings are our own code with
all threads spinning at barriers, as libgomp does by default, with all of them sleeping there, also on one CPU, and
with one thread. Beside busy processes the spinning ones are left out: their run takes minutes. So may the peer's,
which has libgomp's default.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from benchmarks.benchmark import Allocator, Benchmark, Context, Side, peer
from benchmarks.suite.decode import write_model
from benchmarks.suite.train_step import Shape, write_padded
from benchmarks.suite.train_step import setup as training

Work = Literal["tiny", "mini", "embed", "decode"]
SHAPES = {
    "tiny": Shape("bert", 2, 128, 32, 128, 1.0, 1, 8192),
    "mini": Shape("bert", 4, 256, 32, 128, 1.0, 1),
}
Setting = Literal["adapted", "fixed", "one CPU"]
SLEEP = {"GOMP_SPINCOUNT": "0"}
FIXED: Mapping[str, tuple[Setting, Mapping[str, str], int | None]] = {  # environment variables, threads
    "pretune, sleeping threads": ("fixed", SLEEP, None),
    "pretune, sleeping threads on one CPU": ("one CPU", SLEEP, None),
    "pretune, one thread": ("fixed", {}, 1),
    "pretune, spinning threads": ("fixed", {}, None),
}
TEXTS, WORDS = 8, 60  # of a call
PROMPT, NEW = 8, 4  # tokens of a call
WARM = 5  # units of work beforehand


@dataclass(frozen=True)
class Variant:
    """What is done beside how many busy processes.

    Attributes:
        seconds: of a run, which ends with the unit of work at which they are over.
    """

    work: Work
    load: int
    seconds: float


class Busy(Benchmark):
    """The same work alone, beside two busy processes and at a load of 12."""

    about = (
        "Training steps, calls of 8 texts to embed, or answers of 4 tokens a second, alone and beside busy processes "
        "(the number in the variant's name). Ours measures how long its threads wait for a CPU, and lets them spin at "
        "barriers or sleep, and fewer of them compute; against fixed settings of the same code, and "
        "`transformers.Trainer` at its best and as it comes."
    )
    variants: ClassVar[Mapping[str, Variant]] = {
        f"{work}-{load}": Variant(work, load, seconds)
        for work in ("tiny", "mini", "embed", "decode")
        for load, seconds in ((0, 0.7), (2, 1.5), (12, 3.0))
    }
    amount, unit = "units", "units/s"
    allocators: ClassVar[tuple[Allocator, ...]] = ("ours",)
    max_rounds = (5, 1)
    together = True

    def sides(self, context: Context) -> list[Side]:
        """Ours; the same with fixed settings; for the tiny BERT the `Trainer` of `transformers`."""
        variant: Variant = self.variants[context.variant]
        folder = context.folder / "model"
        common = {"model": str(folder), "seconds": variant.seconds, "precision": context.precision}
        options: dict[str, Any] = {"work": variant.work, **common}
        if shape := SHAPES.get(variant.work):
            _write_bert(shape, context)
            options["shape"] = asdict(shape)
        else:
            write_model(folder, "small" if variant.work == "decode" else "tiny")
        sides = [self.ours(**options, setting="adapted")]
        for name, (setting, variables, threads) in FIXED.items():
            if ("spinning" in name and variant.load) or ("one CPU" in name and not variant.load):
                continue
            fixed = options | {"setting": setting}
            sides.append(Side(name, self.script, fixed, setting="best", variables=variables, threads=threads))
        if shape and variant.work == "tiny":
            theirs = {**common, "inputs": str(context.folder / "inputs.safetensors"), "batch": shape.sequences}
            for as_it_comes in (False, True):
                name = "transformers Trainer as it comes" if as_it_comes else "transformers Trainer"
                level: Literal["default", "best"] = "default" if as_it_comes else "best"
                chosen = theirs | {"as_it_comes": as_it_comes}
                sides.append(Side(name, peer("transformers_trainer"), chosen, "setup", "trainer", level))
        return [replace(side, load=variant.load) for side in sides]

    def limits(self, context: Context) -> dict[str, float]:
        """None: what the machine still gives is the question."""
        return {}


def _write_bert(shape: Shape, context: Context) -> None:
    """The weights, and for the peer the batches."""
    from pretune.interop.huggingface import save_model
    from pretune.models import build

    save_model(build("bert", "base", ["mlm"], overrides=shape.overrides()), context.folder / "model")
    write_padded(shape, context.folder / "inputs.safetensors")


def setup(
    *,
    work: Work,
    seconds: float,
    model: str,
    precision: Literal["bf16", "fp32"],
    setting: Setting,
    shape: dict[str, Any] | None = None,
) -> Callable[[], dict[str, float]]:
    """Our side: units of work until the time is over.

    Args:
        setting: threads are adapted, as the command line and `pretune.load` do, or left alone, or on one CPU.
    """
    import torch

    from pretune.evaluate import embed
    from pretune.runtime import spinning
    from pretune.runtime.worker_policy import WorkerPolicy

    if setting != "adapted":
        spinning._watches.append(spinning.SpinWatch(None))
        embed._worker_policy = WorkerPolicy(is_fixed=True)
    adapting = spinning.adaptive_spinning if shape else nullcontext  # the training loop's; a model's use has its own
    around = _one_cpu if setting == "one CPU" else nullcontext
    with adapting(torch.device("cpu")):
        unit = (
            training(shape=shape, model=model, precision=precision, warm=WARM)
            if shape
            else _use(work, model, precision)
        )
        for _ in range(WARM):
            unit()

    def run() -> dict[str, float]:
        units, start = 0, time.perf_counter()
        with around(), adapting(torch.device("cpu")):
            while (spent := time.perf_counter() - start) < seconds:
                unit()
                units += 1
        return {"units": units, "seconds": spent}

    return run


@contextmanager
def _one_cpu() -> Iterator[None]:
    from pretune.runtime.affinity import Confinement

    confinement = Confinement()
    confinement.start({int(name) for name in os.listdir("/proc/self/task")}, threading.get_native_id())
    try:
        yield
    finally:
        confinement.end()


def _use(work: Work, model: str, precision: Literal["bf16", "fp32"]) -> Callable[[], object]:
    """A call of a loaded model."""
    from pretune.api import load

    network = load(model, "cpu", precision)
    texts = [" ".join(f"w{number + 7 * n}" for n in range(WORDS)) for number in range(TEXTS)]
    if work == "embed":
        return lambda: network.embed(texts)
    prompt = " ".join(texts[0].split()[:PROMPT])
    return lambda: network.continuations([prompt], max_new_tokens=NEW)
