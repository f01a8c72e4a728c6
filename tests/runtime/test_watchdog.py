"""The watchdog of a rank, on a store in memory whose other ranks are written by the test."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict

import pytest

from pretune.runtime import watchdog
from pretune.runtime.distributed import Distributed
from pretune.runtime.watchdog import Progress, Report, Watchdog


class Memory:
    """A store."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.is_lost = False

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        if self.is_lost:
            raise RuntimeError("connection lost")
        return all(key in self.values for key in keys)

    def write(self, report: Report) -> None:
        self.set(f"report/{report.rank}", json.dumps(asdict(report)))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[Watchdog, Memory, list[str]]:
    """A watchdog of rank 0 of 2 with short times, its store, and what it gave up; no work of this process counts."""
    for name, value in (("BEAT", 0.02), ("SILENCE", 0.6), ("IDLE", 0.3), ("_BUSY", 1e9)):
        monkeypatch.setattr(watchdog, name, value)
    verdicts: list[str] = []
    monkeypatch.setattr(Watchdog, "_give_up", lambda self, verdict, is_first=True: verdicts.append(verdict))
    store = Memory()
    dog = Watchdog(store, 0, 2, Progress())
    return dog, store, verdicts


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_a_silent_rank_is_given_up_and_one_that_has_left_is_not(watched: tuple[Watchdog, Memory, list[str]]) -> None:
    dog, store, verdicts = watched
    store.write(Report(1, 0, "elsewhere", beat=3, where="a step", has_left=True))
    time.sleep(1.0)
    assert not verdicts
    store.write(Report(1, 0, "elsewhere", beat=4, where="a step"))
    until(lambda: verdicts)
    dog.close()
    assert "rank 1 (process 0 on elsewhere) hangs" in verdicts[0]
    assert "at or after: a step" in verdicts[0]


@pytest.mark.parametrize(
    ("own", "theirs", "named"),
    [
        ((5, True), {"marks": 4, "idle": 1.0, "in_step": True}, "rank 1"),  # it is behind and stands still
        ((5, True), {"marks": 4, "idle": 0.0, "in_step": True}, None),  # it computes
        ((5, True), {"marks": 4, "idle": 1.0, "in_step": False}, None),  # it saves
        ((5, False), {"marks": 4, "idle": 1.0, "in_step": True}, None),  # it is not in a step itself
        ((5, True), {"marks": 6, "idle": 0.0, "in_step": True}, "rank 0"),
        ((5, True), {"marks": 4, "idle": 1.0, "in_step": True, "has_left": True}, None),
    ],
)
def test_a_rank_that_stands_still_in_a_step_is_given_up(
    watched: tuple[Watchdog, Memory, list[str]], own: tuple[int, bool], theirs: dict[str, object], named: str | None
) -> None:
    dog, store, verdicts = watched
    dog.progress.marks, dog.progress.in_step = own
    deadline, beat = time.monotonic() + (1.0 if named is None else 5.0), 0
    while time.monotonic() < deadline and not verdicts:
        beat += 1
        store.write(Report(1, 0, "elsewhere", beat=beat, **theirs))  # type: ignore[arg-type]
        time.sleep(0.01)
    dog.close()
    if named is None:
        assert not verdicts
    else:
        assert named in verdicts[0]


def test_reasons_of_others_are_read_and_own_ones_written(watched: tuple[Watchdog, Memory, list[str]]) -> None:
    dog, store, _ = watched
    store.set("failure/1", "ValueError: broken")
    assert dog.reasons() == ["rank 1: ValueError: broken"]
    dog.close("MemoryError: too large")
    assert store.values["failure/0"] == "MemoryError: too large"
    assert json.loads(store.values["report/0"])["has_left"]
    store.is_lost = True
    assert dog.reasons() == []


def test_a_rank_whose_beat_ended_long_ago_was_not_stopped(watched: tuple[Watchdog, Memory, list[str]]) -> None:
    dog, store, verdicts = watched
    store.is_lost = True  # with rank 0, while this one computes on
    until(lambda: dog._closed.is_set())
    dog._round -= 100.0
    assert dog.reasons() == []
    assert not verdicts


def test_a_lost_connection_waits_for_a_thread_that_ends_the_process(
    watched: tuple[Watchdog, Memory, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all give a rank up at once, one is gone before the others have ended."""
    dog, _, _ = watched
    dog.close()
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    dog.reasons(patience=-1.0)
    assert not pauses
    with dog._end:
        dog.reasons(patience=-1.0)
    assert pauses[0] > 2.5 * watchdog.BEAT


def test_what_was_not_heard_while_all_ranks_were_stopped_says_nothing(
    watched: tuple[Watchdog, Memory, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dog, store, verdicts = watched
    dog.progress.in_step = True
    dog.close()
    for thread in dog._threads:
        thread.join()
    dog._report.has_left, dog._beat_of_previous = False, 1
    dog._heard = dog._moved = dog._round = time.monotonic() - 100.0
    store.write(Report(1, 0, "elsewhere", beat=1, in_step=True, idle=100.0))
    rounds = iter([False, True])
    monkeypatch.setattr(dog._closed, "wait", lambda seconds: next(rounds))
    dog._beat()
    assert not verdicts


def test_ranks_have_as_many_marks_as_each_other_after_what_rank_0_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the others are behind for ever: they would be named when rank 0 hangs, or saves slowly."""
    monkeypatch.setattr(Distributed, "broadcast", lambda self, value: value)
    ranks = [Distributed(rank, 2) for rank in range(2)]
    inside: list[bool] = []
    for each in ranks:
        each.progress.in_step = True
        each.on_main(lambda own=each: inside.append(own.progress.in_step))  # type: ignore[misc]
    assert inside == [False]
    assert ranks[0].progress == ranks[1].progress
    assert ranks[0].progress.in_step
