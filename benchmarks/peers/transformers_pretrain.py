"""Masked language modelling by the `Trainer` of `transformers` at its best, for a given time.

bf16 autocast, fused AdamW, SDPA, windows packed as `group_texts` does, no dropout, and a linear schedule whose length
is what the time allows: the pace is measured first, on a copy of the model that is thrown away.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

WARMUP = 0.06


class Windows(torch.utils.data.Dataset[dict[str, Any]]):
    """Packed windows, special tokens in them. Shape: (n, length) int32."""

    def __init__(self, windows: np.ndarray[Any, Any]) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self._windows[index].astype(np.int64)}


def setup(
    *, model: str, tokenizer: str, windows: str, output: str, seconds: float, batch: int, lr: float, precision: str
) -> Callable[[], dict[str, Any]]:
    """Load weights and windows, and measure the pace.

    Args:
        model: a Hugging Face folder with initial weights.
        windows: a .npy file.
        output: where the trained model goes.
        seconds: of training.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(Path(tokenizer) / "tokenizer.json"),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    network = transformers.BertForMaskedLM.from_pretrained(model, attn_implementation="sdpa", **dropout)
    data = Windows(np.load(windows))

    def train(net: Any, steps: int, where: str, seed: int) -> float:
        arguments = transformers.TrainingArguments(
            where,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=lr,
            lr_scheduler_type="linear",
            warmup_steps=round(WARMUP * steps),
            weight_decay=0.01,
            adam_beta2=0.98,
            adam_epsilon=1e-6,
            bf16=precision == "bf16",
            use_cpu=True,
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            seed=seed,
        )
        trainer = transformers.Trainer(
            net, arguments, transformers.DataCollatorForLanguageModeling(words), train_dataset=data
        )
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start

    train(copy.deepcopy(network), 10, output, 0)  # warms up
    pace = train(copy.deepcopy(network), 20, output, 0) / 20
    runs = 0

    def run() -> dict[str, Any]:
        nonlocal runs
        runs += 1
        net = copy.deepcopy(network)
        steps = max(1, round(seconds / pace))
        spent = train(net, steps, output, runs)
        folder = str(Path(output) / f"run-{runs}")
        net.save_pretrained(folder)
        return {"seconds": spent, "runs": 1, "tokens": steps * batch * data[0]["input_ids"].size, "model": folder}

    return run
