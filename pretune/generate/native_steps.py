"""Decoding by the kernels in C: which models have such steps, and the steps of one session.

A row's logits are the same, bit for bit, whatever stands beside it: prompts are read by the same kernels, and an
encoder reads each source alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from pretune import native
from pretune.batch import ragged
from pretune.errors import DataError
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.models.native_bricks import UnplannedError
from pretune.models.native_step import plan_step
from pretune.native.cache import PagedCache
from pretune.native.lowering import program_bytes
from pretune.native.program import CacheShape, Program, StepResult
from pretune.nn.block import DecoderBlock
from pretune.nn.heads import VocabularyHead
from pretune.nn.packed import bytes_to_pack as product_bytes
from pretune.runtime.device import inference_context, is_bf16
from pretune.runtime.memory import check_memory

_log = logging.getLogger("pretune")


class Executor(Protocol):
    """What runs a program: `native.Executor`, or what stands for it in tests."""

    def run(
        self,
        cache: PagedCache,
        tokens: Sequence[int],
        slots: Sequence[int],
        *,
        wanted: Sequence[int],
        top: int = 1,
        log_sum: bool = False,
        cross: PagedCache | None = None,
    ) -> StepResult:
        """Reads rows: a token and a slot each."""


@dataclass(frozen=True)
class NativeModel:
    """A model's step, with its weights packed.

    Attributes:
        cache, cross: what the caches of a session hold.
    """

    executor: Executor
    cache: CacheShape
    cross: CacheShape | None


_models: WeakKeyDictionary[LanguageModel, dict[tuple[int, int], NativeModel | Program | None]] = WeakKeyDictionary()
"""What decodes: by torch where None, by a program whose weights are not packed yet, or by one that is ready."""


def native_model(model: LanguageModel, head: VocabularyHead, vocabulary: int) -> NativeModel | None:
    """What runs the steps of a model, made once; None where torch does.

    Only of a model in use, whose weights do not change: kernels have a copy of them in a layout of their own.

    Args:
        head: that predicts the next token.
        vocabulary: tokens that have logits.

    Raises:
        UsageError: there is no memory for the copy.
    """
    planned = _planned(model, head, vocabulary)
    if isinstance(planned, Program):
        check_memory(
            program_bytes(planned), model.device, "a copy of the weights in the layout of the kernels",
            "end other programs, or use smaller weights (--format q8_0 of pretune compress)",
        )  # fmt: skip
        planned = NativeModel(native.Executor(planned), planned.cache, planned.cross)
        _models[model][id(head), vocabulary] = planned
    return planned


def bytes_to_pack(model: LanguageModel, head: VocabularyHead, vocabulary: int, *, is_native: bool = True) -> int:
    """Bytes that a copy of the weights will take, for our kernels or for torch's; 0 where it is there already.

    Args:
        head, vocabulary: as of `native_model`.
        is_native: our kernels may decode, where they know the model.
    """
    planned = _planned(model, head, vocabulary) if is_native else None
    if isinstance(planned, Program):
        return program_bytes(planned)
    return 0 if planned is not None else sum(product_bytes(product) for product in model.products or ())


def _planned(model: LanguageModel, head: VocabularyHead, vocabulary: int) -> NativeModel | Program | None:
    if model.products is None or not native.available():
        return None
    known = _models.setdefault(model, {})
    key = (id(head), vocabulary)
    if key not in known:
        try:
            known[key] = plan_step(model, head, vocabulary)
        except UnplannedError as error:
            _log.info("decoding runs by torch: %s", error)
            known[key] = None
    return known[key]


class NativeSteps:
    """The steps of one session: its rows are slots of a cache of pages.

    Args:
        steps: of the model.
        model: whose encoder reads sources, where it has one.
    """

    def __init__(self, steps: NativeModel, model: LanguageModel) -> None:
        self._executor, self._model = steps.executor, model
        self._cache = PagedCache(steps.cache)
        self._cross = None if steps.cross is None else PagedCache(steps.cross)
        self._slots: list[int] = []

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        return tuple(self._cache.lengths[slot] for slot in self._slots)

    def read(self, prompts: Sequence[NDArray[np.int64]], start: int | None) -> StepResult:
        """Reads prompts, a new row for each; or sources, after which each text begins with `start`."""
        self._slots = [self._cache.admit() for _ in prompts]
        if self._cross is None or start is None:
            return self.step([prompt.tolist() for prompt in prompts])
        for slot, source in zip(self._slots, prompts, strict=True):
            self._encode(self._cross, slot, source)
        return self.step([[start]] * len(prompts))

    def step(
        self, runs: Sequence[Sequence[int]], *, all_rows: bool = False, top: int = 1, log_sum: bool = False
    ) -> StepResult:
        """Feeds tokens to each row.

        Args:
            all_rows: the result is of all tokens; else of the last one of each row.
            top: how many of the best tokens are found.
            log_sum: the logarithm of the sum of exp(logit) is wanted.

        Raises:
            ValueError: a row gets longer than the model's positions.
        """
        tokens = [token for run in runs for token in run]
        slots = [slot for slot, run in zip(self._slots, runs, strict=True) for _ in run]
        wanted: Sequence[int] = range(len(tokens))
        if not all_rows:
            wanted = (np.cumsum([len(run) for run in runs]) - 1).tolist()
        return self._executor.run(
            self._cache, tokens, slots, wanted=wanted, top=top, log_sum=log_sum, cross=self._cross
        )

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forgets what comes after so many tokens of each row."""
        for slot, length in zip(self._slots, lengths, strict=True):
            self._cache.truncate(slot, length)

    def select(self, rows: Sequence[int]) -> None:
        """Keeps, repeats and reorders rows, which share their pages."""
        before = self._slots
        self._slots = self._cache.select(before, rows)
        if self._cross is not None:  # its slots come and go with the others, so their numbers are the same
            slots = self._cross.select(before, rows)
            assert slots == self._slots

    def _encode(self, cross: PagedCache, slot: int, source: NDArray[np.int64]) -> None:
        """Keeps keys and values of a source, which the encoder reads alone.

        Raises:
            DataError: it is longer than the model's positions.
        """
        model = self._model
        assert isinstance(model, EncoderDecoder)
        assert cross.admit() == slot
        batch = ragged([source])
        model.check_source(batch)
        with inference_context(torch.device("cpu"), is_bf16(model)):
            encoded = model.encoder(batch)
            length = len(encoded.hidden)
            cross.reserve(slot, length)
            for layer, block in enumerate(model.stack.in_order):
                if not isinstance(block, DecoderBlock):
                    raise DataError("a program with an encoder has blocks that attend to it")
                keys, values, _ = block.cross.project_keys(encoded)
                cross.write(slot, layer, keys.float(), values.float())
        cross.lengths[slot] = length
