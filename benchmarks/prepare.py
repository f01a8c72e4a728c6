"""Text to a token store, against `datasets.map` + `group_texts`; and memory against the amount of text.

    python benchmarks/prepare.py                         # WordPiece and byte-level BPE, 2 processes, 5 rounds
    python benchmarks/prepare.py --source text.jsonl --processes 8
    python benchmarks/prepare.py --memory                # 10 MB, 100 MB, 1 GB of generated text

Every turn is a fresh interpreter that reads the same JSON lines through the same tokenizer.json with the same number of
processes; imports are not counted, writing the result is. The peer is the pipeline of the language-modeling examples of
`transformers` ("examples": `load_dataset`, `map(tokenize, batched=True)`, `map(group_texts, batched=True)`, no cached
results), and the same with nothing asked of the tokenizer but ids ("ids"). Ours also removes duplicates, finds
sentences, holds out documents and hashes the result.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pairs import OURS, Row, record, rows_of, show

LENGTH = 128  # tokens of a group
PEERS = ("datasets examples", "datasets ids")


def prepare_ours(source: Path, tokenizer: Path, folder: Path, processes: int) -> dict[str, float]:
    """One turn of ours: a token store."""
    from pretune.text.prepare import PrepareConfig, prepare
    from pretune.text.tokenizer import Tokenizer

    start = time.perf_counter()
    store = prepare(source, Tokenizer.load(tokenizer), folder / "store", PrepareConfig(processes=processes))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens": float(sum(split.tokens for split in store.manifest.splits.values()))}


def prepare_theirs(source: Path, tokenizer: Path, folder: Path, processes: int, ids_only: bool) -> dict[str, float]:
    """One turn of the peer: two `map` passes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if processes > 1 else "true"
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    start = time.perf_counter()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / "tokenizer.json"))
    lean = {"return_attention_mask": False, "return_token_type_ids": False, "add_special_tokens": False}
    options: dict[str, Any] = lean if ids_only else {"return_special_tokens_mask": True}

    def tokenize(examples: dict[str, list[str]]) -> Any:
        return fast(examples["text"], **options)

    def group_texts(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        from itertools import chain

        joined = {key: list(chain(*examples[key])) for key in examples}
        total = len(next(iter(joined.values()))) // LENGTH * LENGTH
        return {key: [run[i : i + LENGTH] for i in range(0, total, LENGTH)] for key, run in joined.items()}

    raw = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(folder))
    many = {"batched": True, "num_proc": processes if processes > 1 else None, "load_from_cache_file": False}
    tokenized = raw.map(tokenize, remove_columns=raw.column_names, **many)
    grouped = tokenized.map(group_texts, **many)
    return {"seconds": time.perf_counter() - start, "tokens": float(len(grouped) * LENGTH)}


def turn(name: str, source: Path, tokenizer: Path, processes: int) -> dict[str, float]:
    """Run one turn in an interpreter of its own and watch the memory of all its processes."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--turn", name, "--source", source, "--tokenizer", tokenizer, "--folder", folder]
        command = [sys.executable, __file__, *map(str, words), "--processes", str(processes)]
        environment = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": folder}
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        peak = Peak(child.pid)
        output = child.communicate()[0]
        if child.returncode:
            raise SystemExit(f"{name}: exit code {child.returncode}")
        found: dict[str, float] = json.loads(output.splitlines()[-1])
        found["megabytes"] = source.stat().st_size / 1e6
        found["peak_mb"] = peak.stop()
        return found


class Peak:
    """Watches the proportional memory of a process and all below it."""

    def __init__(self, root: int) -> None:
        self._root, self._most, self._stop = root, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The highest sum seen, in MB."""
        self._stop.set()
        self._thread.join()
        return self._most / 1e3

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            self._most = max(self._most, sum(_memory(process) for process in _family(self._root)))


def _family(process: int) -> Iterator[int]:
    yield process
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield from _family(child)


