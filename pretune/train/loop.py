"""The one training loop: pretraining, fine-tuning and whatever else differs only in its data.

1. A thread has the next step's micro-batches ready, with the number of predictions of each term in them.
2. The counts are summed over micro-batches and ranks; each backward is scaled by weight / count.
3. One synchronization reads loss and gradient norm. A step that is not finite never reaches the optimizer.
4. The state, a few numbers, moves on; then evaluation and checkpoint where they are due.

What an iteration does is decided at its top from the state alone, so a run that was stopped anywhere goes on as if it
had not been.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pretune.draw import Draw
from pretune.interop.run_names import checkpoint_step
from pretune.models.flops import Flops
from pretune.models.model import LanguageModel
from pretune.objectives.objective import Objective
from pretune.optim.optimizer import build_optimizer
from pretune.optim.schedule import schedule_factor
from pretune.runtime.distributed import parallelize
from pretune.runtime.precision import fingerprint
from pretune.runtime.signals import CATCH, SignalError, StopRequest, stop_on_signal
from pretune.runtime.spinning import adaptive_spinning
from pretune.text.samples.sampler import Cursor, Sampler
from pretune.train.budget import Spent
from pretune.train.checkpoint import state as states
from pretune.train.checkpoint.state import State
from pretune.train.context import TrainContext
from pretune.train.evaluation import as_good, better, metric_value
from pretune.train.logging.logger import MetricLogger
from pretune.train.prefetch import Prefetcher, PreparedStep, add
from pretune.train.recovery import Recovery
from pretune.train.shapes import split_sequences
from pretune.train.step import Result, TrainModule, TrainStep
from pretune.train.validation import Validation
from pretune.tune.proof import ranks_by_layer, without_gradient
from pretune.wording import counted, listed


@dataclass(frozen=True)
class Totals:
    """A step's numbers over all ranks, known before its forward."""

    counts: dict[str, int]
    tokens: int
    samples: int
    flops: float


def train(model: LanguageModel, objective: Objective, samplers: Sequence[Sampler], context: TrainContext) -> State:
    """Train until the budget is used up, a signal asks to stop, or patience ends.

    It begins at the run directory's newest good checkpoint, if there is one.

    Args:
        model: in fp32; moved to the device and changed in place.
        samplers: one for each of `objective.alternatives`.

    Returns:
        The state at the end, which is saved; the model has the weights of the last step.

    Raises:
        DivergenceError: loss or gradient was not finite for `recipe.nonfinite` steps in a row, more steps were skipped
            than `recipe.max_skipped` allows, or the run went back more often than `recipe.spike` allows.
        SignalError: a signal of `runtime/signals.py` came; a checkpoint of the last step was saved.
        StorageError: a checkpoint or a metric could not be written; earlier checkpoints are intact.
    """
    with stop_on_signal() as request, context.display.running(), adaptive_spinning(context.device):
        trainer = _Trainer(model, objective, samplers, context, request)
        try:
            return trainer.run()
        finally:
            trainer.close()


