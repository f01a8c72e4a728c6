"""Runs both sides in turns and goes on where it stopped.

    python -m benchmarks.scoring DATA MODEL.gguf --output scoring.json [--limit 100] [--rounds 3] [--batch-sizes 1,8]

DATA holds piqa.jsonl, arc_easy.jsonl, copa.jsonl and winogrande.jsonl. Each run is a process with lm-eval's own
command, so its time has the reading of the model in it. Log-likelihoods of each request are compared between the sides.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scoring.tasks import SETS, write_tasks


def main() -> None:
    """Runs what is missing, then prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path, help="a GGUF file, or a folder of the Hugging Face layout")
    parser.add_argument("--output", type=Path, default=Path("scoring.json"))
    parser.add_argument("--limit", type=int, help="records of each set; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", default="1,8", help="of lm-eval's hf model; 1 is its default")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the peer's environment")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(given.output.read_text()) if given.output.exists() else {}
    sides = ["pretune", *(f"hf {size}" for size in given.batch_sizes.split(","))]
    for number in range(given.rounds):
        for name in given.sets.split(","):
            for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
                key = f"{name} | {given.limit or 'all'} | {side} | {number}"
                if key not in results:
                    results[key] = _run(name, side, given)
                    given.output.write_text(json.dumps(results, indent=1))
                    print(key, {k: v for k, v in results[key].items() if k != "log_likelihoods"}, flush=True)
    _table(results, given.sets.split(","), sides, given.limit, given.rounds)


def _run(name: str, side: str, given: argparse.Namespace) -> dict[str, Any]:
    """One process: its seconds, its scores, and the log-likelihood of each request."""
    with tempfile.TemporaryDirectory() as scratch:
        write_tasks(given.data, Path(scratch) / "tasks")
        if side == "pretune":
            command = [sys.executable, "-m", "pretune.lm_eval", "run", "--model", "pretune"]
            command += ["--model_args", f"path={given.model}"]
        else:
            where = f"pretrained={given.model}"
            if given.model.suffix == ".gguf":
                where = f"pretrained={given.model.parent},gguf_file={given.model.name}"
            command = [given.python, "-m", "lm_eval", "run", "--model", "hf", "--model_args", where]
            command += ["--batch_size", side.split()[1], "--device", "cpu"]
        command += ["--tasks", f"local_{name}", "--include_path", f"{scratch}/tasks", "--log_samples"]
        command += ["--output_path", f"{scratch}/out"] + (["--limit", str(given.limit)] if given.limit else [])
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begin
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        (results,) = Path(scratch, "out").rglob("results_*.json")
        (samples,) = Path(scratch, "out").rglob("samples_*.jsonl")
        scores = json.loads(results.read_text())["results"][f"local_{name}"]
        rows = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda row: row["doc_id"])
        return {
            "wall": round(wall, 2),
            "cpu": round(cpu, 2),
            "scores": {key.partition(",")[0]: value for key, value in scores.items() if key.startswith("acc")},
            "log_likelihoods": [float(response[0]) for row in rows for response in row["filtered_resps"]],
        }


def _table(results: dict[str, Any], names: list[str], sides: list[str], limit: int | None, rounds: int) -> None:
    """Medians of ratios of paired rounds, and how far log-likelihoods are apart."""
    print("| set | against | CPU, ratio of medians of pairs | wall | scores equal | largest difference |")
    print("|---|---|---|---|---|---|")
    for name in names:
        runs = {side: [results[f"{name} | {limit or 'all'} | {side} | {n}"] for n in range(rounds)] for side in sides}
        for side in sides[1:]:
            pairs = list(zip(runs["pretune"], runs[side], strict=True))
            cpu, wall = (statistics.median(b[field] / a[field] for a, b in pairs) for field in ("cpu", "wall"))
            ours, theirs = pairs[0]
            apart = max(abs(a - b) for a, b in zip(ours["log_likelihoods"], theirs["log_likelihoods"], strict=True))
            equal = {key: (ours["scores"][key], theirs["scores"][key]) for key in ours["scores"] if "stderr" not in key}
            said = ", ".join(f"{key} {a:.4f}{'' if a == b else f' : {b:.4f}'}" for key, (a, b) in equal.items())
            print(f"| {name} | {side} | {cpu:.2f} | {wall:.2f} | {said} | {apart:.2g} |")


if __name__ == "__main__":
    main()
