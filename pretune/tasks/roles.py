"""Semantic roles: who did what to whom, as predicates and their arguments.

    {"text": "Bush nominated two men.", "spans": [{"start": 5, "end": 14, "label": "predicate"},
     {"start": 0, "end": 4, "label": "argument"}], "links": [{"head": 0, "tail": 1, "label": "ARG0"}]}

A span may be an argument of several predicates, and lie inside of another; both are found as in extraction. With
`given` predicates stand in the records, in prediction too, as in the shared tasks of CoNLL.

Scores are strict: an argument counts (`argument_f1`) where its both ends, its role and its predicate are right;
`argument_place_f1` does not look at roles, `predicate_f1` counts predicates.

Source: Carreras and Marquez 2005 (W05-0620) for the scores; Akbik et al. 2015 (P15-1039) for the data; the method is
that of `extraction`.
"""

from __future__ import annotations

from typing import ClassVar

from pretune.tasks.frames import Frames


class Roles(Frames):
    """Predicates and their arguments."""

    name: ClassVar[str] = "roles"
    role: ClassVar[str] = "roles"
    evoker: ClassVar[str] = "predicate"
