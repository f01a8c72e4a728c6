"""Settings of parallel training, which are read without torch; `distributed.parallelize` obeys them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pretune.config import Config


class ParallelConfig(Config):
    """How the ranks of a run share its work.

    Attributes:
        strategy: `ddp` replicates the model on every rank and reduces gradients while the backward pass still runs.
        bucket_mb: size of the buckets in which gradients are reduced, in MB.
    """

    strategy: Literal["ddp"] = "ddp"
    bucket_mb: float = Field(25.0, gt=0)
