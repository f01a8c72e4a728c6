import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainkit import clm_recipe, lines, make_store, recipe, replaced, shas, stop_at, untimed

from pretune.errors import DivergenceError, StorageError, UsageError
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.objectives.objective import Objective
from pretune.runtime.signals import SignalError
from pretune.train import loop
from pretune.train.checkpoint import state as states
from pretune.train.logging.progress import Display
from pretune.train.run import pretrain
from pretune.train.step import TrainStep


def muon_recipe(output, store):
    return recipe(output, store, optimizer={"name": "muon"})


@pytest.mark.parametrize("make", [recipe, clm_recipe, muon_recipe])
def test_five_and_five_steps_are_ten(tmp_path, store, make, monkeypatch):
    pretrain(make(tmp_path / "whole", store))
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SignalError):
            pretrain(make(tmp_path / "halves", store))
    pretrain(make(tmp_path / "halves", store))
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "halves", 10)
    for name in ("model.safetensors", "data_stats.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "halves" / name).read_bytes()
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "halves")


def test_a_directory_that_is_removed_while_training_is_filled_again(tmp_path, store, monkeypatch, capsys):
    over = {"checkpoint": {"every": 3}, "budget": {"steps": 10}}
    pretrain(clm_recipe(tmp_path / "whole", store, **over))
    advance, run = loop._Trainer._advance, tmp_path / "removed"

    def remove(self, *arguments):
        advance(self, *arguments)
        if self.state.step == 5:
            shutil.rmtree(run)

    monkeypatch.setattr(loop._Trainer, "_advance", remove)
    pretrain(clm_recipe(run, store, track={"progress": "plain"}, **over))
    assert "removed was removed while training; it is made again" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert untimed(run) == untimed(tmp_path / "whole")
    names = [sorted(path.name for path in folder.iterdir()) for folder in (run, tmp_path / "whole")]
    assert set(names[1]) - set(names[0]) == {"initial"}
    pretrain(clm_recipe(run, store, **{**over, "budget": {"steps": 12}}))
    assert (run / "initial" / "config.json").is_file()


def test_dropout_is_resumed_too(tmp_path, store, monkeypatch):
    actual = []
    for seed, name in ((0, "whole"), (0, "halves"), (1, "other")):
        over = {"model": {"dropout": 0.3}, "evaluation": {"samples": 0}, "seed": seed}
        if name == "halves":
            with monkeypatch.context() as patch:
                stop_at(patch, 6)
                with pytest.raises(SignalError):
                    pretrain(recipe(tmp_path / name, store, **over))
        pretrain(recipe(tmp_path / name, store, **over))
        actual.append(shas(tmp_path / name, 10))
    assert actual[0] == actual[1] != actual[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_the_current_step(tmp_path, store, monkeypatch, number):
    stop_at(monkeypatch, 2, number)
    with pytest.raises(SignalError, match="after step 3") as caught:
        pretrain(recipe(tmp_path / "run", store))
    assert caught.value.code == 128 + number
    assert (tmp_path / "run/checkpoint-3/manifest.json").exists()
    assert signal.getsignal(number) is not None


def test_a_signal_in_an_evaluation_puts_it_off(tmp_path, store, monkeypatch):
    over = {"evaluation": {"samples": 16, "every": 5, "batch_tokens": 50}}
    pretrain(recipe(tmp_path / "whole", store, **over))
    forward = Objective.forward

    def stopping(self, model, batch):
        if not self.training:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", stopping)
        with pytest.raises(SignalError):
            pretrain(recipe(tmp_path / "halves", store, **over))
    assert json.loads((tmp_path / "halves/checkpoint-5/state.json").read_text())["evaluated"] == 0
    pretrain(recipe(tmp_path / "halves", store, **over))
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "halves")


def test_no_step_is_written_twice_after_falling_back(tmp_path, store):
    run = tmp_path / "run"
    pretrain(recipe(run, store, evaluation={"samples": 0}))
    whole, good = untimed(run), shas(run, 10)
    path = run / "checkpoint-10/optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    pretrain(recipe(run, store, evaluation={"samples": 0}))
    assert untimed(run) == whole
    assert shas(run, 10) == good
    assert [line["step"] for line in whole] == [2, 4, 6, 8, 10]


