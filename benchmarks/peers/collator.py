"""The usual way to masked batches: torch's DataLoader and the collator of `transformers`.

Windows are a safetensors file: `tokens`, end to end with their special tokens, and `lengths`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch.utils.data import DataLoader

PAD, MASK = 0, 4


def setup(
    *, windows: str, tokenizer: str, batch: int, storage: str, tensors: str, workers: int, padded: bool
) -> Callable[[], dict[str, Any]]:
    """Load the windows; a run is an epoch.

    Args:
        windows: the safetensors file.
        tokenizer: a tokenizer.json.
        batch: windows of a batch.
        storage: "arrow": a table of `datasets` with all columns that the examples keep; "lists" of numbers, or
            "arrays", in memory.
        tensors: what the collator works with, "pt" or "np"; the batch is tensors in the end.
        workers: of the loader; 0 is this process.
        padded: windows differ in length, so that the model needs an attention mask.
    """
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "pad", "cls", "sep", "mask")}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=tokenizer, **names)
    collate = transformers.DataCollatorForLanguageModeling(fast, mlm_probability=0.15, return_tensors=tensors)

    def collator(examples: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(examples)
        return {name: torch.as_tensor(batch[name]) for name in batch}

    loader: Iterable[Mapping[str, torch.Tensor]] = DataLoader(
        stored(read(windows), storage, padded),
        batch_size=batch,
        shuffle=True,
        collate_fn=collator,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    facts = statistics(loader)

    def run() -> dict[str, Any]:
        for batch in loader:
            batch["input_ids"]
        return facts

    return run


def read(path: str) -> list[np.ndarray[Any, Any]]:
    """The windows, one by one."""
    tensors = load_file(path)
    return np.split(tensors["tokens"], np.cumsum(tensors["lengths"])[:-1])


def stored(windows: list[np.ndarray[Any, Any]], storage: str, padded: bool) -> Any:
    """The data set that the loader draws from."""
    if storage == "arrow":
        import datasets

        special = [[1] + [0] * (len(window) - 2) + [1] for window in windows]
        columns = {
            "input_ids": [window.tolist() for window in windows],
            "attention_mask": [[1] * len(window) for window in windows],
            "special_tokens_mask": special,
        }
        return datasets.Dataset.from_dict(columns)
    items: list[Any] = windows if storage == "arrays" else [window.tolist() for window in windows]
    return [{"input_ids": item} for item in items] if padded else items


def statistics(batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """What an epoch holds and how it was masked."""
    count = dict.fromkeys(("windows", "tokens", "id_sum", "chosen", "masked", "kept"), 0)
    for batch in batches:
        ids, labels = batch["input_ids"], batch["labels"]
        chosen = labels != -100
        before = torch.where(chosen, labels, ids)
        real = before != PAD
        counts = {
            "windows": len(ids),
            "tokens": int(real.sum()),
            "id_sum": int(before[real].sum()),
            "chosen": int(chosen.sum()),
            "masked": int((ids[chosen] == MASK).sum()),
            "kept": int((ids == labels).sum()),
        }
        count = {name: count[name] + number for name, number in counts.items()}
    return count
