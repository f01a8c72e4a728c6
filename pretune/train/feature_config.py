"""Settings of what a run keeps of layers that do not learn; read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pretune.config import Config

Use = Literal["auto", "always", "never"]


class FeatureConfig(Config):
    """What is computed below the first layer that learns, kept in the run directory until the run ends.

    Attributes:
        cache: `auto` computes it once a sample where that saves time: some layers below all that learn, more passes
            than one, the same tokens in each, and room on the disk; `always` refuses a run in which it cannot; `never`
            computes it each time. Results are the same.
        gigabytes: that it may need, over all ranks; by default half of what is free on the disk.
    """

    cache: Use = "auto"
    gigabytes: float | None = Field(None, gt=0, allow_inf_nan=False)
