"""The memory of a process and of all below it, watched from outside while it works. Linux; 0 elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path


class Peak:
    """Watches the proportional memory of a process and its descendants, four times a second."""

    def __init__(self, root: int) -> None:
        self._root, self._peak, self._stop = root, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The highest sum seen, in MB."""
        self._stop.set()
        self._thread.join()
        return self._peak / 1e3

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, sum(_memory(process) for process in _family(self._root)))
            if self._stop.wait(0.25):
                return


def _family(process: int) -> Iterator[int]:
    yield process
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
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
