"""Places: what a path says of layer and role, and which places a pattern names."""

from __future__ import annotations

import pytest

from pretune.errors import UsageError
from pretune.places import Place, PlacePattern


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("stack.blocks.2.attention.query", Place("", "stack.", 2, "attention.query")),
        ("encoder.stack.blocks.11.norm.weight", Place("encoder.", "encoder.stack.", 11, "norm.weight")),
        ("blocks.0.up", Place("", "", 0, "up")),
        ("a.b.blocks.0.up", Place("a.b.", "a.b.", 0, "up")),
        ("mystack.blocks.0.blocks.1.up", Place("mystack.", "mystack.", 0, "blocks.1.up")),
        ("heads.mlm.bias", Place("", "", None, "heads.mlm.bias")),
        ("stack.blocks.0", Place("", "", None, "stack.blocks.0")),
        ("roadblocks.0.up", Place("", "", None, "roadblocks.0.up")),
    ],
)
def test_what_a_path_says(path: str, place: Place) -> None:
    assert Place.of(path) == place


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("attention", [0, 1, 2]),
        ("query", [0, 1, 2]),
        ("attention.query", [0, 1, 2]),
        ("quer", []),
        ("layers", [0, 1, 2]),
        ("layers[1:]", [1, 2]),
        ("layers[-1:].attention", [2]),
        ("layers[:-1].query", [0, 1]),
        ("layers[7:].query", []),
        ("layers[0:1].up", []),
    ],
)
def test_which_layers_a_pattern_names(pattern: str, layers: list[int]) -> None:
    parsed = PlacePattern.parse(pattern, "places")
    assert [layer for layer in range(3) if parsed.matches("attention.query", layer, 3)] == layers


def test_what_is_in_no_layer_is_named_by_its_role_alone() -> None:
    assert PlacePattern.parse("head", "places").matches("heads.mlm.transform", None, 0)
    assert PlacePattern.parse("head.mlm", "places").matches("heads.mlm.transform", None, 0)
    assert not PlacePattern.parse("head", "places").matches("ahead.mlm", None, 0)
    assert not PlacePattern.parse("layers[0:2]", "places").matches("heads.mlm", None, 0)
    assert PlacePattern.parse("encoder", "places").matches("query", 0, 3, "encoder.stack.blocks.0.query")
    assert not PlacePattern.parse("layers.encoder", "places").matches("query", 0, 3, "encoder.stack.blocks.0.query")


@pytest.mark.parametrize("pattern", ["", "layers[x:2].up", "layers[0:2", "layers[1]", "a b", "query*"])
def test_a_text_that_is_no_pattern(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"places: .*names no place; write one such as heads, layers\[0:2\] or layers"):
        PlacePattern.parse(pattern, "places")
