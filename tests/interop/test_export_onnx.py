"""ONNX graphs against the models that they were written of, run by onnxruntime on padded batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
from tinymodels import byte_tokenizer, save_bert, word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import DataError
from pretune.find import variants
from pretune.interop.export_target import TargetExport, export_to
from pretune.interop.onnx_model import is_decoder
from pretune.interop.targets import onnx as target
from pretune.models import build
from pretune.models.model import LanguageModel, get_family
from pretune.models.text_vectors import TextVectors, VectorModule
from pretune.nn.heads import SequenceHead
from pretune.nn.vectors import Normalize, Pooling

onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
ort = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
SMALL = {"vocab_size": 300}
LACKING = ("bart", "bert2bert", "marian", "t5", "xlnet")
FAMILIES = [family for family in variants("models") if family not in LACKING]
DECODERS = ("gpt2", "llama", "qwen3")


def make(family: str, *roles: str, **fields: object) -> LanguageModel:
    chosen = list(roles or max(get_family(family).ARCHITECTURES.values(), key=len))
    labelled = {"classification", "token_classification"} & set(chosen)
    model = build(family, "tiny", chosen, {**SMALL, **fields}, labels=["a", "b", "c"] if labelled else None).eval()
    parity.randomise(model)
    return model


def session(path: Path) -> Any:
    return ort.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same(family: str, tmp_path: Path) -> None:
    model = make(family)
    result = export_to("onnx", model, byte_tokenizer(), tmp_path / "out")
    assert "of 6 padded batches" in result.compared[0]
    assert ("with the cache" in result.compared[0]) == is_decoder(model)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"model.onnx", "config.json", "tokenizer.json"}


@pytest.mark.parametrize("role", ["classification", "token_classification", "question_answering", "multiple_choice"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_heads(family: str, role: str, tmp_path: Path) -> None:
    model = make(family, role)
    export_to("onnx", model, byte_tokenizer(), tmp_path / "out")
    names = [output.name for output in session(tmp_path / "out").get_outputs()]
    assert names == (["start_logits", "end_logits"] if role == "question_answering" else ["logits"])


@pytest.mark.parametrize("kind", ["int8", "q8_0", "q4_0"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_rounded_weights_are_what_the_formats_say(family: str, kind: str, tmp_path: Path) -> None:
    """Outputs are those of a model whose weights have the rounded values, to 1e-4: nothing else is rounded."""
    model = make(family, hidden_size=256, intermediate_size=512)
    sizes = {each: export_to("onnx", model, byte_tokenizer(), tmp_path / each, each).size for each in ("fp32", kind)}
    assert sizes[kind] < sizes["fp32"] * (0.45 if kind == "q4_0" else 0.6)
    rows = target._rows(model, (7, 3), 0)
    expected = target.expected_outputs(model, rows)
    run = session(tmp_path / kind)
    feed, mask = target.padded(run, model, rows, left=False)
    answers = dict(zip([output.name for output in run.get_outputs()], run.run(None, feed), strict=True))
    assert target.distance(expected, answers, mask) > 1e-4, "unrounded weights give other outputs"


def test_a_row_alone_and_beside_others_is_the_same(tmp_path: Path) -> None:
    """Padding, on either side and of any length, changes nothing."""
    model = make("bert", "classification")
    export_to("onnx", model, byte_tokenizer(), tmp_path / "out")
    run = session(tmp_path / "out")
    tokens = np.arange(5, dtype=np.int64)[None] + 7
    ones = np.ones_like(tokens)
    alone = run.run(None, {"input_ids": tokens, "attention_mask": ones, "token_type_ids": tokens * 0})[0]
    for left, right in ((0, 9), (4, 0), (3, 2)):
        wide = np.pad(tokens, ((0, 0), (left, right)), constant_values=299)
        mask = np.pad(ones, ((0, 0), (left, right)))
        padded = run.run(None, {"input_ids": wide, "attention_mask": mask, "token_type_ids": wide * 0})[0]
        np.testing.assert_allclose(padded, alone, atol=2e-5)
    unmasked = run.run(None, {"input_ids": wide, "attention_mask": np.ones_like(wide), "token_type_ids": wide * 0})[0]
    assert np.abs(unmasked - alone).max() > 1e-3, "the mask has a part in it"


@pytest.mark.parametrize("family", DECODERS)
def test_a_cache_of_several_texts_gives_the_same_tokens(family: str, tmp_path: Path) -> None:
    """Greedy writing with the cache, from prompts of several lengths padded on the left, as `optimum` does it."""
    model = make(family, "clm")
    export_to("onnx", model, byte_tokenizer(), tmp_path / "out")
    run = session(tmp_path / "out")
    rows = [np.array(row, np.int64) for row in ([5, 6, 7, 8, 9, 10], [11, 12, 13])]
    feed, _ = target.padded(run, model, rows, left=True)
    names = [output.name for output in run.get_outputs()]
    written: list[list[int]] = [[], []]
    for _ in range(6):
        answers = dict(zip(names, run.run(None, feed), strict=True))
        tokens = answers["logits"][:, -1].argmax(-1)
        for row, token in zip(written, tokens, strict=True):
            row.append(int(token))
        mask = np.concatenate([feed["attention_mask"], np.ones((2, 1), np.int64)], 1)
        past = {name: answers[name.replace("past_key_values", "present")] for name in feed if name.startswith("past")}
        feed = {"input_ids": tokens[:, None].astype(np.int64), "attention_mask": mask, **past}
    for row, text in zip(rows, written, strict=True):
        whole = [*row.tolist()]
        for token in text:
            logits = target.expected_outputs(model, [np.array(whole, np.int64)])["logits"]
            assert int(logits[-1].argmax()) == token
            whole.append(token)


def test_a_decoder_with_two_heads(tmp_path: Path) -> None:
    model = make("gpt2", "clm", "token_classification")
    export_to("onnx", model, byte_tokenizer(), tmp_path / "out")
    assert {o.name for o in session(tmp_path / "out").get_outputs()} >= {"clm.logits", "token_classification.logits"}


def test_outputs_of_other_names_are_not_the_same() -> None:
    one, mask = np.zeros((1, 2), np.float32), np.ones((1, 3), np.bool_)
    assert target.distance({"logits": one, "more": one}, {"logits": one, "present.0.key": one}, mask) == 0
    for answers in ({}, {"present.0.key": one}, {"logits": one, "scores": one}):
        with pytest.raises(DataError, match="outputs"):
            target.distance({"logits": one}, answers, mask)


@pytest.mark.parametrize("mode", ["mean", "cls", "last", "max", "weightedmean", "mean_sqrt_len_tokens"])
def test_vectors(mode: Any, tmp_path: Path) -> None:
    model = make("bert", "mlm")
    del model.heads["mlm"]
    pooled = VectorModule("sentence_transformers.models.Pooling", None, Pooling([mode]))
    scaled = VectorModule("sentence_transformers.models.Normalize", None, Normalize())
    model.vectors = TextVectors((pooled, scaled))
    result = export_to("onnx", model, byte_tokenizer(), tmp_path / "out")
    assert "last_hidden_state, sentence_embedding" in result.compared[0]


def test_a_wrong_graph_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("gpt2", "clm")

    def spoiled(export: TargetExport, path: Path) -> None:
        with torch.no_grad():
            model.stack.norm.bias[0] += 0.01  # type: ignore[operator,index]
        write(export, path)
        with torch.no_grad():
            model.stack.norm.bias[0] -= 0.01  # type: ignore[operator,index]

    write = target.write
    monkeypatch.setattr(target, "write", spoiled)
    with pytest.raises(DataError, match="outputs of the graph differ by"):
        export_to("onnx", model, byte_tokenizer(), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("family", LACKING)
def test_what_has_no_nodes_is_refused_by_name(family: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not written as ONNX; use (--format ctranslate2|pretune)"):
        export_to("onnx", make(family), byte_tokenizer(), tmp_path / "out")


def test_other_heads_activations_and_groups_are_refused(tmp_path: Path) -> None:
    class Own(SequenceHead):
        """A head that nobody else has."""

    model = make("bert", "classification")
    model.heads["own"] = Own(model.width, ["a"], "first")
    with pytest.raises(DataError, match="head 'own' is a Own"):
        export_to("onnx", model, byte_tokenizer(), tmp_path / "out")
    with pytest.raises(DataError, match="an activation that is not written as ONNX"):
        export_to("onnx", make("bert", "mlm", hidden_act="mish"), byte_tokenizer(), tmp_path / "out")
    odd = make("gpt2", "clm", n_embd=48, n_head=2)
    with pytest.raises(DataError, match="q4_0 has groups of 32, which do not divide them"):
        export_to("onnx", odd, byte_tokenizer(), tmp_path / "out", "q4_0")
    export_to("onnx", odd, byte_tokenizer(), tmp_path / "odd", "int8")
    with torch.no_grad():
        odd.stack.blocks[1].feedforward.up.weight[3, 4] = float("nan")  # type: ignore[union-attr,index,operator]
    with pytest.raises(DataError, match=r"weight 'stack.blocks.1.feedforward.up.weight' holds NaN"):
        export_to("onnx", odd, byte_tokenizer(), tmp_path / "out")


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    save_bert(tmp_path / "model", word_tokenizer(), transformers.BertForSequenceClassification, ["bad", "good"])
    words = ["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "onnx", "--type", "int8"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "onnxruntime" in said
    assert "MB of int8, read back and compared" in said
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    feed = dict(tokenizer("the quick brown fox", return_tensors="np"))
    logits = session(tmp_path / "out").run(None, {name: value.astype(np.int64) for name, value in feed.items()})[0]
    expected = pretune.load(tmp_path / "model", device="cpu", precision="fp32").predict("the quick brown fox")
    assert ["bad", "good"][int(logits[0].argmax())] == expected.label
    assert main(words) == 73, "an export is not written over"