def test_a_finished_run_is_not_trained_again_but_goes_on_with_more_budget(tmp_path, store):
    run = tmp_path / "run"
    pretrain(recipe(run, store, budget={"steps": 4}, schedule={"kind": "constant", "warmup": 0.0, "decay": 0.0}))
    before = (run / "metrics.jsonl").read_bytes()
    pretrain(recipe(run, store, budget={"steps": 4}, schedule={"kind": "constant", "warmup": 0.0, "decay": 0.0}))
    assert (run / "metrics.jsonl").read_bytes() == before
    pretrain(recipe(run, store, budget={"steps": 8}, schedule={"kind": "constant", "warmup": 0.0, "decay": 0.0}))
    pretrain(
        recipe(tmp_path / "one", store, schedule={"kind": "constant", "warmup": 0.0, "decay": 0.0}, budget={"steps": 8})
    )
    assert shas(run, 8) == shas(tmp_path / "one", 8)


@pytest.mark.parametrize("attention", [0.0, 0.1])
def test_accumulation_does_not_change_the_number(tmp_path, store, attention):
    """Nor does it with dropout, of attention too, whose inner values are computed again for the backward."""
    actual = []
    model = {"dropout": 0.1, "checkpointing": attention > 0, "overrides": {"attention_probs_dropout_prob": attention}}
    for parts in (1, 2, 4):
        run = tmp_path / str(parts)
        pretrain(recipe(run, store, data={"accumulate": parts}, model=model))
        actual.append((load_file(run / "model.safetensors"), lines(run)))
    for tensors, metrics in actual[1:]:
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, actual[0][0][name], rtol=0, atol=1e-6)
        for ours, one in zip(metrics, actual[0][1], strict=True):
            for name in ("loss", "loss/mlm", "loss/nsp", "eval/loss", "grad_norm", "tokens", "accuracy/mlm"):
                if name in one:
                    assert ours[name] == pytest.approx(one[name], rel=1e-5)


@pytest.mark.parametrize(("make", "name"), [(recipe, "loss/mlm"), (clm_recipe, "loss/clm")])
def test_overfits_in_sixty_steps(tmp_path, make, name):
    (tmp_path / "store").mkdir()
    few = make_store(tmp_path / "store", documents=2)
    over = {
        "budget": {"steps": 60},
        "optimizer": {"lr": 2e-2},
        "data": {"batch": 96, "length": 16},
        "model": {"dropout": 0.0},
        "evaluation": {"samples": 0},
        "checkpoint": {"every": None},
    }
    pretrain(make(tmp_path / "run", few, **over))
    actual = lines(tmp_path / "run")
    assert actual[0][name] > 3.5
    assert actual[-1][name] < 1.0


def poison(monkeypatch, steps):
    """Make the loss of some steps NaN."""
    loss = MaskedLanguageModelling.loss
    seen = []

    def poisoned(self, model, output, batch):
        terms = loss(self, model, output, batch)
        seen.append(batch)
        if len(seen) - 1 in steps:
            terms = [type(t)(t.name, t.sum * float("nan"), t.count, t.weight, t.correct) for t in terms]
        return terms

    monkeypatch.setattr(MaskedLanguageModelling, "loss", poisoned)
    return seen


def test_nan_never_reaches_the_optimizer(tmp_path, store, monkeypatch):
    kept = []
    run = TrainStep.run

    def watched(self, step, *args):
        before = {k: v.clone() for k, v in states.root_tensors(self.root).items()}
        moments = {k: v.clone() for k, v in states.optimizer_tensors(self.root, self.optimizer).items()}
        result = run(self, step, *args)
        if not result.finite:
            kept.append(step)
            after = states.root_tensors(self.root) | states.optimizer_tensors(self.root, self.optimizer)
            assert all(torch.equal(value, after[name]) for name, value in (before | moments).items())
            assert all(p.grad is None for p in self.root.parameters())
        return result

    monkeypatch.setattr(TrainStep, "run", watched)
    poison(monkeypatch, {3})
    pretrain(recipe(tmp_path / "run", store, evaluation={"samples": 0}))
    assert kept == [3]
    assert lines(tmp_path / "run")[-1]["skipped"] == 1
    assert json.loads((tmp_path / "run/data_stats.json").read_text())["training"]["skipped_steps"] == 1
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / "run"))


def test_too_many_in_a_row_stop_and_name_the_samples(tmp_path, store, monkeypatch):
    seen = poison(monkeypatch, set(range(4, 100)))
    with pytest.raises(DivergenceError, match=r"2 steps in a row .*step 6.*\(0, 0, \d+\)") as caught:
        pretrain(recipe(tmp_path / "run", store, nonfinite=2, evaluation={"samples": 0}))
    for sample in seen[-1].samples.tolist():
        assert str(tuple(sample)) in str(caught.value)


def test_only_steps_in_a_row_stop(tmp_path, store, monkeypatch):
    poison(monkeypatch, {2, 5, 8})  # a step that is skipped looks at its losses once more
    pretrain(recipe(tmp_path / "run", store, nonfinite=2, max_skipped=0.3, evaluation={"samples": 0}))
    assert lines(tmp_path / "run")[-1]["skipped"] == 3


