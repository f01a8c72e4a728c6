"""Raw text to a token store, against `datasets.map` and `group_texts`: same lines, same tokenizer.json, same tokens.

Every run is a fresh interpreter; imports are not counted, writing the result is. Ours also finds sentences, looks for
duplicates, holds out documents and hashes the result. The peer's default is what the language-modeling examples of
`transformers` do; at its best it asks the tokenizer for nothing but ids. Memory is that of all processes of a side.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmarks.benchmark import OURS, Benchmark, Context, Limits, Run, Runs, Side, peer
from pretune.errors import BenchError

LENGTH = 128  # tokens of the peer's groups
VOCABULARY = 16000
TRAINED_ON = 20_000_000  # bytes
TokenizerKind = Literal["wordpiece", "bpe"]


class Prepare(Benchmark):
    """From text to tokens on disk."""

    about = (
        "Raw text (the documentation that this Python carries) to tokens on disk, one process a core. Ours also looks "
        "for duplicates, finds sentences, holds out documents and hashes the result. Memory is that of all processes."
    )
    variants: ClassVar[Mapping[str, TokenizerKind]] = {"wordpiece": "wordpiece", "bpe": "bpe"}
    amount, unit = "megabytes", "MB/s"
    fresh = True

    def sides(self, context: Context) -> list[Side]:
        """Ours; the examples' pipeline; the same with ids alone."""
        source = write_source(context.folder / "source.jsonl")
        tokenizer = train(source, self.variants[context.variant], context.folder / "tokenizer")
        common: dict[str, Any] = {"source": str(source), "tokenizer": str(tokenizer), "folder": str(context.folder)}
        common |= {"processes": context.threads}
        theirs = peer("datasets_map")
        return [
            self.ours(**common),
            Side(
                "datasets, as the examples have it",
                theirs,
                {**common, "ids_only": False, "length": LENGTH},
                environment="datasets",
                setting="default",
            ),
            Side(
                "datasets, ids alone",
                theirs,
                {**common, "ids_only": True, "length": LENGTH},
                environment="datasets",
                setting="best",
            ),
        ]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """As many tokens on both sides, and the same sum of their ids; special tokens aside."""
        sums = {label: (past[0]["tokens"], past[0]["id_sum"]) for label, past in runs.items()}
        if len(set(sums.values())) > 1:
            raise BenchError(f"the sides made different tokens (number, sum of ids): {sums}")
        return {"tokens": sums[OURS][0]}

    def facts(self, context: Context, runs: Sequence[Run], limits: Limits) -> dict[str, Any]:
        """Tokens a second."""
        return {"tokens_per_second": statistics.median(run["tokens"] / run["seconds"] for run in runs)}

    def notes(self, facts: Mapping[str, Any]) -> list[str]:
        """The same as a sentence."""
        return [f"ours {facts['tokens_per_second'] / 1e6:.2f} million tokens/s"]


def write_source(path: Path) -> Path:
    """The corpus pydocs, each text once: the peer knows no duplicates."""
    from pretune.demo.pydocs import write_pydocs

    write_pydocs(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    unique = {json.loads(line)["text"]: line for line in lines}
    path.write_text("\n".join(unique.values()) + "\n", encoding="utf-8")
    return path


def train(source: Path, model: TokenizerKind, folder: Path) -> Path:
    """A tokenizer trained on the text itself."""
    from pretune.text.readers.corpus import read_corpus
    from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

    config = TokenizerConfig(kind=model, vocab_size=VOCABULARY, max_bytes=TRAINED_ON)
    train_tokenizer((document.text for document in read_corpus(source)), config).save(folder)
    return folder


def setup(*, source: str, tokenizer: str, processes: int, folder: str) -> Callable[[], dict[str, float]]:
    """pretune's own: a token store."""
    from pretune.text.store.prepare import PrepareConfig, prepare
    from pretune.text.tokenizer.tokenizer import Tokenizer

    def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            start = time.perf_counter()
            config = PrepareConfig(processes=processes)
            store = prepare(source, Tokenizer.load(tokenizer), Path(place) / "store", config)
            seconds = time.perf_counter() - start
            size = Path(source).stat().st_size / 1e6
            return {"seconds": seconds, "megabytes": size, **_count(store)}

    return run


def _count(store: Any) -> dict[str, float]:
    """How many tokens there are without the ends of documents, and the sum of their ids."""
    splits = store.manifest.splits
    documents = sum(split.documents for split in splits.values())
    count = sum(split.tokens for split in splits.values())
    total = 0
    for name in splits:
        split = store.split(name)
        total += sum(
            int(split.read(n, min(n + 2**20, split.token_count)).sum()) for n in range(0, split.token_count, 2**20)
        )
    return {"tokens": count - documents, "id_sum": total - documents * store.manifest.end}
