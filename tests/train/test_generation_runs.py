"""Runs of tasks that write: resumed, tuned by LoRA, merged, from the command line, and read by `transformers`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from generationkit import FIELDS, TOKENIZER, copies, gpt2, save_bart
from trainkit import shas, stop_at, untimed

import pretune
from pretune.cli import main
from pretune.runtime.signals import SignalError
from pretune.tasks.generation import Generation


def test_a_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its third step, it goes on to the eighth as if nothing had been."""
    save_bart(tmp_path / "bart", 0.05)
    common = {**FIELDS, "task": "generation", "train": copies(24), "validation": copies(8, 1), "steps": 8}
    common |= {"model": str(tmp_path / "bart"), "data.window": 16, "task.generation.label_smoothing": 0.1}
    common |= {"dropout": 0.1, "evaluation": {"every": 4}}
    pretune.finetune(output=str(tmp_path / "whole"), **common)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(SignalError):
            pretune.finetune(output=str(tmp_path / "parts"), **common)
    pretune.finetune(output=str(tmp_path / "parts"), **common)
    assert shas(tmp_path / "whole", 8) == shas(tmp_path / "parts", 8)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")


def test_validation_writes_for_some_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2(tmp_path / "gpt2", 0.05)
    counts: list[int] = []
    write = Generation.write

    def counted(self: Any, network: Any, tokenizer: Any, prompts: Any, beams: int) -> Any:
        counts.append(len(prompts))
        assert beams == 2
        return write(self, network, tokenizer, prompts, beams)

    monkeypatch.setattr(Generation, "write", counted)
    settings = {"generation": {"validation_samples": 5, "validation_beams": 2, "metrics": ["chrf"]}}
    pretune.finetune(
        model=str(tmp_path / "gpt2"),
        task=settings,
        train=copies(24),
        validation=copies(12, 1),
        steps=2,
        output=str(tmp_path / "run"),
        **FIELDS,
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "eval/bleu" in line]
    assert sum(counts) == 5 * len(evaluations)
    assert {"eval/loss", "eval/chrf", "eval/ended"} <= evaluations[-1].keys()


def test_lora_and_what_is_saved(tmp_path: Path) -> None:
    """A tuned model predicts, merged too; the plain one is what `transformers` opens and writes alike."""
    gpt2(tmp_path / "gpt2", 0.05)
    settings = {"generation": {"beams": 2, "no_repeat_ngram_size": 3, "max_new_tokens": 6}}
    common = {**FIELDS, "task": settings, "train": copies(16), "steps": 3, "model": str(tmp_path / "gpt2")}
    tuned = pretune.finetune(output=str(tmp_path / "lora"), tune="lora", **common)
    before = tuned.predict(["fox dog"])
    assert main(["merge", str(tmp_path / "lora"), "--output", str(tmp_path / "merged"), "--no-allocator"]) == 0
    merged = pretune.load(tmp_path / "merged", precision="fp32", device="cpu")
    assert pretune.load(tmp_path / "lora", precision="fp32", device="cpu").predict(["fox dog"]) == before
    assert merged.predict(["fox dog"]) == before
    stated = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (stated["num_beams"], stated["no_repeat_ngram_size"], stated["max_new_tokens"]) == (2, 3, 6)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(theirs) is transformers.GPT2LMHeadModel
    ids = torch.tensor([TOKENIZER.encode("fox dog\n").tolist()])
    run = theirs.generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
    assert TOKENIZER.decode(run.tolist()).strip() == before[0]["generated_text"]


def test_tasks_that_write_share_a_head_beside_a_classifier(tmp_path: Path) -> None:
    """The head is the model's own: saved and read again though it has no weights of its own."""
    gpt2(tmp_path / "gpt2", 0.05)
    rows = [{**row, "label": "ab"[n % 2], "title": "a cat"} for n, row in enumerate(copies(16))]
    tasks = {
        "copy": {"task": "generation", "max_new_tokens": 8},
        "title": {"task": "generation", "max_new_tokens": 8, "data": {"columns": {"target": "title"}}},
        "topic": {"task": "classification"},
    }
    run = str(tmp_path / "run")
    pretune.finetune(model=str(tmp_path / "gpt2"), task=tasks, train=rows, steps=4, output=run, **FIELDS)
    model = pretune.load(run, device="cpu")
    assert sorted(model.network.heads) == ["classification", "clm"]
    for name in ("copy", "title"):
        assert isinstance(model.predict(["fox dog"], task=name)[0]["generated_text"], str)
    assert model.predict(["fox dog"], task="topic")[0].label in "ab"


def test_the_command_line_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_bart(tmp_path / "bart", 0.05)
    for name, count in (("train", 24), ("val", 8)):
        rows = copies(count, count)
        (tmp_path / f"{name}.en").write_text("".join(f"{row['text']}\n" for row in rows))
        (tmp_path / f"{name}.de").write_text("".join(f"{row['target']}\n" for row in rows))
    run = str(tmp_path / "run")
    words = [
        "finetune",
        "--task",
        "generation",
        "--model",
        str(tmp_path / "bart"),
        "--train",
        f"{tmp_path}/train.{{en,de}}",
    ]
    words += ["--validation", f"{tmp_path}/val.{{en,de}}", "--steps", "3", "--length", "40", "--output", run]
    words += ["--task.generation.beams", "2", "--device", "cpu", "--threads", "1", "--no-allocator"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "sources are read from 'text', targets from 'target'" in said
    assert f"pretune predict {run} 'a text'" in said or f'pretune predict {run} "a text"' in said
    samples = json.loads((tmp_path / "run" / "samples.json").read_text())
    assert {"prompt", "output", "label"} <= samples[0].keys()
    assert main(["predict", run, "fox dog", "cat hat", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["fox dog", "cat hat"]
    assert all(isinstance(line["generated_text"], str) for line in lines)
    assert main(["predict", run, "fox dog", "--top", "3", "--json"]) == 0
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(line["candidates"]) == 3
    table = tmp_path / "out.csv"
    assert main(["predict", run, f"{tmp_path}/val.{{en,de}}", "--top", "2", "--output", str(table)]) == 0
    with table.open(encoding="utf-8", newline="") as file:
        rows_of_table = list(csv.DictReader(file))
    assert len(rows_of_table) == 8
    assert {"text", "target", "generated_text", "candidates"} <= rows_of_table[0].keys()
    capsys.readouterr()
    assert main(["evaluate", run, f"{tmp_path}/val.{{en,de}}", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert {"bleu", "ended", "loss", "perplexity"} <= scores.keys()
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(run)
    assert type(theirs) is transformers.BartForConditionalGeneration
    assert theirs.generation_config.num_beams == 2


def test_a_model_that_writes_was_trained_for_no_task_by_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpt2(tmp_path)
    assert main(["predict", str(tmp_path), "a text", "--no-allocator", "--device", "cpu"]) == 64
    message = "no classification head (its heads: clm); fine-tune it (pretune finetune), or ask it as it is for labels"
    assert message in capsys.readouterr().err
