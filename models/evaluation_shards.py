"""Evaluations in parts that are computed apart and merge exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.data.images import ImageSet
from models.evaluation import measure
from models.evaluation_evidence import Evidence
from models.evaluation_spec import EvaluationParams
from models.progress import Reporter
from models.resuming import Checkpointing
from models.specs import Spec

MAX_SHARDS = 1000


class Shard(Spec):
    """One of ``of`` shards: every ``of``-th image from position ``index`` on.

    A data set may be sorted by class, and classes differ in the work that they make: with a stride every shard has the
    same share of each, and takes about the same time.
    """

    index: int = Field(ge=0)
    of: int = Field(ge=1, le=MAX_SHARDS)

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.index >= self.of:
            raise ValueError(f"there is no shard {self.index} of {self.of}; the first is 0")
        return self

    def positions(self, total: int) -> Tensor:
        """Positions of its images among all ``total`` images of the evaluation, int64, ascending."""
        return torch.arange(self.index, total, self.of)


class ShardParams(EvaluationParams):
    """An evaluation and which of its shards to compute."""

    shard: Shard


def shard_count(images: int, shard_size: int | None) -> int:
    """Into how many shards an evaluation of so many images is cut; ``shard_size`` None: one."""
    return 1 if shard_size is None else min(MAX_SHARDS, math.ceil(images / shard_size))


def measure_shard(
    model: nn.Module,
    images: ImageSet,
    params: EvaluationParams,
    *,
    shard: Shard,
    reporter: Reporter,
    device: torch.device | str,
    sources: Mapping[str, nn.Module] | None = None,
    checkpointing: Checkpointing | None = None,
) -> Evidence:
    """:func:`models.evaluation.measure` on one shard of ``images``, which are all those of the evaluation."""
    ids, total = shard.positions(len(images)), len(images)
    return measure(
        model,
        images.take(ids),
        params,
        reporter=reporter,
        device=device,
        sources=sources,
        ids=ids,
        total=total,
        checkpointing=checkpointing,
    )