def _memory(process: int) -> int:
    """Kilobytes, pages that processes share divided among them."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def train(source: Path, kind: str, vocab_size: int, folder: Path) -> Path:
    """A tokenizer trained on the text itself."""
    from pretune.text.corpus import read_corpus
    from pretune.text.train_tokenizer import TokenizerConfig, train_tokenizer

    config = TokenizerConfig.model_validate({"kind": kind, "vocab_size": vocab_size, "max_bytes": 20_000_000})
    train_tokenizer((document.text for document in read_corpus(source)), config).save(folder / kind)
    return folder / kind


def generate(path: Path, megabytes: int) -> Path:
    """Documents of Zipf-distributed made-up words, all different."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(letters[rng.geometric(0.12, rng.integers(2, 10)) % 26]) for _ in range(60_000)]
    words = [
        word + mark for word, mark in zip(words, rng.choice(["", "", "", "", ",", ".", ". "], len(words)), strict=True)
    ]
    number = 0
    with path.open("w") as file:
        while file.tell() < megabytes * 1_000_000:
            drawn = np.minimum(rng.zipf(1.15, 200_000), len(words)) - 1
            for run in drawn.reshape(-1, 200).tolist():
                file.write(json.dumps({"text": f"{number} " + " ".join(words[i] for i in run)}) + "\n")
                number += 1
    return path


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """Rounds of ours and the peers in turn, for each kind of tokenizer."""
    source = arguments.source or _documentation(folder)
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    given = {"processes": arguments.processes, "megabytes": source.stat().st_size / 1e6}
    for kind in arguments.kinds:
        tokenizer = train(source, kind, arguments.vocab_size, folder)
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in (OURS, *PEERS)}
        for number in range(-1, arguments.rounds):
            for name, past in turns.items():
                found = turn(name, source, tokenizer, arguments.processes)
                past += [found] if number >= 0 else []
            if number >= 0:
                print(f"  {kind} {number + 1}: " + ", ".join(f"{n} {t[-1]['seconds']:.1f} s" for n, t in turns.items()))
        rows += rows_of(f"prepare {kind}", turns, "megabytes", "MB/s")
        facts[f"prepare {kind}"] = {
            name: {
                "tokens_per_second": statistics.median(t["tokens"] / t["seconds"] for t in past),
                "peak_mb": max(t["peak_mb"] for t in past),
            }
            for name, past in turns.items()
        }
        show(rows[-len(PEERS) :])
        for name, fact in facts[f"prepare {kind}"].items():
            print(f"  {name:20} {fact['tokens_per_second']:12,.0f} tokens/s {fact['peak_mb']:8.0f} MB at the peak")
    print(record("prepare", rows, **given, facts=facts))


def memory(arguments: argparse.Namespace, folder: Path) -> None:
    """Peak memory of ours at growing amounts of text."""
    facts: dict[str, Any] = {}
    tokenizer = train(generate(folder / "small.jsonl", 5), "wordpiece", arguments.vocab_size, folder)
    for megabytes in arguments.sizes:
        source = generate(folder / f"{megabytes}.jsonl", megabytes)
        found = turn(OURS, source, tokenizer, arguments.processes)
        facts[f"{megabytes} MB"] = found
        print(
            f"{megabytes:6} MB of text: {found['peak_mb']:6.0f} MB at the peak, {megabytes / found['seconds']:.1f} MB/s"
        )
        source.unlink()
    print(record("prepare-memory", [], facts=facts))


def _documentation(folder: Path) -> Path:
    from pretune.text.pydocs import write_pydocs

    path = folder / "pydocs.jsonl"
    write_pydocs(path)
    return path


def _turn(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.folder)
    sides = (arguments.source, arguments.tokenizer, folder, arguments.processes)
    if arguments.turn == OURS:
        found = prepare_ours(*sides)
    else:
        found = prepare_theirs(*sides, ids_only=arguments.turn == PEERS[1])
    found["self_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps(found))


def main() -> None:
    """Measure, print and write `results/prepare-*.json` or `results/prepare-memory-*.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="JSON lines with a field text; default: the corpus pydocs")
    parser.add_argument("--kinds", nargs="*", default=["wordpiece", "bpe"])
    parser.add_argument("--vocab-size", type=int, default=16000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 1000], help="MB of text for --memory")
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        _turn(arguments)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        (memory if arguments.memory else compare)(arguments, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
