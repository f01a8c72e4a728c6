"""LoRA in one file outside of pretune: trained by recipe and by path, saved, loaded, merged, exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import pretune
from pretune.batch import ragged
from pretune.cli import main
from pretune.config import validate
from pretune.errors import DataError, IdleMethodError, MissingInputError, UsageError
from pretune.interop.huggingface import load_model
from pretune.interop.tuned_model import load_delta
from pretune.models import build
from pretune.models.flops import block_flops, head_flops
from pretune.models.fuse import FusedBlock, fuse
from pretune.models.model import get_family
from pretune.nn.cast import cast_to_bf16
from pretune.runtime.device import inference_context
from pretune.runtime.signals import SignalError
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain
from pretune.tune.method import find_method
from tests.train.trainkit import SHAPE, WORDS, lines, make_store, recipe, replaced, shas, stop_at, untimed

LORA = str(Path(__file__).parent / "lora.py")
PARTS = ("self.query", "self.key", "self.value", "output.dense")
TEXTS = ["w1 w2 w3 w4", "w7 w2", "w50 w51 w52"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a base that was pretrained on it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("lora")
    make_store(root / "store")
    pretrain(recipe(root / "base", root / "store", budget={"steps": 20}, optimizer={"lr": 3e-3}))
    return root


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Path:
    """A classifier, tuned at three roles of the last layer with a term of its own."""
    settings = {
        "output": str(folder / "tuned"),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "model": {"init": str(folder / "base"), "dropout": 0.0},
        "task": "classification",
        "tune": {LORA: {"places": ["attention", "layers[-1:].feedforward"], "alpha": 32, "decay": 0.01}},
        "data": {
            "train": labelled(folder / "train.csv", 120, 0),
            "validation": labelled(folder / "validation.csv", 40, 1),
            "length": 16,
            "batch": 16,
        },
        "optimizer": {"lr": 1e-2},
        "budget": {"epochs": 8},
        "track": {"progress": "quiet", "report": False},
    }
    return finetune(validate(Recipe, settings, "recipe"))


def labelled(path: Path, count: int, seed: int) -> str:
    """Texts of ten words; the first decides the label."""
    rng = np.random.default_rng(seed)
    words = [[int(rng.integers(0, 6)), *rng.integers(6, len(WORDS), 9).tolist()] for _ in range(count)]
    rows = [f"{' '.join(WORDS[n] for n in text)},{'low' if text[0] < 3 else 'high'}" for text in words]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return str(path)


def continued(folder: Path, run: Path, method: str, settings: dict[str, object] | None = None, steps: int = 2) -> Path:
    """Pretraining that goes on from the base."""
    plain = recipe(run, folder / "store", budget={"steps": steps}, optimizer={"lr": 1e-2})
    return pretrain(replaced(plain, model={"init": str(folder / "base")}, tune={method: settings or {}}))


def merged_model(run: Path) -> Path:
    """The plain model of a tuned run, beside it."""
    plain = run.with_name(f"{run.name}-merged")
    if not plain.exists():
        pretune.merge(run, plain)
    return plain


def logits(model: torch.nn.Module) -> torch.Tensor:
    batch = ragged([[2, 7, 8, 9, 3], [2, 11, 3]])
    with torch.no_grad():
        (head,) = model.heads.values()
        hidden = model(batch).last_hidden_state
        return head(hidden, batch.layout) if hasattr(head, "labels") else head(hidden)


def test_it_trains_and_its_terms_are_logged(folder: Path, tuned: Path) -> None:
    log = lines(tuned)
    assert any("loss/tune.size" in line for line in log)
    assert [line["eval/accuracy"] for line in log if "eval/accuracy" in line][-1] > 0.9
    facts = json.loads((tuned / "run.json").read_text())
    assert facts["trained_parameters"] < 0.3 * facts["parameters"]
    assert not (tuned / "config.json").exists()
    assert not list(tuned.glob("model*.safetensors"))
    delta = load_file(tuned / "delta.safetensors")
    assert {name.rpartition(".")[2] for name in delta if name.startswith("stack.")} == {"up", "down", "progress"}
    assert all(name.startswith(("heads.", "stack.")) for name in delta)
    assert all(0 < float(value) <= 1 for name, value in delta.items() if name.endswith("progress"))
    base, merged = (load_file(path / "model.safetensors") for path in (folder / "base", merged_model(tuned)))
    moved = {name for name in base.keys() & merged.keys() if not torch.equal(base[name], merged[name])}
    assert {name.partition("layer.")[2] for name in moved} == {
        *(f"{layer}.attention.{part}.weight" for layer in (0, 1) for part in PARTS),
        *("1.intermediate.dense.weight", "1.output.dense.weight"),
    }


def test_the_run_is_exported_as_a_plain_model_for_everybody(tuned: Path, tmp_path: Path) -> None:
    model = pretune.load(tuned, device="cpu", precision="fp32")
    answers = model.predict(TEXTS)
    assert {answer.label for answer in answers} <= {"low", "high"}
    model.export(tmp_path / "out")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    for text, answer in zip(TEXTS, answers, strict=True):
        ids = torch.tensor([model.tokenizer.vocabulary.with_end(model.tokenizer.encode(text)).tolist()])
        with torch.no_grad():
            scores = theirs(input_ids=ids).logits.softmax(-1)[0]
        assert theirs.config.id2label[int(scores.argmax())] == answer.label
        assert float(scores.max()) == pytest.approx(answer.probability, abs=1e-5)


def test_deltas_on_their_base_are_the_merged_model(tuned: Path) -> None:
    model, merged = load_delta(tuned).eval(), load_model(merged_model(tuned)).eval()
    places = [name for name, _ in model.named_modules() if name.endswith("update")]
    assert len(places) == 10
    torch.testing.assert_close(logits(model), logits(merged), atol=1e-5, rtol=1e-5)
    plain = find_method(LORA, {}).merge(model)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in merged.named_parameters()]
    torch.testing.assert_close(logits(plain), logits(merged), atol=1e-6, rtol=1e-6)


def test_a_folder_of_deltas_is_loaded_like_a_model(tuned: Path) -> None:
    alone, whole = (pretune.load(path, device="cpu", precision="fp32") for path in (tuned, merged_model(tuned)))
    number = json.loads((tuned / "run.json").read_text())["finished"]["weights_of_step"]
    step = pretune.load(tuned, device="cpu", precision="fp32", step=number)
    ours, theirs = dict(step.network.named_parameters()), dict(alone.network.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for one, other in zip(alone.predict(TEXTS), whole.predict(TEXTS), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@pytest.mark.usefixtures("unsealed")
def test_deltas_are_refused_on_another_base(folder: Path, tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "base", tmp_path / "base", ignore=shutil.ignore_patterns("checkpoint*"))
    assert load_delta(tuned, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    weights[name][0, 0] += 1e-3
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="not the weights that"):
        load_delta(tuned, tmp_path / "base")
    with pytest.raises(MissingInputError, match="give its new place"):
        load_delta(tuned, tmp_path / "nowhere")


@pytest.mark.usefixtures("unsealed")
def test_a_changed_or_missing_method_is_refused(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned, tmp_path / "delta", ignore=shutil.ignore_patterns("checkpoint*", "initial"))
    own = tmp_path / "mine.py"
    record = json.loads((tmp_path / "delta" / "delta.json").read_text())
    record["method"]["name"] = str(own)
    (tmp_path / "delta" / "delta.json").write_text(json.dumps(record))
    with pytest.raises(MissingInputError, match="gone"):
        load_delta(tmp_path / "delta")
    own.write_text(Path(LORA).read_text() + "\n# changed\n")
    with pytest.raises(DataError, match="has changed"):
        load_delta(tmp_path / "delta")
    own.write_text(Path(LORA).read_text())
    assert load_delta(tmp_path / "delta")


@pytest.mark.parametrize("places", [["attention"], ["vocabulary"], ["vocabulary", "heads.mlm.transform.dense"]])
def test_pretraining_goes_on_and_reaches_the_vocabulary(folder: Path, tmp_path: Path, places: list[str]) -> None:
    """The head of a tied vocabulary learns: its loss goes through the brick, not around it."""
    run = continued(folder, tmp_path / "run", LORA, {"places": places}, steps=6)
    base, merged = (load_file(path / "model.safetensors") for path in (folder / "base", merged_model(run)))
    assert base.keys() == merged.keys()
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    words = "bert.embeddings.word_embeddings.weight"
    assert (words in moved) == ("vocabulary" in places)
    assert ("cls.predictions.transform.dense.weight" in moved) == (len(places) == 2)
    assert len(moved) == (4 * 2 if places == ["attention"] else len(places))
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(merged_model(run)).eval()
    ours = load_delta(run).eval()
    tokens = [2, 7, 4, 9, 3]
    with torch.no_grad():
        want = theirs(input_ids=torch.tensor([tokens])).logits[0]
        torch.testing.assert_close(
            ours.heads["mlm"](ours(ragged([tokens])).last_hidden_state), want, atol=2e-5, rtol=1e-4
        )


def test_a_method_that_changes_nothing_fails_the_run(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "idle.py"
    own.write_text(Path(LORA).read_text() + "\n\ndef acted(model):\n    return []\n")
    with pytest.raises(IdleMethodError, match="it says itself that it changed nothing"):
        continued(folder, tmp_path / "run", str(own))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_method_without_merge_is_saved_as_deltas(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "unmerged.py"
    own.write_text(Path(LORA).read_text().replace("def merge(", "def _merge("))
    run = continued(folder, tmp_path / "run", str(own))
    assert not (run / "config.json").exists()
    model = pretune.load(run, device="cpu", precision="fp32")
    assert len(model.fill("w1 [MASK] w3")[0]) > 1


def test_a_site_that_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no place of this model is called 'atention"):
        continued(folder, tmp_path / "run", LORA, {"places": ["atention.query"]})
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UsageError, match="has no Config and no apply"):
        continued(folder, tmp_path / "run", str(tmp_path / "empty.py"))


FAMILIES = {
    "bert": (["mlm"], {**SHAPE, "vocab_size": 64}),
    "gpt2": (["clm"], {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 64}),
    "llama": (["clm"], {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}),
}
EVERYWHERE = {"places": ["attention", "feedforward", "vocabulary"]}


@pytest.mark.parametrize("name", FAMILIES)
def test_same_output_at_the_start_and_after_merging(name: str) -> None:
    heads, shape = FAMILIES[name]
    size = {"bert": "tiny", "gpt2": "tiny", "llama": None}[name]
    shape = shape if size else {**shape, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = build(name, size or next(iter(get_family(name).SIZES)), heads, shape).eval()
    before, names = logits(model), [n for n, _ in model.named_parameters()]
    method = find_method(LORA, EVERYWHERE)
    model = method.apply(model)
    torch.testing.assert_close(logits(model), before, atol=0, rtol=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    tuned = logits(model)
    assert not torch.allclose(tuned, before, atol=1e-3), "the positive control: the updates do act"
    torch.testing.assert_close(logits(fuse(model)), tuned, atol=1e-4, rtol=1e-4)
    assert all(type(block) is FusedBlock for block in fuse(model).stack.blocks)
    merged = method.merge(model)
    assert [n for n, _ in merged.named_parameters()] == names
    torch.testing.assert_close(logits(merged), tuned, atol=1e-5, rtol=1e-5)


def test_counts_and_bf16_see_the_updates() -> None:
    model = build("bert", "tiny", ["mlm"], {**SHAPE, "vocab_size": 64}).eval()
    block, head = model.stack.blocks[0], head_flops(model, "mlm")
    plain = block_flops(block, 5, 5)
    model = find_method(LORA, {"places": ["attention.query", "vocabulary"], "rank": 4}).apply(model)
    assert block_flops(block, 5, 5) == plain + 2 * 5 * 4 * (32 + 32)
    assert head_flops(model, "mlm") == head
    want = logits(model)
    cast_to_bf16(model)
    query = block.attention.query
    assert {p.dtype for p in query.parameters()} == {torch.bfloat16}
    with inference_context(torch.device("cpu"), True):
        torch.testing.assert_close(logits(model).float(), want, atol=5e-2, rtol=5e-2)


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--model.init", str(folder / "base"), "--task", "classification", "--data.length", "16", "--device", "cpu"]
    words += ["--data.train", labelled(tmp_path / "train.csv", 40, 0), "--budget.steps", "3", "--output", str(run)]
    words += [f"--tune.{LORA}.rank", "2", "--precision", "fp32", "--quiet", "--no-allocator"]
    assert main(["finetune", *words]) == 0
    assert f'[tune."{LORA}"]' in (run / "recipe.toml").read_text()
    assert main(["predict", str(run), "w1 w2", "--device", "cpu"]) == 0
    assert json.loads((run / "delta.json").read_text())["method"]["config"]["rank"] == 2
    assert main(["merge", str(run), "--output", str(tmp_path / "plain"), "--quiet"]) == 0
    assert main(["predict", str(tmp_path / "plain"), "w1 w2", "--device", "cpu"]) == 0
    assert main(["merge", str(tmp_path / "plain"), "--output", str(tmp_path / "again")]) == 64
    assert main(["merge", str(run), "--output", str(tmp_path / "plain")]) == 73


def test_a_stopped_run_goes_on_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"places": ["attention", "vocabulary"], "decay": 0.1}
    continued(folder, tmp_path / "whole", LORA, settings, steps=10)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SignalError):
            continued(folder, tmp_path / "parts", LORA, settings, steps=10)
    continued(folder, tmp_path / "parts", LORA, settings, steps=10)
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "parts", 10)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")
    one, other = (load_file(tmp_path / name / "delta.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_prefix_is_trained_and_loaded_with_its_base(folder: Path, tmp_path: Path) -> None:
    """Keys and values cannot be merged into a matrix: the run's folder holds them, and load puts them on the base."""
    method = str(Path(__file__).parent / "prefix.py")
    run = continued(folder, tmp_path / "run", method, {"length": 3}, steps=4)
    assert not (run / "config.json").exists()
    delta = load_file(run / "delta.safetensors")
    assert delta["stack.blocks.0.attention.prefix.key"].shape == (3, 2, 16)
    model, base = load_delta(run).eval(), load_model(folder / "base").eval()
    with torch.no_grad():
        batch = ragged([[2, 7, 8, 9, 3], [2, 11, 3]])
        plain, tuned = (network(batch).last_hidden_state for network in (base, model))
        assert not torch.allclose(plain, tuned, atol=1e-4)
        torch.testing.assert_close(fuse(model)(batch).last_hidden_state, tuned, atol=1e-5, rtol=1e-5)
    assert block_flops(model.stack.blocks[0], 5, 5) == block_flops(base.stack.blocks[0], 5, 5) + 4 * 32 * 5 * 3
    assert len(pretune.load(run, device="cpu", precision="fp32").fill("w1 [MASK] w3")[0]) > 1


def test_a_merge_that_leaves_surgery_is_refused_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "forgetful.py"
    own.write_text(Path(LORA).read_text().replace("    merge_bricks(model)\n", ""))
    with pytest.raises(DataError, match="could not be saved"):
        continued(folder, tmp_path / "run", str(own))
    assert not list((tmp_path / "run").glob("checkpoint-*"))
