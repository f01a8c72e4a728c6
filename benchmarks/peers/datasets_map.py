"""The pipeline of the language-modeling examples of `transformers`: `load_dataset`, `map(tokenize)`, `group_texts`.

Nothing is cached between runs. The clock stops when the groups lie on disk; what is compared is counted after it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np


def setup(
    *, source: str, tokenizer: str, processes: int, ids_only: bool, length: int, folder: str
) -> Callable[[], dict[str, float]]:
    """Import the libraries; a run goes from JSON lines to groups.

    Args:
        source: JSON lines with a field `text`.
        tokenizer: a folder with `tokenizer.json`.
        processes: `num_proc` of both maps.
        ids_only: nothing is asked of the tokenizer but ids, without special tokens; else what the examples ask for.
        length: tokens of a group.
        folder: for the caches.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if processes > 1 else "true"
    os.environ["HF_HOME"] = folder
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    lean = {"return_attention_mask": False, "return_token_type_ids": False, "add_special_tokens": False}
    wanted: dict[str, Any] = lean if ids_only else {"return_special_tokens_mask": True}

    def group_texts(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {key: list(chain(*examples[key])) for key in examples}
        total = len(next(iter(joined.values()))) // length * length
        return {key: [run[i : i + length] for i in range(0, total, length)] for key, run in joined.items()}

    def run() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            start = time.perf_counter()
            fast = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{tokenizer}/tokenizer.json")

            def tokenize(examples: dict[str, list[str]]) -> Any:
                return fast(examples["text"], **wanted)

            raw = datasets.load_dataset("json", data_files=source, split="train", cache_dir=cache)
            many = {"batched": True, "num_proc": processes if processes > 1 else None, "load_from_cache_file": False}
            tokenized = raw.map(tokenize, remove_columns=raw.column_names, **many)
            tokenized.map(group_texts, **many)
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "megabytes": os.path.getsize(source) / 1e6, **_count(tokenized)}

    return run


def _count(tokenized: Any) -> dict[str, float]:
    """How many ordinary tokens there are, and the sum of their ids."""
    count = total = 0
    special = tokenized.data.column("special_tokens_mask").chunks if "special_tokens_mask" in tokenized.features else []
    for number, chunk in enumerate(tokenized.data.column("input_ids").chunks):
        ids = np.asarray(chunk.flatten(), np.int64)
        if special:
            ids = ids[np.asarray(special[number].flatten()) == 0]
        count, total = count + len(ids), total + int(ids.sum())
    return {"tokens": count, "id_sum": total}