def test_inf_in_one_gradient_is_enough(tmp_path, store, monkeypatch):
    norm = loop.TrainStep.run.__globals__["gradient_norm"]
    calls = []

    def spoilt(optimizer):
        calls.append(1)
        if len(calls) == 2:
            optimizer.param_groups[0]["params"][0].grad.view(-1)[0] = float("inf")
        return norm(optimizer)

    monkeypatch.setitem(loop.TrainStep.run.__globals__, "gradient_norm", spoilt)
    pretrain(recipe(tmp_path / "run", store, evaluation={"samples": 0}))
    assert lines(tmp_path / "run")[-1]["skipped"] == 1


def test_early_stop_keeps_the_best(tmp_path, store):
    over = {
        "evaluation": {"every": 1, "samples": 16, "patience": 2, "keep": "best"},
        "optimizer": {"lr": 0.3},
        "budget": {"steps": 100},
    }
    run = tmp_path / "run"
    pretrain(recipe(run, store, **over))
    actual = [line["eval/loss"] for line in lines(run) if "eval/loss" in line]
    best = int(np.argmin(actual)) + 1
    assert len(actual) == best + 2 < 100
    facts = json.loads((run / "run.json").read_text())["finished"]
    assert (facts["best_step"], facts["weights_of_step"]) == (best, best)
    weights = load_file(run / f"checkpoint-{best}/model.safetensors")
    final = load_file(run / "model.safetensors")
    assert torch.equal(final["bert.embeddings.word_embeddings.weight"], weights["model.embedding.word.weight"])


def test_budgets_in_tokens_epochs_and_minutes(tmp_path, store):
    for name, budget in {"tokens": 700, "epochs": 0.3, "minutes": 0.01}.items():
        pretrain(recipe(tmp_path / name, store, budget={name: budget, "steps": None}))
    state = json.loads((sorted((tmp_path / "tokens").glob("checkpoint-*"))[0] / "state.json").read_text())
    assert 700 <= state["tokens"] < 700 + 8 * 32
    assert lines(tmp_path / "epochs")[-1]["epoch"] >= 0.3
    assert json.loads((tmp_path / "minutes/run.json").read_text())["finished"]["seconds"] >= 0.6


def test_the_first_step_tells_no_time_left(tmp_path, store, monkeypatch):
    left = []
    monkeypatch.setattr(Display, "update", lambda self, step, fraction, seconds, *rest, **named: left.append(seconds))
    pretrain(recipe(tmp_path / "run", store))
    assert left[0] is None
    assert min(left[1:-1]) > left[-1] == 0


def test_the_rate_follows_the_schedule(tmp_path, store):
    over = {"track": {"every": 1}, "schedule": {"warmup": 0.2}, "evaluation": {"samples": 0}}
    pretrain(recipe(tmp_path / "run", store, **over))
    rates = [line["lr"] / 5e-4 for line in lines(tmp_path / "run")]
    assert rates == pytest.approx([0.25, 0.75, *((10 - n - 0.5) / 8 for n in range(2, 10))])


def test_sequences_grow_as_the_run_goes_on_and_resume(tmp_path, store, monkeypatch):
    over = {"data": {"start_length": 8, "pack": "stream"}, "evaluation": {"samples": 0}}
    lengths = []
    run = TrainStep.run

    def watched(self, step, batches, *args):
        lengths.append((step, max(batch.layout.max_length for batch in batches), sum(b.layout.total for b in batches)))
        return run(self, step, batches, *args)

    monkeypatch.setattr(TrainStep, "run", watched)

    def go(name, warmup=0.6):
        over["data"]["length_warmup"] = warmup
        pretrain(replaced(recipe(tmp_path / name, store, **over), objective={"mlm": 1.0}))

    go("whole")
    assert [length for _, length, _ in lengths] == [8] * 3 + [16] * 3 + [32] * 4
    go("long", warmup=0.0)
    assert [length for _, length, _ in lengths[10:]] == [32] * 10
    assert [total for *_, total in lengths[:10]] == [total for *_, total in lengths[10:]]  # a step is as large
    assert shas(tmp_path / "whole", 10) != shas(tmp_path / "long", 10)
    del lengths[10:]
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SignalError):
            go("halves")
    go("halves")
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "halves", 10)
    assert lengths[:10] == lengths[10:]


def test_only_plain_text_is_cut(tmp_path, store):
    with pytest.raises(UsageError, match=r"data.length_warmup.*pairs"):
        pretrain(recipe(tmp_path / "run", store, data={"length_warmup": 0.5}))
    assert not (tmp_path / "run").exists()
    model = {"family": "bart", "size": "tiny"}
    paired = replaced(
        recipe(tmp_path / "run", store, data={"length_warmup": 0.5}), model=model, objective={"prefix": 1}
    )
    with pytest.raises(UsageError, match="source"):
        pretrain(paired)


