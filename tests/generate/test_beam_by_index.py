"""Beams go on from each other by numbers of pages: no step copies the cache, and texts are those of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from programinterpreter import Interpreter
from test_every_family import CASES, make, prompts, reference
from tinymodels import byte_tokenizer

from pretune import native
from pretune.generate.generate import generate
from pretune.generate.options import GenerateConfig
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.native.cache import PAGE, PagedCache


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.available():
        monkeypatch.setattr(native, "available", lambda: True)
        monkeypatch.setattr(native, "Executor", Interpreter)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, LanguageModel]:
    return make(request.param, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("beams", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_beams_are_those_of_transformers_and_copy_a_page_at_most(
    pair: tuple[object, LanguageModel], beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, model = pair
    used: list[tuple[int, int]] = []
    select = PagedCache.select

    def watched(cache: PagedCache, slots: list[int], rows: list[int]) -> list[int]:
        before = cache.pages
        out = select(cache, slots, rows)
        assert cache.pages <= before, "a reordering takes no page"
        used.append((cache.pages, sum(-(-cache.lengths[slot] // PAGE) for slot in out)))
        return out

    monkeypatch.setattr(PagedCache, "select", watched)
    config = GenerateConfig(max_new_tokens=12, beams=beams)
    actual = [one.tokens for one in generate(fuse(model), byte_tokenizer(), prompts(), config)]
    assert actual == reference(theirs, prompts(), num_beams=beams)
    assert any(pages < alone for pages, alone in used), "the control: beams do share pages"


def test_a_long_prompt_is_held_once() -> None:
    torch.manual_seed(0)
    model = fuse(build_tiny())
    run = np.random.default_rng(0).integers(1, 200, 40)
    caches = []
    make_cache = PagedCache.__init__

    def kept(cache: PagedCache, *args: object) -> None:
        caches.append(cache)
        make_cache(cache, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PagedCache, "__init__", kept)
        generate(model, byte_tokenizer(), [run], GenerateConfig(max_new_tokens=8, beams=4))
    (cache,) = caches
    assert cache.pages <= 2 + 4 * 2, "two full pages of the prompt, and what the beams wrote"


def build_tiny() -> LanguageModel:
    from pretune.models import build

    return build("gpt2", "tiny", ["clm"], overrides={"vocab_size": 300}).eval()
