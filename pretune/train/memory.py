"""Tells what memory a run asks for at the least, and refuses what the machine does not have before it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pretune.errors import UsageError, first_line, is_shortage
from pretune.runtime.memory import total_memory
from pretune.train.recipe import Recipe

_SAMPLE = 3 * 8  # bytes of a sample of a step in the sampler: three int64


def check_step(recipe: Recipe, width: int, tokens_of_sample: float, max_tokens: float, device: torch.device) -> None:
    """Refuse a step that cannot be held whatever else is in memory.

    Args:
        width: of the model.
        tokens_of_sample: on average, special tokens included.
        max_tokens: of a step at most, as where none takes a sample twice.

    Raises:
        UsageError: its samples on the host, or the vectors of a micro-batch's tokens, are more than there is memory.
    """
    data = recipe.data
    name, value = ("batch", data.batch) if data.batch is not None else ("batch_tokens", data.batch_tokens or 1)
    tokens = value * tokens_of_sample if name == "batch" else value
    parts = data.accumulate * int(os.environ.get("WORLD_SIZE", "1"))
    needs = [
        (tokens / tokens_of_sample * _SAMPLE, total_memory(torch.device("cpu")), "the list of its samples"),
        (min(tokens, max_tokens) / parts * width * 4, total_memory(device), "one vector for each of its tokens"),
    ]
    for needed, there, what in needs:
        if needed > there:
            raise UsageError(
                f"recipe: field 'data.{name}' = {value}: a step needs {needed / 1e9:,.0f} GB for {what} alone, and "
                f"there are {there / 1e9:,.0f} GB; lower it, or raise data.accumulate ({data.accumulate})"
            )


@contextmanager
def allocation_errors(what: str) -> Iterator[None]:
    """Turns a failure to get memory into an error that says for what it was asked.

    Args:
        what: needs the memory, and how to need less.

    Raises:
        UsageError: there is not as much memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise UsageError(f"{what}: there is not as much memory ({first_line(error)})") from None
