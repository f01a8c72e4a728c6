"""Protocols find their instances as those of `typing` do, in a fraction of the time."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import pytest
from torch import nn

from pretune.models import build
from pretune.nn.projection import JoiningBrick, Projection, ProjectionBrick
from pretune.nn.quick_protocol import QuickProtocolMeta
from pretune.nn.vocabulary import PackedTable, VocabularyBrick


@runtime_checkable
class Named(Protocol, metaclass=QuickProtocolMeta):
    name: str

    def greet(self) -> str: ...


@runtime_checkable
class Aged(Named, Protocol):
    @property
    def age(self) -> int: ...


class Base:
    def greet(self) -> str:
        return "hello"


class Derived(Named):
    pass


def person(**members: Any) -> object:
    return type("Person", (Base,), members)()


@pytest.mark.parametrize(
    ("value", "named", "aged"),
    [
        (person(name="a", age=1), True, True),
        (person(name="a"), True, False),
        (person(age=1), False, False),
        (type("Own", (Derived,), {})(), True, False),
        (object(), False, False),
    ],
)
def test_an_instance_has_every_member(value: object, named: bool, aged: bool) -> None:
    assert isinstance(value, Named) == named
    assert isinstance(value, Aged) == aged
    assert isinstance(value, Derived) == (Derived in type(value).__mro__)


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_modules_are_told_apart_as_by_typing(family: str) -> None:
    bricks = dict.fromkeys((ProjectionBrick, JoiningBrick, VocabularyBrick, PackedTable), 0)
    for module in (*build(family, "tiny", ["mlm"] if family == "bert" else ["clm"]).modules(), nn.Linear(2, 2)):
        for kind in bricks:
            is_one = type(Protocol).__instancecheck__(kind, module)
            assert isinstance(module, kind) == is_one
            bricks[kind] += is_one
    assert bricks[ProjectionBrick] > 10
    assert bricks[VocabularyBrick] > 0
    assert not isinstance(nn.Linear(2, 2), ProjectionBrick)
    assert isinstance(Projection(2, 2), ProjectionBrick)
