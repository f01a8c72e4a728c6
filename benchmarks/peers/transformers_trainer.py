"""Masked language modelling by the `Trainer` of `transformers`, for a given time: its pace, without its start.

Inputs are those of `transformers_train`, all of one length. At its best: bf16 where we have it, fused AdamW, SDPA, no
dropout of attention; as it comes: fp32, and the dropout of attention that the model's file says.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The rows of all batches."""

    def __init__(self, path: str) -> None:
        tensors = load_file(path)
        self._columns = {
            name: torch.cat([x for key, x in sorted(tensors.items()) if key.endswith(f".{name}")])
            for name in ("input_ids", "labels")
        }

    def __len__(self) -> int:
        return len(self._columns["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self._columns.items()}


class Clock(transformers.TrainerCallback):  # type: ignore[misc]
    """Counts steps, and stops when the time is over.

    Args:
        seconds: 0 stops after the first step.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.start, self.spent = seconds, 0, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self.start = self.start or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the time."""
        self.steps += 1
        self.spent = time.perf_counter() - self.start
        control.should_training_stop = self.spent >= self.seconds


def setup(
    *, model: str, inputs: str, seconds: float, precision: str, batch: int, as_it_comes: bool
) -> Callable[[], dict[str, float]]:
    """Load the weights and the rows; a run goes on with the weights of the one before.

    Args:
        model: a Hugging Face folder.
        inputs: a safetensors file.
        seconds: of a run.
        batch: rows of a step.
        as_it_comes: without what makes it faster.
    """
    transformers.logging.set_verbosity_error()
    best = {} if as_it_comes else {"attn_implementation": "sdpa", "attention_probs_dropout_prob": 0.0}
    network = transformers.AutoModelForMaskedLM.from_pretrained(model, **best)
    rows = Rows(inputs)

    def train(seconds: float) -> Clock:
        clock = Clock(seconds)
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                folder,
                max_steps=1_000_000,
                per_device_train_batch_size=batch,
                learning_rate=1e-4,
                bf16=precision == "bf16" and not as_it_comes,
                use_cpu=True,
                **({} if as_it_comes else {"optim": "adamw_torch_fused"}),
                save_strategy="no",
                report_to="none",
                logging_strategy="no",
                disable_tqdm=True,
            )
            transformers.Trainer(network, arguments, train_dataset=rows, callbacks=[clock]).train()
        return clock

    train(0.5)

    def run() -> dict[str, float]:
        clock = train(seconds)
        return {"units": clock.steps, "seconds": clock.spent}

    return run
