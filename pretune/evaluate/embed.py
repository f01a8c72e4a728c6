"""Embeds texts as vectors: several threads tokenize and compute at once, texts of similar length together.

    texts -> parts, longest first -> tokens, cut -> batches by tokens -> network -> rows -> modules -> (n, width)

On the CPU each thread takes the next part, tokenizes it and computes it with its part of the cores: cores that wait
for nobody do more than cores that share each matmul, and Python's work on one part hides behind another's products.
On other devices a thread tokenizes ahead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.batch import Batch, Layout, OutputRows, ragged
from pretune.errors import DataError, UsageError
from pretune.evaluate.engine import by_length
from pretune.evaluate.layers import LayerChoice
from pretune.evaluate.pooled_prompt import prompt_tokens, say_joined
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.flops import encoder_flops, flops_per_token
from pretune.models.model import LanguageModel
from pretune.models.text_vectors import TextVectors
from pretune.nn.model_protocol import ModelOutput
from pretune.nn.vectors import PoolingMode, TextFeatures
from pretune.runtime.device import inference_context, is_bf16
from pretune.runtime.finite import first_non_finite_row, non_finite
from pretune.runtime.openmp import threads_of_caller
from pretune.runtime.thread_times import own_times
from pretune.runtime.worker_policy import WorkerPolicy
from pretune.text.tokenizer.long_texts import Keep
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import say_cut, say_unknown
from pretune.text.tokenizer.vocabulary import Tokens

Vectors = NDArray[np.float32]
TextIndices = NDArray[np.int64]  # indices of texts

BUDGET = 2048  # tokens of a forward on the CPU, whose rows stay in its caches
_LARGE = 16384  # on a device that wants much work at once
_CHARACTERS = 4  # of a token, about: only the sizes of parts rest on it
_USUAL = 128  # tokens of a text, for the work of a token
_MIN_TOKENS = 256  # tokens of a part: fewer are not worth a thread's turn,
_MIN_FLOPS = 1e9  # nor is less work, of which Python's part is the larger: one core is faster than two that wait
_WORKERS = 8  # threads at most, as Python lets one at a time start an operator
_starting = threading.Lock()
_worker_policy = WorkerPolicy()  # of this process


@dataclass(frozen=True)
class Embedder:
    """Turns texts into vectors.

    Attributes:
        network: on its device, in evaluation mode.
        length: tokens that a text may have, special ones included: what is over is cut.
        vectors: what makes a vector of the last layer's rows.
        budget: tokens of a forward.
        prompt: comes before each text.
        group: number of the adapter that reads each text; None where there are none to choose.
        layers: whose rows are pooled; None for the last one.
        dim: numbers of a vector that are kept; None for all.
    """

    network: LanguageModel
    tokenizer: Tokenizer
    length: int
    vectors: TextVectors
    budget: int
    prompt: str = ""
    group: TextIndices | None = None
    layers: LayerChoice | None = None
    dim: int | None = None

    @classmethod
    def of(
        cls,
        network: LanguageModel,
        tokenizer: Tokenizer,
        pooling: PoolingMode | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        budget: int | None = None,
        group: TextIndices | None = None,
        layers: LayerChoice | None = None,
        dim: int | None = None,
    ) -> Embedder:
        """The embedder of a model as its files say it.

        Args:
            pooling, prompt, prompt_name, budget: as of `Model.embed`.
            group: number of the adapter that reads each text.
            layers: whose rows are pooled, without the modules behind the pooling; by default the last one.
            dim: numbers of a vector that are kept.

        Raises:
            UsageError: an unknown pooling or name of a prompt, or a prompt and a name; more numbers than a vector has.
        """
        if pooling is not None and pooling not in get_args(PoolingMode):
            raise UsageError(f"pooling {pooling!r}: expected {', '.join(get_args(PoolingMode))}")
        vectors = (network.vectors or TextVectors.pooled(network.default_pooling)).to(network.device)
        if layers is not None:
            pooling = pooling or vectors.first_pooling or network.default_pooling
        vectors = vectors if pooling is None else vectors.repooled(pooling)
        settings = tokenizer.settings if vectors.max_length is None else {"model_max_length": vectors.max_length}
        tokenizer = tokenizer.lowercased() if vectors.lowercase else tokenizer
        text = vectors.prompt(prompt, prompt_name)
        length, budget = network.context(settings), budget or budget_of(network.device)
        embedder = cls(network, tokenizer, length, vectors, budget, text, group, layers, dim)
        if dim is not None and not 1 <= dim <= embedder.full_width:
            raise UsageError(f"dim {dim}: this model's vectors have {embedder.full_width} numbers; give 1 to as many")
        return embedder

    @property
    def full_width(self) -> int:
        """Numbers of a vector before any is cut."""
        return self.vectors.width(self.network.width * (1 if self.layers is None else self.layers.parts))

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """One vector for each text, in their order.

        Shape:
            return: (n, width)

        Raises:
            DataError: a text without any token, one that cannot be encoded, or one that the prompt leaves no room.
            NonFiniteError: a vector that is not finite.
        """
        if self.length < (special := self.tokenizer.vocabulary.overhead(False)):
            raise DataError(f"texts of {self.length} tokens have no room for {special} special ones; raise the length")
        out = np.empty((len(texts), self.dim or self.full_width), np.float32)
        cores = torch.get_num_threads() if self.network.device.type == "cpu" else 1
        parts = _parts(texts, self.length, self.budget, min(cores, _WORKERS), self._min_tokens)
        workers = min(cores, _WORKERS, len(parts))
        try:
            with say_unknown(self.tokenizer):
                if workers > 1:
                    cut = self._parallel(parts, texts, out, workers, cores // workers)
                elif cores > 1 and self._is_small(texts):
                    with threads_of_caller(1):
                        cut = self._read_ahead(parts, texts, out)
                else:
                    cut = self._read_ahead(parts, texts, out)
        except DataError:
            keep = Keep(self.length)
            self.tokenizer.encode_batch([self.prompt + text for text in texts], keep=keep)  # names a bad text's number
            raise
        say_cut(self.tokenizer, cut, len(texts), self.length)
        if self._skipped:
            say_joined(self.tokenizer, self.prompt, texts, self.length)
        bad = first_non_finite_row(out)
        if bad is not None:
            raise non_finite("a vector", bad, len(texts), texts[bad])
        return out

    @cached_property
    def _flops(self) -> float:
        """Floating-point operations of a token, about."""
        network = self.network
        if isinstance(network, EncoderDecoder) and network.parts.tokens_read_encoder:
            return encoder_flops(network, _USUAL) / _USUAL
        return flops_per_token(network, _USUAL)

    @property
    def _min_tokens(self) -> int:
        """Tokens of a part that are worth a thread's turn."""
        return max(_MIN_TOKENS, int(_MIN_FLOPS / max(1.0, self._flops)))

    def _is_small(self, texts: Sequence[str]) -> bool:
        """Whether the texts are too little work for several cores."""
        return float(_sizes(texts, self.length).sum()) * self._flops < _MIN_FLOPS

    def _parallel(
        self, parts: Sequence[TextIndices], texts: Sequence[str], out: Vectors, workers: int, cores: int
    ) -> int:
        """Each worker reads and computes a part after another. Returns how many texts were cut."""
        queue = _PartQueue(parts, workers)

        def work(own: Iterator[TextIndices]) -> int:
            total = 0
            with queue.cleared_on_error():
                for part in own:
                    runs, cut = self._read(part, texts)
                    self._compute(part, runs, out)
                    total += cut
            return total

        with threads_of_caller(cores) as is_set:
            total = work(queue.alone()) if is_set else 0
        if queue.is_empty:
            return total
        with _pool(workers, cores) as pool, queue.cleared_on_error():
            futures = [pool.submit(work, queue.of(worker)) for worker in range(workers)]
            return total + sum([future.result() for future in futures])

    def _read_ahead(self, parts: Sequence[TextIndices], texts: Sequence[str], out: Vectors) -> int:
        """This thread computes a part while another reads the next. Returns how many texts were cut."""
        total = 0
        with ThreadPoolExecutor(1) as pool:
            following = None
            for number, part in enumerate(parts):
                runs, cut = self._read(part, texts) if following is None else following.result()
                if number + 1 < len(parts):
                    following = pool.submit(self._read, parts[number + 1], texts)
                self._compute(part, runs, out)
                total += cut
        return total

    def _read(self, part: TextIndices, texts: Sequence[str]) -> tuple[list[Tokens], int]:
        """The tokens of each text of a part, and how many texts were cut."""
        vocabulary = self.tokenizer.vocabulary
        max_tokens = self.length - vocabulary.overhead(False)
        encoded = self.tokenizer.encode_batch([self.prompt + texts[n] for n in part], keep=Keep(max_tokens))
        runs = [vocabulary.add_special_tokens(tokens[:max_tokens])[0] for tokens in encoded]
        for n, run in zip(part.tolist(), runs, strict=True):
            if not len(run):
                raise DataError(f"text {n + 1} of {len(texts)} has no tokens: {texts[n][:40]!r}")
            if len(run) <= self._skipped:
                raise DataError(
                    f"text {n + 1} of {len(texts)} has no tokens beside the prompt, whose own are not pooled: "
                    f"{texts[n][:40]!r} in {self.length} tokens; give it a text, or shorten the prompt"
                )
        return runs, sum(len(tokens) > max_tokens for tokens in encoded)

    def _compute(self, part: TextIndices, runs: Sequence[Tokens], out: Vectors) -> None:
        """Write the vectors of a part."""
        lengths = [len(run) for run in runs]
        total = sum(lengths)
        even = -(-total // -(-total // self.budget)) + max(lengths)  # rather than full batches and a small rest
        for index in by_length(lengths, min(self.budget, even)):
            group = None if self.group is None else tuple(self.group[part[index]].tolist())
            out[part[index]] = self._forward([runs[n] for n in index], group)[:, : self.dim].cpu().numpy()

    @cached_property
    def _skipped(self) -> int:
        """Tokens of the prompt that poolings leave out."""
        if not self.vectors.skips_prompt or not self.prompt:
            return 0
        return len(prompt_tokens(self.tokenizer, self.prompt, self.length))

    def _forward(self, runs: Sequence[Tokens], group: tuple[int, ...] | None = None) -> Tensor:
        """Shape: N runs of tokens; return: (N, width) fp32."""
        batch, read = ragged(runs), None
        batch = replace(batch, layout=replace(batch.layout, group=group))
        if self.vectors.row is not None and self.layers is None:
            bounds = np.array(batch.layout.bounds)
            read = torch.from_numpy(bounds[:-1] if self.vectors.row == "cls" else bounds[1:] - 1)
            batch = replace(batch, output_rows=OutputRows.of(read.numpy(), batch.layout))
        device = self.network.device
        with inference_context(device, is_bf16(self.network)):
            output = self._rows(batch.to(device))
            if read is not None:
                layout = Layout.of([1] * len(runs), device)
                return self.vectors.compute(TextFeatures(output.at(read.to(device)).float(), layout))
            features = TextFeatures(output.last_hidden_state.float(), output.layout, self._skipped)
            return self.vectors.compute(features)

    def _rows(self, batch: Batch) -> ModelOutput:
        """The rows that vectors are made of: the encoder's, where a family's tokens are read there."""
        network = self.network
        if self.layers is not None:
            return self.layers.output(network, batch)
        if isinstance(network, EncoderDecoder) and network.parts.tokens_read_encoder:
            return ModelOutput(*network.encoder(batch))
        output: ModelOutput = network(batch)
        return output


def budget_of(device: torch.device) -> int:
    """Tokens of a forward that are fast on a device."""
    return BUDGET if device.type == "cpu" else _LARGE


def _sizes(texts: Sequence[str], length: int) -> TextIndices:
    """About how many tokens each text has. Shape: return: (n,)"""
    characters = np.array([len(text) for text in texts], np.int64)
    return np.minimum(characters // _CHARACTERS + 2, length)


def _parts(
    texts: Sequence[str], length: int, budget: int, workers: int, min_tokens: int = _MIN_TOKENS
) -> list[TextIndices]:
    """Texts of similar length, in about a budget of tokens; less at the end, so that all workers finish together.

    Args:
        min_tokens: of a part, where there are so many.
    """
    order = np.argsort([-len(text) for text in texts], kind="stable")
    ends = np.cumsum(_sizes(texts, length)[order])
    parts: list[TextIndices] = []
    start = done = 0
    while start < len(order):
        max_tokens = budget if workers == 1 else min(budget, max(min_tokens, (int(ends[-1]) - done) // (2 * workers)))
        stop = max(start + 1, int(np.searchsorted(ends, done + max_tokens, side="right")))
        parts.append(order[start:stop])
        start, done = stop, int(ends[stop - 1])
    return parts


class _PartQueue:
    """Hands parts to workers, to as many at once as find a CPU; who computes a part changes none of its bits."""

    def __init__(self, parts: Sequence[TextIndices], workers: int) -> None:
        self._parts, self._workers = deque(parts), workers
        self._max_workers = _worker_policy.max_workers(workers)
        self._changed = threading.Condition()

    @property
    def is_empty(self) -> bool:
        """Whether all parts are taken."""
        return not self._parts

    def alone(self) -> Iterator[TextIndices]:
        """Parts for the calling thread, as long as no other would find a CPU: to start one would take longer."""
        while self._max_workers == 1 and self._parts:
            yield from self._measured(self._parts.popleft())

    def of(self, worker: int) -> Iterator[TextIndices]:
        """The parts of a worker, until all are taken."""
        while (part := self._next(worker)) is not None:
            yield from self._measured(part)

    @contextmanager
    def cleared_on_error(self) -> Iterator[None]:
        """Drops what has not begun when the block fails or is interrupted, for all workers."""
        try:
            yield
        except BaseException:
            with self._changed:
                self._parts.clear()
                self._changed.notify_all()
            raise

    def _measured(self, part: TextIndices) -> Iterator[TextIndices]:
        ran, waited = own_times()
        yield part
        ran_now, waited_now = own_times()
        _worker_policy.update(ran_now - ran, waited_now - waited, self._workers)
        if (max_workers := _worker_policy.max_workers(self._workers)) != self._max_workers:
            with self._changed:
                self._max_workers = max_workers
                self._changed.notify_all()

    def _next(self, worker: int) -> TextIndices | None:
        with self._changed:
            self._changed.wait_for(lambda: not self._parts or worker < self._max_workers)
            part = self._parts.popleft() if self._parts else None
            if not self._parts:
                self._changed.notify_all()  # those that wait have nothing to wait for
            return part


@contextmanager
def _pool(workers: int, cores: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute with `cores` cores each; what has not begun when the block ends is dropped.

    torch keeps the number of cores for each thread, but its setter also sets the number for threads to come: so they
    all start here, and the caller's number is set again before anybody else starts one.
    """

    def start() -> None:
        torch.get_num_threads()  # its first use of torch, at which a thread takes over the common number
        torch.set_num_threads(cores)
        started.wait()

    started = threading.Barrier(workers)
    pool = ThreadPoolExecutor(workers, "pretune-embed")
    try:
        with _starting:
            before = torch.get_num_threads()
            try:
                for future in [pool.submit(start) for _ in range(workers)]:
                    future.result()
            except BaseException:
                started.abort()
                raise
            finally:
                torch.set_num_threads(before)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def embed_texts(network: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str]) -> Vectors:
    """The vectors of texts as a model's files say they are made. Shape: return: (n, width)."""
    return Embedder.of(network, tokenizer)(texts)
