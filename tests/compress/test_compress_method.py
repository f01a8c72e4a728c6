"""The joint: what calibration reads, what a method needs, and what it may not do silently."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch

from pretune.compress.calibration import Calibration, CalibrationConfig, read_calibration
from pretune.compress.method import CompressContext, find_compression
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.evaluate.read import find_source, read_with_tokenizer
from pretune.models.model import LanguageModel
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.tokenizer import Tokenizer
from tests.tinymodels import TEXTS, byte_tokenizer, save_bert, save_gpt2, word_tokenizer


def _gpt2(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    save_gpt2(folder, byte_tokenizer())
    model, tokenizer = read_with_tokenizer(find_source(folder), None)
    return model.eval(), tokenizer


def _texts(path: Path, count: int = 60) -> str:
    path.write_text("\n\n".join(f"{TEXTS[0]} {n} {n * 7}" for n in range(count)))
    return str(path)


def _read(model: LanguageModel, tokenizer: Tokenizer, data: str, seed: int = 0, **fields: object) -> Calibration:
    config = CalibrationConfig.model_validate({"data": (data,), "tokens": 512, **fields})
    return read_calibration(model, tokenizer, config, Draw(seed), Path("model"))


def test_calibration_of_texts_and_of_their_store_are_counted_drawn_and_have_a_loss(tmp_path: Path) -> None:
    model, tokenizer = _gpt2(tmp_path / "model")
    data = _texts(tmp_path / "texts.txt")
    calibration = _read(model, tokenizer, data)
    assert calibration.tokens == sum(len(batch.tokens) for batch in calibration.batches)
    assert 512 <= calibration.tokens < 512 + 64
    again, other = _read(model, tokenizer, data), _read(model, tokenizer, data, seed=1)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(calibration.batches, again.batches, strict=True))
    assert not torch.equal(calibration.batches[0].tokens, other.batches[0].tokens)
    store = prepare([data], tokenizer, tmp_path / "store", PrepareConfig(validation=0))
    of_store = _read(model, tokenizer, str(store.path))
    assert torch.equal(of_store.batches[0].tokens, calibration.batches[0].tokens)
    loss = calibration.loss(model, calibration.batches[0])
    loss.backward()
    assert loss.isfinite()
    assert model.embedding.get_parameter("word.weight").grad is not None
    assert calibration.mean_loss(model) == pytest.approx(float(loss.detach()), rel=0.2)


def test_another_tokenizer_and_too_little_text_are_refused(tmp_path: Path) -> None:
    model, tokenizer = _gpt2(tmp_path / "model")
    data = _texts(tmp_path / "texts.txt")
    store = prepare([data], word_tokenizer(), tmp_path / "store", PrepareConfig(validation=0))
    with pytest.raises(DataError, match="another tokenizer"):
        _read(model, tokenizer, str(store.path))
    with pytest.raises(DataError, match=r"at least 256 are needed"):
        _read(model, tokenizer, _texts(tmp_path / "short.txt", 2))


def test_an_encoder_without_objective_has_batches_and_no_loss(tmp_path: Path) -> None:
    save_bert(tmp_path / "model", word_tokenizer(), labels=["a", "b"], kind=_classifier())
    model, tokenizer = read_with_tokenizer(find_source(tmp_path / "model"), None)
    calibration = _read(model.eval(), tokenizer, _texts(tmp_path / "texts.txt"))
    assert calibration.objective is None
    assert calibration.batches[0].segments is not None
    with pytest.raises(UsageError, match="no loss"):
        calibration.loss(model, calibration.batches[0])
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "\n".join(f"{TEXTS[0]} {n},{'ab'[n % 2]}" for n in range(60)))
    labelled = _read(model, tokenizer, str(rows))
    assert labelled.loss(model, labelled.batches[0]).isfinite()


def _classifier() -> type:
    import transformers

    return transformers.BertForSequenceClassification


METHOD = """
    from pretune import config

    class Config(config.Config):
        factor: float = 0.5

    def needs(config):
        return ["calibration"]

    def apply(model, config, context):
        for number, block in enumerate(model.stack.blocks):
            block.feedforward.down.weight.data.mul_(config.factor)
            context.record(f"stack.blocks.{number}.feedforward.down", error=0.5)
        return model

    def acted(model):
        return %s
"""


def test_a_users_method_records_facts_and_must_act(tmp_path: Path) -> None:
    model, tokenizer = _gpt2(tmp_path / "model")
    for answer in ("['down']", "[]"):
        (tmp_path / f"mine{len(answer)}.py").write_text(textwrap.dedent(METHOD % answer))
    method = find_compression(str(tmp_path / "mine8.py"), {"factor": 0.25})
    context = CompressContext(tokenizer, Draw(0))
    with pytest.raises(UsageError, match="--calibration"):
        method.apply(model, context)
    context.calibration = _read(model, tokenizer, _texts(tmp_path / "texts.txt"))
    before = model.stack.get_parameter("blocks.0.feedforward.down.weight").detach().clone()
    method.apply(model, context)
    assert torch.equal(model.stack.get_parameter("blocks.0.feedforward.down.weight"), before * 0.25)
    assert context.facts["stack.blocks.1.feedforward.down"] == {"error": 0.5}
    with pytest.raises(UsageError, match="changed nothing"):
        find_compression(str(tmp_path / "mine2.py"), {}).apply(model, context)


def test_an_unknown_method_or_setting_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compress: no variant 'quantise'"):
        find_compression("quantise", {})
    (tmp_path / "mine.py").write_text(textwrap.dedent(METHOD % "[]"))
    with pytest.raises(UsageError, match="factor"):
        find_compression(str(tmp_path / "mine.py"), {"facto": 1})
