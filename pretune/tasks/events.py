"""Events: triggers with the type of their event, and arguments with the role that they play in it.

    {"text": "Hackers stole 3 million records.", "spans": [{"start": 8, "end": 13, "label": "Attack"},
     {"start": 0, "end": 7, "label": "Person"}], "links": [{"head": 0, "tail": 1, "label": "Attacker"}]}

A trigger is a span from which links go to the arguments of its event; spans and links are found as in extraction.

Scores are strict: an argument counts (`argument_f1`) where its both ends, its role, and both ends and the type of its
trigger are right; `argument_place_f1` does not look at roles, `trigger_f1` counts triggers with their types.

Source: ACE 2005 for the form; Satyapanich et al. 2020, CASIE (AAAI); the method is that of `extraction`.
"""

from __future__ import annotations

from typing import ClassVar

from pretune.tasks.frames import Frames


class Events(Frames):
    """Triggers of events and their arguments."""

    name: ClassVar[str] = "events"
    role: ClassVar[str] = "events"
    evoker: ClassVar[str] = "trigger"
