"""What a compressed model is measured by: its weights, and its speed beside that of the model before."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pretune.compress.at_load import round_for_use
from pretune.errors import DataError
from pretune.evaluate.read import find_source, read_with_tokenizer
from pretune.train.compression.measure import count_weights
from pretune.train.compression.recipe import CompressRecipe
from pretune.train.compression.run import _speed
from tests.tinymodels import byte_tokenizer, save_gpt2


def test_rounded_matrices_count_as_what_they_stand_for(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "model", byte_tokenizer())
    model, tokenizer = read_with_tokenizer(find_source(tmp_path / "model"), None)
    before = count_weights(model)
    assert before == sum(parameter.numel() for parameter in model.parameters())
    assert count_weights(round_for_use(model, tokenizer, "int8")) == before


def test_why_the_speed_was_not_compared_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise DataError("a score of a token is not finite")

    save_gpt2(tmp_path / "model", byte_tokenizer())
    model, tokenizer = read_with_tokenizer(find_source(tmp_path / "model"), None)
    monkeypatch.setattr("pretune.train.compression.measure.generate", fail)
    recipe = CompressRecipe.model_validate(
        {"model": str(tmp_path / "model"), "compress": [{"method": "quantize"}], "output": "out"}
    )
    with caplog.at_level(logging.WARNING, "pretune"):
        assert _speed(recipe, model.eval(), tokenizer, half=False) is None
    assert "a score of a token is not finite" in caplog.text
