"""Encodes documents in other processes, in order, with bounded memory.

    parent --batch of texts--> worker i % n --tokens, lengths, sentence starts--> parent, in the order of batches

A worker is a fresh interpreter that runs this module over pipes: nothing is forked, the caller's script is not imported
again, and a worker whose parent is gone reads the end of its pipe and leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import tokenizers

from pretune.errors import DataError, PretuneError, TemporaryError
from pretune.text.encode.encoder import DocumentEncoder, EncodedDocuments
from pretune.text.encode.sentences import sentence_starts
from pretune.text.tokenizer.segmenter import WordFinder
from pretune.text.tokenizer.tokenizer import Tokenizer

# For the C library: the memory of freed arrays is kept for the next batch, not given back and faulted in again.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
_IN_FLIGHT = 2  # batches a worker holds: one that it encodes, one that waits
Message = list[bytes]


class CorpusEncoder:
    """Texts to tokens, in this process.

    Args:
        segmenter: finds words, by its name; empty for none.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any], segmenter: str = "") -> None:
        self._encoder = DocumentEncoder(tokenizer, dtype)
        self._words = WordFinder(segmenter) if segmenter else None

    def __call__(self, texts: Sequence[str]) -> EncodedDocuments:
        """Encode a batch of documents."""
        words = None if self._words is None else [self._words(text) for text in texts]
        return self._encoder.encode(texts, [sentence_starts(text) for text in texts], words)


class Workers:
    """Processes that encode; a context manager.

    Args:
        count: how many.
        tokenizer, dtype, segmenter: as for `CorpusEncoder`.
    """

    def __init__(self, count: int, tokenizer: Tokenizer, dtype: np.dtype[Any], segmenter: str = "") -> None:
        how = {"settings": tokenizer.settings, "dtype": dtype.name, "segmenter": segmenter}
        settings = json.dumps(how).encode()
        self._dtype = dtype
        self._processes = [_start() for _ in range(count)]
        for process in self._processes:
            self._send(process, [settings, tokenizer.backend.to_str().encode()])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was still to be written has no reader
                    _pipe(pipe).close()

    def map(self, batches: Iterable[Sequence[str]]) -> Iterator[EncodedDocuments]:
        """Encode batches; the results come in the order of the batches.

        Raises:
            PretuneError: a worker died, or met an error.
        """
        waiting: deque[subprocess.Popen[bytes]] = deque()
        for number, batch in enumerate(batches):
            process = self._processes[number % len(self._processes)]
            if len(waiting) == _IN_FLIGHT * len(self._processes):
                yield self._receive(waiting.popleft())
            raw = [text.encode() for text in batch]
            self._send(process, [np.array([len(r) for r in raw], np.int64).tobytes(), b"".join(raw)])
            waiting.append(process)
        while waiting:
            yield self._receive(waiting.popleft())

    def _send(self, process: subprocess.Popen[bytes], message: Message) -> None:
        try:
            _write(_pipe(process.stdin), message)
        except OSError:
            raise _death(process) from None

    def _receive(self, process: subprocess.Popen[bytes]) -> EncodedDocuments:
        message = _read(_pipe(process.stdout))
        if message is None or len(message) == 1:
            raise _death(process, message)
        tokens, *places = message
        return EncodedDocuments(
            np.frombuffer(tokens, self._dtype), *(np.frombuffer(starts, np.int64) for starts in places)
        )


def _start() -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        **_KEEP_MEMORY,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "pretune.text.encode.workers"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _death(process: subprocess.Popen[bytes], message: Message | None = None) -> PretuneError:
    """Why a worker ended: its last message, if that is a single part, says so; it may be behind others."""
    while message is None or len(message) != 1:
        message = _read(_pipe(process.stdout))
        if message is None:
            break
    if message is not None:
        return DataError(message[0].decode())
    try:
        code = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    why = "killed, perhaps for want of memory" if code == -signal.SIGKILL else f"exit code {code}"
    error = TemporaryError if code == -signal.SIGKILL else PretuneError
    return error(f"a worker process ended ({why}); start again, with fewer processes if memory is short")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError("a worker without a pipe")
    return pipe


def _write(pipe: IO[bytes], message: Message) -> None:
    pipe.write(struct.pack(f"<{len(message) + 1}q", len(message), *map(len, message)))
    for part in message:
        pipe.write(part)
    pipe.flush()


def _read(pipe: IO[bytes]) -> Message | None:
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (count,) = struct.unpack("<q", head)
    sizes = struct.unpack(f"<{count}q", pipe.read(8 * count))
    message = [pipe.read(size) for size in sizes]
    return message if all(len(part) == size for part, size in zip(message, sizes, strict=True)) else None


def _texts(message: Message) -> list[str]:
    ends = np.cumsum(np.frombuffer(message[0], np.int64)).tolist()
    return [message[1][start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _work(source: IO[bytes], sink: IO[bytes]) -> None:
    """Encode until the parent closes the pipe. A thread reads ahead, so that two full pipes cannot lock each other."""
    first = _read(source)
    if first is None:
        return
    settings = json.loads(first[0])
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(first[1].decode()), settings["settings"])
    encode = CorpusEncoder(tokenizer, np.dtype(settings["dtype"]), settings["segmenter"])
    messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def listen() -> None:
        while (message := _read(source)) is not None:
            messages.put(message)
        os._exit(0)  # the parent is gone: nobody waits for what is being encoded

    threading.Thread(target=listen, daemon=True).start()
    while (message := messages.get()) is not None:
        encoded = encode(_texts(message))
        words = [] if encoded.words is None else [encoded.words]
        _write(sink, [part.tobytes() for part in (encoded.tokens, encoded.lengths, encoded.sentences, *words)])


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):  # these reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that prints may mix with the messages
    try:
        _work(sys.stdin.buffer, sink)
    except BrokenPipeError:
        os._exit(0)
    except DataError as error:
        _write(sink, [str(error).encode()])
        os._exit(1)


if __name__ == "__main__":
    _main()