OTHER = """
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.objectives.objective import Objective

class Other(MaskedLanguageModelling):
    name = "other"
    view = "stream"
    also = ()
    pack = "stream"

    def __init__(self, config, vocabulary):
        super().__init__(config, vocabulary)
        self.lookahead = 1
"""


def test_parts_with_different_windows_take_turns_and_resume(tmp_path, store, monkeypatch):
    (tmp_path / "other.py").write_text(OTHER)
    objective = {"mlm": 1.0, f"{tmp_path / 'other.py'}:Other": 1.0}
    pretrain(replaced(recipe(tmp_path / "whole", store, track={"every": 1}), objective=objective))
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(SignalError):
            pretrain(replaced(recipe(tmp_path / "halves", store, track={"every": 1}), objective=objective))
    pretrain(replaced(recipe(tmp_path / "halves", store, track={"every": 1}), objective=objective))
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "halves", 10)
    trained = [line for line in lines(tmp_path / "whole") if "loss" in line]
    assert {("loss/mlm" in line, "loss/other" in line) for line in trained} == {(True, False), (False, True)}
    state = json.loads((tmp_path / "whole/checkpoint-10/state.json").read_text())
    assert sum(sum(cursor) for cursor in state["cursors"]) == 80
    assert all(sum(cursor) for cursor in state["cursors"])


def test_a_step_of_at_most_so_many_tokens(tmp_path, store):
    pretrain(clm_recipe(tmp_path / "run", store, data={"batch": None, "batch_tokens": 200}))
    assert all(100 * line["step"] < line["tokens"] <= 200 * line["step"] for line in lines(tmp_path / "run"))


def test_a_batch_too_small_for_its_parts_is_named(tmp_path, store):
    with pytest.raises(UsageError, match="micro-batches"):
        pretrain(recipe(tmp_path / "run", store, data={"batch": None, "batch_tokens": 40, "accumulate": 4}))


def test_checkpointing_gives_the_same_numbers(tmp_path, store):
    for flag in (False, True):
        pretrain(recipe(tmp_path / str(flag), store, model={"checkpointing": flag, "dropout": 0.2}))
    assert shas(tmp_path / "True", 10) == shas(tmp_path / "False", 10)


def test_a_full_disk_while_saving_is_told_and_survived(tmp_path, store, monkeypatch):
    pretrain(recipe(tmp_path / "whole", store))
    save = states.save_file

    def full(tensors, path, metadata):
        if "checkpoint-10" in str(path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(states, "save_file", full)
        with pytest.raises(StorageError, match="No space left"):
            pretrain(recipe(tmp_path / "run", store))
    assert sorted(p.name for p in (tmp_path / "run").glob("*checkpoint*")) == ["checkpoint-5"]
    pretrain(recipe(tmp_path / "run", store))
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "run", 10)


def test_another_machine_is_warned_of(tmp_path, store, capsys, monkeypatch):
    run = tmp_path / "run"
    pretrain(recipe(run, store))
    own = loop.fingerprint
    monkeypatch.setattr(loop, "fingerprint", lambda *args: {**own(*args), "capability": "SSE2"})
    pretrain(recipe(run, store, track={"progress": "plain"}))
    assert "not bit-exact from here on: capability" in capsys.readouterr().err


def test_data_wait_is_measured(tmp_path, store):
    pretrain(recipe(tmp_path / "run", store))
    assert all(0 <= line["data_wait"] <= 1 for line in lines(tmp_path / "run") if "data_wait" in line)


def test_two_models_trained_together_resume_bit_for_bit(tmp_path, store, monkeypatch):
    shape = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "embedding_size": 16,
        "max_position_embeddings": 64,
    }
    model = {"family": "electra", "size": "tiny", "overrides": shape}

    def go(name):
        objective = {"rtd": {"generator": 0.5}}
        base = recipe(tmp_path / name, store, evaluation={"samples": 16, "every": 5})
        pretrain(replaced(base, model=model, objective=objective))

    go("whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(SignalError):
            go("halves")
    go("halves")
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "halves", 10)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "halves")
    for folder in (".", "generator"):
        whole, halves = (tmp_path / name / folder / "model.safetensors" for name in ("whole", "halves"))
        assert whole.read_bytes() == halves.read_bytes()
    configs = [tmp_path / "whole" / folder / "config.json" for folder in (".", "generator")]
    kinds = [json.loads(path.read_text())["architectures"] for path in configs]
    assert kinds == [["ElectraForPreTraining"], ["ElectraForMaskedLM"]]