class _Trainer:
    def __init__(
        self,
        model: LanguageModel,
        objective: Objective,
        samplers: Sequence[Sampler],
        context: TrainContext,
        request: StopRequest,
    ) -> None:
        self.context, self.recipe, self.request = context, context.recipe, request
        self.distributed = context.distributed
        self.objective, self.samplers = objective, samplers
        self.draw = Draw(self.recipe.seed)
        self.root = TrainModule(model, objective, context.method, context.features).to(context.device).train()
        self.optimizer = build_optimizer(self.root, self.recipe.optimizer, context.precision.name)
        self.state = self._begin()
        self.train_step = TrainStep(
            parallelize(self.root, self.distributed, self.recipe.parallel, self.root.method.has_stages),
            self.optimizer,
            self.distributed,
            context.device,
            context.precision,
            self.draw,
            self.recipe.optimizer.clip,
        )
        self.flops = Flops(model, objective.passes, features=context.features is not None)
        self.logger = MetricLogger(context, self.state, lambda: ranks_by_layer(self.root.method.ranks(model)))
        self.recovery = Recovery(context, self.state, self.root, self.train_step, self.logger)
        self.prefetcher: Prefetcher | None = None
        self.is_best = False
        self.saved_step, self.saved_at = self.state.step, self.state.seconds
        self.mark = time.perf_counter()

    def _begin(self) -> State:
        """The state of the newest good checkpoint, else a fresh one."""
        checkpoints, display = self.context.checkpoints, self.context.display
        own = fingerprint(self.context.device, self.context.precision, self.distributed.size)
        step = self.distributed.broadcast(self.distributed.on_main(self._newest))
        if not step:
            start = [list(sampler.start.consumed) for sampler in self.samplers]
            return State(cursors=start, fingerprint=own, optimizer=self.recipe.optimizer.name)
        state = states.restore(checkpoints.path(step), self.root, self.optimizer, self.recipe.optimizer)
        changed = [f"{k} {state.fingerprint.get(k)} -> {own[k]}" for k in own if own[k] != state.fingerprint.get(k)]
        if self.distributed.is_main:
            display.note(f"resumed from {checkpoints.path(step).name}")
            if state.optimizer != self.recipe.optimizer.name:
                display.note(f"warning: {self.recipe.optimizer.name} starts anew: the state is {state.optimizer}'s")
            if changed:
                display.note(f"warning: results are not bit-exact from here on: {', '.join(changed)}")
        state.fingerprint, state.optimizer = own, self.recipe.optimizer.name
        return state

    def _newest(self) -> int:
        path, rejected = self.context.checkpoints.newest()
        for each in rejected:
            self.context.display.note(f"warning: cannot use {each}")
        return (checkpoint_step(path) or 0) if path else 0

    def close(self) -> None:
        """Stop the thread, close the files."""
        self.distributed.progress.in_step = False
        if self.prefetcher is not None:
            self.prefetcher.close()
        if self.context.features is not None:
            self.context.features.close()
        self.logger.close()

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> State:
        """Iterate until done."""
        self._check_metric()
        while True:
            stop = self._advance_clock()
            if not stop and self._evaluation_due():
                self._evaluate()
                stop = self._advance_clock()
            done = not stop and self._done()
            if done:
                self.logger.close_window()
            if stop or done or self._checkpoint_due():
                self._save()
            if stop:
                where = self.context.checkpoints.path(self.state.step)
                text = f"stopped by {signal.Signals(stop).name} after step {self.state.step}, saved in {where}"
                raise SignalError(f"{text}; run the same command to go on", stop)
            if done:
                self.recovery.check_share(self.state.step)
                self._drop_features()
                return self.state
            self._step()

    def _advance_clock(self) -> int:
        """Let rank 0's clock move on, on all ranks alike; the signal that some rank got, or 0."""
        now = time.perf_counter()
        passed, self.mark = now - self.mark, now
        requests = [float(self.request.number == number) for number in CATCH]
        seconds, *votes = self.distributed.sum([passed if self.distributed.is_main else 0.0, *requests])
        self.state.seconds += seconds
        return next((int(number) for number, vote in zip(CATCH, votes, strict=True) if vote), 0)

    def _spent(self, steps: float = 0, tokens: float = 0, epochs: float = 0) -> Spent:
        state = self.state
        return Spent(state.step + steps, state.tokens + tokens, state.epoch + epochs, state.seconds)

    def _done(self) -> bool:
        patience = self.recipe.evaluation.patience
        out_of_patience = patience is not None and self.state.stale_evaluations >= patience
        return out_of_patience or self.recipe.budget.done(self._spent())

    def _evaluation_due(self) -> bool:
        state = self.state
        if self.context.validation is None or state.evaluated == state.step:
            return False
        return self._done() or self.recipe.evaluation.due(state.step, state.fraction_before, state.fraction)

    def _checkpoint_due(self) -> bool:
        state, config = self.state, self.recipe.checkpoint
        if self.saved_step == state.step:
            return False
        regular = config.every is not None and state.step % config.every == 0
        regular |= self.recipe.spike.is_good_state(state.step)
        late = state.seconds - self.saved_at >= config.minutes * 60
        return regular or late or (self.is_best and config.best) or state.step in state.evaluations

    def _check_metric(self) -> None:
        """Refuse a metric that evaluation does not give, before the first step and not at the first evaluation."""
        validation = self.context.validation
        if validation is not None and validation.is_metric_chosen and self.state.step == 0:
            metric_value(validation.metric, self._measure(validation) or {validation.metric: 0.0})

    def _measure(self, validation: Validation) -> dict[str, float] | None:
        """What evaluation gives, None if a signal came meanwhile."""
        context, is_alone = self.context, self.distributed.size == 1
        return validation.measure(
            self.train_step.root,
            self.objective,
            context.device,
            context.precision,
            self.distributed,
            stop=lambda: is_alone and bool(self.request),
        )

    def _evaluate(self) -> None:
        """Evaluate, unless a signal comes meanwhile: then it is done when the run goes on."""
        validation, state = self.context.validation, self.state
        assert validation is not None
        metrics = self._measure(validation)
        if metrics is None:
            return
        value = metric_value(validation.metric, metrics)
        ready = self.root.method.is_ready(self.root.model)
        improves = ready and better(validation.metric, value, state.best)
        self.is_best = ready and as_good(validation.metric, value, state.best)
        if self.is_best:
            state.best, state.best_step = value, state.step
        state.stale_evaluations = 0 if improves else state.stale_evaluations + ready
        state.evaluated, state.has_finite_evaluation = state.step, math.isfinite(metrics.get("loss", 0.0))
        state.evaluations = self.recipe.evaluation.last_evaluations([*state.evaluations, state.step])
        self.logger.log({f"eval/{name}": number for name, number in metrics.items()})
        summary = ", ".join(f"{name} {metrics[name]:.4f}" for name in dict.fromkeys(("loss", validation.metric)))
        warning = "" if state.has_finite_evaluation else "warning: "
        best = ", the best so far" if improves else ", as good as the best so far" if self.is_best else ""
        self.logger.note(f"{warning}step {state.step}: validation {summary}{best}")
        for name, metric in validation.adapter_metrics.items() if ready else ():
            value, before = metric_value(metric, metrics), state.best_adapters.get(name)
            if as_good(metric, value, None if before is None else before[0]):
                state.best_adapters[name], self.is_best = [value, state.step], True

    def _drop_features(self) -> None:
        """Remove what was kept of layers that do not learn; say how much was computed."""
        features = self.context.features
        if features is None:
            return
        features.close()
        if self.distributed.is_main:
            if note := features.describe():
                self.logger.note(note)
            features.drop()

    def _save(self) -> None:
        """Save a checkpoint of the current step, then remove what is no longer kept."""
        if note := self.distributed.on_main(self.context.checkpoints.keep):
            self.logger.note(note)
        self.state.metrics_bytes = self.logger.flush()
        self.distributed.on_main(self._write)
        self.saved_step, self.saved_at, self.is_best = self.state.step, self.state.seconds, False

    def _write(self) -> None:
        state, checkpoints = self.state, self.context.checkpoints
        checkpoints.save(state.step, lambda into: states.save(into, self.root, self.optimizer, state))
        best = state.best_step if self.recipe.checkpoint.best else None
        adapters = [int(step) for _, step in state.best_adapters.values()] if self.recipe.checkpoint.best else []
        needed = {*self.recipe.spike.good_states(state.step), *state.evaluations, *adapters}
        checkpoints.prune(self.recipe.checkpoint.keep, best, needed)

    # -- one step -------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        begin = time.perf_counter()
        prefetcher = self._running_prefetcher()
        waited_before = prefetcher.data_wait
        prepared = self._in_length(prefetcher.next())
        data_wait = prefetcher.data_wait - waited_before
        totals = self._totals(prepared)
        factor = self._schedule_factor(prepared, totals)
        done = self.recipe.budget.fraction(self._spent(1, totals.tokens, prepared.epoch - self.state.epoch))
        accept, before = self._accept, self.state.fraction
        result = self.train_step.run(self.state.step, prepared.batches, totals.counts, factor, done, accept, before)
        self._advance(prepared, totals)
        outcome = self.recovery.outcome(prepared.batches, result)
        if outcome == "applied":
            lr = self.recipe.optimizer.lr * factor
            self._add_to_window(result, totals, lr, time.perf_counter() - begin, data_wait)
        elif outcome == "rolled back":
            self._begin_again()
        if self.context.features is not None and (warning := self.context.features.warning()):
            self.logger.note(warning)
        self.logger.after_step()

    def _accept(self, result: Result) -> bool:
        """Whether the optimizer may see a step; says once which parts of a tuning method have no gradient."""
        if self.state.step == 0 and (idle := without_gradient(self.root.model, self.context.added)):
            count, method = counted(len(idle), "tensor"), self.root.method.name
            self.logger.note(
                f"warning: step 1: no gradient reached {count} that tune.{method} added: {listed(idle)}; a part of a "
                "method that stays as it is fails the run at its end"
            )
        return self.recovery.accept(result)

    def _begin_again(self) -> None:
        """Go on from the state that the run went back to."""
        self.state.fraction = self.state.fraction_before = self.recipe.budget.fraction(self._spent())
        self.saved_step, self.saved_at, self.is_best = self.state.step, self.state.seconds, False
        if self.prefetcher is not None:
            self.prefetcher.close()
            self.prefetcher = None

    def _running_prefetcher(self) -> Prefetcher:
        if self.prefetcher is None:
            self.prefetcher = Prefetcher(
                self.objective,
                self.samplers,
                self.draw,
                self.state.step,
                [Cursor(tuple(cursor)) for cursor in self.state.cursors],
                self.recipe.data.accumulate,
                self.distributed.rank,
                self.distributed.size,
                self.context.device.type == "cuda",
            )
        return self.prefetcher

    def _in_length(self, prepared: PreparedStep) -> PreparedStep:
        """The step's batches in the sequence length of this part of the run."""
        data = self.recipe.data
        length = data.length_at(self.state.fraction)
        if length == data.length:
            return prepared
        return replace(prepared, batches=[split_sequences(batch, length) for batch in prepared.batches])

    def _totals(self, prepared: PreparedStep) -> Totals:
        names = sorted(prepared.counts)
        work = sum(map(self.flops, prepared.batches))
        own = [prepared.tokens, prepared.samples, work, *(prepared.counts[name] for name in names)]
        tokens, samples, flops, *counts = self.distributed.sum(own)
        return Totals({n: round(c) for n, c in zip(names, counts, strict=True)}, round(tokens), round(samples), flops)

    def _schedule_factor(self, prepared: PreparedStep, totals: Totals) -> float:
        """By what the step multiplies the peak learning rate: the schedule at the middle of the step."""
        recipe = self.recipe
        middle = self._spent(0.5, totals.tokens / 2, (prepared.epoch - self.state.epoch) / 2)
        length = recipe.schedule.tokens
        fraction = middle.tokens / length if length else recipe.budget.fraction(middle)
        return schedule_factor(recipe.schedule, fraction)

    def _advance(self, prepared: PreparedStep, totals: Totals) -> None:
        state = self.state
        state.step += 1
        state.tokens += totals.tokens
        state.samples += totals.samples
        state.epoch = prepared.epoch
        state.cursors = [list(cursor.consumed) for cursor in prepared.cursors]
        state.fraction_before, state.fraction = state.fraction, self.recipe.budget.fraction(self._spent())
        for data_stats in self.distributed.all_gather_object(prepared.data_stats):
            add(state.data_stats, data_stats)

    def _add_to_window(self, result: Result, totals: Totals, lr: float, seconds: float, data_wait: float) -> None:
        window = self.state.window
        for name, total in result.sums.items():
            window.sums[name] = window.sums.get(name, 0.0) + total
            window.correct[name] = window.correct.get(name, 0.0) + result.correct[name]
        add(window.counts, result.counts)
        window.weights = result.weights
        window.norm, window.lr = result.norm, lr
        window.tokens += totals.tokens
        window.flops += totals.flops / self.distributed.size
        window.seconds += seconds
        window.data_wait += data_wait
