import time

import pytest
from trainkit import lines, recipe

from pretune.draw import Draw
from pretune.errors import DataError
from pretune.text.samples.sampler import Sampler
from pretune.train.assemble import assemble
from pretune.train.prefetch import Prefetcher
from pretune.train.run import pretrain
from pretune.train.step import TrainStep


@pytest.fixture
def components(tmp_path, store):
    run_recipe = recipe(tmp_path, store)
    actual = assemble(run_recipe)
    return actual.objective, actual.samplers(run_recipe)


def begin(components, step=0, cursors=None, **over):
    objective, samplers = components
    return Prefetcher(objective, samplers, Draw(0), step, cursors or [s.start for s in samplers], **over)


def test_it_can_begin_anywhere(components):
    prefetcher = begin(components)
    first = [prefetcher.next() for _ in range(4)]
    prefetcher.close()
    again = begin(components, 2, first[1].cursors)
    for item in first[2:]:
        other = again.next()
        assert other.batches[0].tokens.tolist() == item.batches[0].tokens.tolist()
        assert (other.counts, other.cursors, other.epoch) == (item.counts, item.cursors, item.epoch)
    again.close()


def test_ranks_and_parts_share_one_global_step(components):
    whole = begin(components)
    step = whole.next()
    whole.close()
    parts = [begin(components, accumulate=2, rank=rank, world_size=2) for rank in range(2)]
    actual = [part.next() for part in parts]
    samples = sorted(s for item in actual for batch in item.batches for s in map(tuple, batch.samples.tolist()))
    assert samples == sorted(map(tuple, step.batches[0].samples.tolist()))
    assert {n: sum(item.counts[n] for item in actual) for n in step.counts} == step.counts
    assert sum(item.tokens for item in actual) == step.tokens
    for part in parts:
        part.close()


def test_an_error_in_the_thread_reaches_the_loop(components, monkeypatch):
    next_batch = Sampler.next_batch

    def broken(self, cursor):
        if cursor.consumed[0] >= 16:
            raise DataError("shard 3 is damaged")
        return next_batch(self, cursor)

    monkeypatch.setattr(Sampler, "next_batch", broken)
    prefetcher = begin(components)
    prefetcher.next()
    prefetcher.next()
    with pytest.raises(DataError, match="shard 3"):
        prefetcher.next()
    prefetcher.close()


def test_closing_does_not_wait_for_a_full_queue(components):
    prefetcher = begin(components)
    time.sleep(0.1)
    start = time.monotonic()
    prefetcher.close()
    assert time.monotonic() - start < 5


def test_preparation_hides_behind_the_step(tmp_path, store, monkeypatch):
    """A step of 60 ms is enough to have the next one ready."""
    run = TrainStep.run

    def slow(self, *args):
        time.sleep(0.06)
        return run(self, *args)

    monkeypatch.setattr(TrainStep, "run", slow)
    pretrain(recipe(tmp_path / "run", store, evaluation={"samples": 0}, checkpoint={"every": None}))
    waits = sorted(line["data_wait"] for line in lines(tmp_path / "run"))
    assert waits[len(waits) // 2] < 0.05
