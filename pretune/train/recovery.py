"""What becomes of a step that is not finite, or is a spike: it is said, left out, or the run goes back before it.

All of it is decided from the state and from sums over all ranks, and what a run goes back to is a checkpoint at a step
that only the recipe decides: a run that is killed anywhere, and started again, comes to the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from pretune.batch import Batch
from pretune.disk import problem
from pretune.errors import DivergenceError
from pretune.train.checkpoint import state as states
from pretune.train.checkpoint.state import State, means
from pretune.train.context import TrainContext
from pretune.train.logging.logger import MetricLogger
from pretune.train.spike import Spike, find_spike
from pretune.train.step import Result, TrainModule, TrainStep

Outcome = Literal["applied", "skipped", "rolled back"]
_LISTED = 20  # sample ids in a message
_LEVEL = 5  # spikes in a row, after which their height is where the loss is now


@dataclass
class Recovery:
    """Watches the steps of a run.

    Attributes:
        state: of the run, changed in place.
        root: the module that checkpoints hold.
        spike: what was too large in the step that is being taken.
    """

    context: TrainContext
    state: State
    root: TrainModule
    train_step: TrainStep
    logger: MetricLogger
    spike: Spike | None = None

    def accept(self, result: Result) -> bool:
        """Whether the optimizer may see the gradient of a finite step."""
        config = self.context.recipe.spike
        self.spike = None
        if config.policy != "off":
            loss = means(result.sums, result.counts, {}, result.weights)["loss"]
            self.spike = find_spike(self.state.losses, result.counts, loss, result.norm, config)
        return self.spike is None or config.policy == "note"

    def outcome(self, batches: Sequence[Batch], result: Result) -> Outcome:
        """Count and say what became of a step, after the state has moved on.

        Args:
            batches: of this rank.

        Raises:
            DivergenceError: too many steps were left out, or the run went back too often.
        """
        state = self.state
        if not result.finite:
            return self._not_finite(batches, result)
        state.consecutive_skips = 0
        if self.spike is None:
            state.consecutive_spikes = 0
            return "applied"
        return self._spiked(batches, self.spike)

    def check_share(self, steps: float) -> None:
        """Stop a run of which too much was left out.

        Args:
            steps: of the whole run, as far as is known.

        Raises:
            DivergenceError: more than `max_skipped` of them were skipped.
        """
        state, at_most = self.state, self.context.recipe.max_skipped
        if state.skipped > at_most * steps:
            raise DivergenceError(
                f"{state.skipped:,} of {state.step:,} steps were skipped, more than max_skipped = {at_most:g} of the "
                f"{round(steps):,} steps of this run; lower optimizer.lr, lengthen schedule.warmup, look at the "
                "samples that were named, or raise max_skipped"
            )

    def _not_finite(self, batches: Sequence[Batch], result: Result) -> Outcome:
        """Count a step that was not finite, say where it came from, and give up after too many in a row."""
        state, recipe = self.state, self.context.recipe
        losses = ", ".join(f"{name} {value:g}" for name, value in result.sums.items())
        what = f"step {state.step}: gradient norm {result.norm:g}, loss sums {losses}"
        samples = self._listed(self.train_step.suspects(batches))
        state.consecutive_skips += 1
        if state.consecutive_skips >= recipe.nonfinite:
            if recipe.spike.policy == "rollback" and self._roll_back(what, samples):
                return "rolled back"
            raise DivergenceError(
                f"{state.consecutive_skips} steps in a row were not finite, the last {what}; samples (store, epoch, "
                f"index): {samples}. The weights are as they were before them. Lower optimizer.lr, lengthen "
                "schedule.warmup, or look at these samples"
            )
        return self._skip(what, samples)

    def _spiked(self, batches: Sequence[Batch], spike: Spike) -> Outcome:
        """Do about a spike what the recipe says."""
        state, policy = self.state, self.context.recipe.spike.policy
        what = f"step {state.step}: {spike}"
        samples = self._listed([[int(n) for n in sample] for batch in batches for sample in batch.samples])
        if policy == "rollback" and self._roll_back(what, samples):
            return "rolled back"
        state.spikes += 1
        state.consecutive_spikes += 1
        if policy == "note" and state.consecutive_spikes == 1:
            self.logger.note(f"warning: spike at {what}; samples (store, epoch, index) {samples}")
        outcome = "applied" if policy == "note" else self._skip(what, samples)
        if state.consecutive_spikes >= _LEVEL:
            state.losses.clear()
            state.consecutive_spikes = 0
            self.logger.note(f"warning: {_LEVEL} steps in a row were spikes: the loss stays at this level")
        return outcome

    def _skip(self, what: str, samples: str) -> Outcome:
        self.state.skipped += 1
        self.logger.note(f"warning: skipped {what}; samples (store, epoch, index) {samples}")
        self.check_share(max(self.state.step / max(self.state.fraction, 1e-12), self.state.step))
        return "skipped"

    def _roll_back(self, what: str, samples: str) -> bool:
        """Go back to the last good state and on with the data after this step; False if there is none yet.

        What was seen and said stays: the clock, the cursors of the data, the statistics of what was cut. All else is as
        in the checkpoint. Those of later steps are removed: they hold what is given up.

        Raises:
            DivergenceError: this has happened too often.
        """
        state, context = self.state, self.context
        target = context.distributed.broadcast(context.distributed.on_main(self._last_good_step))
        if not target:
            return False
        limit = context.recipe.spike.limit
        if len(state.rollbacks) >= limit:
            raise DivergenceError(
                f"{what}, after {limit} rollbacks already (spike.limit); samples (store, epoch, index): {samples}. The "
                "checkpoints are as they were before. Lower optimizer.lr, lengthen schedule.warmup, or look at the data"
            )
        checkpoint = context.checkpoints.path(target)
        before = states.restore(checkpoint, self.root, self.train_step.optimizer, context.recipe.optimizer)
        kept = {name: getattr(state, name) for name in ("cursors", "epoch", "seconds", "data_stats", "optimizer")}
        kept |= {"fingerprint": state.fingerprint, "rollbacks": [*state.rollbacks, [state.step, target]]}
        after = replace(before, **kept, fraction_before=before.fraction)
        self.logger.note(
            f"warning: spike at {what}; samples (store, epoch, index) {samples}. Went back to {checkpoint.name}; the "
            f"data of steps {target + 1} to {state.step} are left out"
        )
        for field in fields(State):
            setattr(state, field.name, getattr(after, field.name))
        context.distributed.on_main(lambda: context.checkpoints.remove_after(target))
        self.logger.rewind()
        return True

    def _last_good_step(self) -> int:
        """The newest step that a run may go back to; 0 if there is none."""
        config, checkpoints = self.context.recipe.spike, self.context.checkpoints
        latest = self.state.step - config.every // 2
        good = (step for step in checkpoints.steps() if step <= latest and config.is_good_state(step))
        return next((step for step in good if problem(checkpoints.path(step)) is None), 0)

    def _listed(self, own: list[list[int]]) -> str:
        """(store, epoch, index) of samples of all ranks, as text."""
        gathered = self.context.distributed.all_gather_object(own)
        samples = [tuple(sample) for part in gathered for sample in part]
        return ", ".join(map(str, samples[:_LISTED])) + (", ..." if len(samples) > _LISTED else "")
