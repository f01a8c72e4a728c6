"""lm-eval's own tasks and its own `hf` model against ours, on a tiny model and without network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinymodels import END, TEXTS, byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune.lm_eval
from pretune.errors import DataError, UsageError

lm_eval = pytest.importorskip("lm_eval")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import Registry  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from transformers import BertForSequenceClassification  # noqa: E402

from pretune.lm_eval.harness_model import HarnessModel  # noqa: E402

TASK = """
task: hats
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]
"""
WORDS = [*TEXTS[0].split(), "模型", "learns", "语言"]


def requests(*pairs: tuple[Any, ...], kind: str = "loglikelihood") -> list[Any]:
    return [Instance(kind, {}, pair, n) for n, pair in enumerate(pairs)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    save_gpt2(path, byte_tokenizer())
    return path


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[HarnessModel, HFLM]:
    return HarnessModel(str(folder), batch_size=1), HFLM(pretrained=str(folder), device="cpu", batch_size=3)


def random_pairs(count: int) -> list[tuple[str, str]]:
    """Contexts that often begin alike, with and without spaces at their ends, empty and too long ones among them."""
    draw = np.random.default_rng(0)

    def words(most: int) -> str:
        return " ".join(draw.choice(WORDS, draw.integers(1, most)))

    few = [words(12) for _ in range(8)]
    ends = ["", " ", "\n", "  "]
    pairs = [(f"{draw.choice(few)} {words(4)}{draw.choice(ends)}", f" {words(6)}") for _ in range(count)]
    pairs += [("", "the cat"), ("", f"{END}the cat"), (END, " ate"), (f"{END}the", f" hat {END}")]
    return [*pairs, (" ".join([words(12) for _ in range(12)]), " ate a hat")]


def test_log_likelihoods_are_those_of_hf(both: tuple[HarnessModel, HFLM]) -> None:
    some = requests(*random_pairs(1000))
    ours, theirs = (model.loglikelihood(some, disable_tqdm=True) for model in both)
    assert max(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)) < 1e-3
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert len({round(a) for a, _ in ours}) > 50  # they differ


def test_rolling_log_likelihoods_are_those_of_hf(both: tuple[HarnessModel, HFLM]) -> None:
    """Texts longer than the context, too."""
    texts = [("the cat",), ("the quick brown fox jumps over the lazy dog " * 9,), ("模型",), ("",), (f"{END}a hat",)]
    some = requests(*texts, kind="loglikelihood_rolling")
    ours, theirs = (model.loglikelihood_rolling(some, disable_tqdm=True) for model in both)
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_texts_are_those_of_hf(both: tuple[HarnessModel, HFLM]) -> None:
    short, long = {"until": ["fox", "\n"], "max_gen_toks": 12}, {"until": "hat", "max_gen_toks": 30}
    prompts = ["the quick brown", "a", "the lazy dog and the cat ate a hat " * 4]
    some = requests(*[(prompt, given) for prompt in prompts for given in (short, long)], kind="generate_until")
    one_by_one = [both[1].generate_until([request], disable_tqdm=True)[0] for request in some]
    assert both[0].generate_until(some) == one_by_one


def test_a_task_gives_the_numbers_of_hf(both: tuple[HarnessModel, HFLM], tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    rows = []
    for _ in range(40):
        choices = [" ".join(draw.choice(WORDS, draw.integers(1, 5))) for _ in range(3)]
        rows.append({"query": " ".join(draw.choice(WORDS, 6)), "choices": choices, "gold": int(draw.integers(3))})
    data = tmp_path / "hats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "hats.yaml").write_text(TASK.format(file=data), encoding="utf-8")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = []
    for model in both:
        out = lm_eval.simple_evaluate(
            model=model, tasks=["hats"], task_manager=manager, bootstrap_iters=0, num_fewshot=2, batch_size=1
        )
        assert out is not None
        results.append({name: value for name, value in out["results"]["hats"].items() if name.startswith("acc")})
    assert results[0] == results[1]
    assert len(set(results[0].values())) > 1


def test_chats_are_rendered_by_the_model_s_template(folder: Path, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    )
    tokenizer = byte_tokenizer()
    save_gpt2(tmp_path, tokenizer)
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    model = HarnessModel(str(tmp_path))
    chat = [{"role": "user", "content": "a hat"}]
    assert model.chat_template(True) == template
    assert model.apply_chat_template(chat) == "<user>a hat\n<a>"
    assert model.apply_chat_template([*chat, {"role": "a", "content": "the"}], False) == "<user>a hat\n<a>the"
    assert model.tokenizer_name == str(tmp_path).replace("/", "__")
    with pytest.raises(DataError, match="no chat template; leave --apply_chat_template out"):
        HarnessModel(str(folder)).apply_chat_template(chat)


def test_a_masked_model_answers_by_pseudo_likelihoods(tmp_path: Path) -> None:
    save_bert(tmp_path, word_tokenizer())
    model = HarnessModel(str(tmp_path))
    (one,) = model.loglikelihood(requests(("the cat", " ate a hat")))
    assert one[0] == pytest.approx(model.model.score_choices("the cat", [" ate a hat"])[0].log_prob)
    (whole,) = model.loglikelihood_rolling(requests(("the cat",), kind="loglikelihood_rolling"))
    assert whole == pytest.approx(model.model.log_prob("the cat"))


def test_arguments_that_do_not_exist_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--model_args: no argument 'pretrained'; write path=FOLDER"):
        HarnessModel(str(folder), pretrained="x")
    with pytest.raises(UsageError, match="--model_args: no path; write path=FOLDER"):
        HarnessModel()
    model = HarnessModel(str(folder))
    full = requests(("a", {"until": [], "max_gen_toks": 64}), kind="generate_until")
    with pytest.raises(UsageError, match="max_gen_toks = 64: the model's context of 64 tokens leaves no room"):
        model.generate_until(full)
    save_bert(tmp_path, word_tokenizer(), labels=["a", "b"], kind=BertForSequenceClassification)
    with pytest.raises(UsageError, match="no language modelling head"):
        HarnessModel(str(tmp_path))


def test_the_name_is_registered_where_lm_eval_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Registry[Any] = Registry("model")
    monkeypatch.setattr("lm_eval.api.registry.model_registry", table)
    with monkeypatch.context() as context:
        context.delitem(sys.modules, "lm_eval")
        pretune.lm_eval.register()
        assert "pretune" not in table
    pretune.lm_eval.register()
    pretune.lm_eval.register()
    assert table.get("pretune") is HarnessModel


@pytest.mark.slow
def test_lm_eval_finds_the_model_by_its_name(folder: Path, tmp_path: Path) -> None:
    """The real command in a process of its own, with the entry point as an installed wheel has it."""
    site = tmp_path / "site" / "pretune-0.1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: pretune\nVersion: 0.1.0\n", encoding="utf-8")
    (site / "entry_points.txt").write_text("[torch.backends]\npretune = pretune.lm_eval:register\n", encoding="utf-8")
    data = tmp_path / "hats.jsonl"
    data.write_text('{"query": "the", "choices": ["cat", "hat"], "gold": 1}\n', encoding="utf-8")
    (tmp_path / "hats.yaml").write_text(TASK.format(file=data), encoding="utf-8")
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": f"{site.parent}:{root}", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "pretune", "--model_args", f"path={folder}"]
    command += ["--tasks", "hats", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|hats" in done.stdout
