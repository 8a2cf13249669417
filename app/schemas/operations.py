"""Answers of the operational routes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = Field("ok", description="always ok: an answer is the sign of life")


class Check(BaseModel):
    """One thing that the service needs."""

    ok: bool = Field(description="whether it is there")
    detail: str = Field(description="what was found, or what is missing")


class Readiness(BaseModel):
    """Whether the service can do its work."""

    status: Literal["ready", "not ready"] = Field(description="ready when every check is ok")
    detail: str = Field(description="names what is missing")
    checks: dict[str, Check] = Field(description="database, broker, storage, worker, models")


class Version(BaseModel):
    """What runs here."""

    version: str = Field(description="version of clead")
    python: str = Field(description="version of Python")
    torch: str = Field(description="version of PyTorch")
