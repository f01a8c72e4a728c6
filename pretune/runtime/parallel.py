"""Settings of parallel training, which are read without torch; `distributed.parallelize` obeys them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pretune.config import Config


class ParallelConfig(Config):
    """How the ranks of a run share its work.

    Attributes:
        strategy: `ddp` gives every rank the whole model, and sums gradients while the backward still runs.
        bucket_mb: gradients are summed in buckets of about this size, in MB.
    """

    strategy: Literal["ddp"] = "ddp"
    bucket_mb: float = Field(25.0, gt=0)
