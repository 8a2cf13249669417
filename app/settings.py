"""Every option of the service, read from ``CLEAD_*`` environment variables. Passed around, never a global."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from app.cores import torch_threads
from app.redaction import Redactor, url_password

MIB = 1024 * 1024
DEVICE_ADVICE = "set CLEAD_DEVICE to auto, cpu or cuda:N"


class Settings(BaseSettings):
    """The options. The three URLs default to files below ``home``, so that nothing else has to run.

    Sizes are in bytes, durations in seconds unless the name says ``_ms``.
    """

    # An error must not repeat what was given: it may be a password.
    model_config = SettingsConfigDict(
        env_prefix="CLEAD_",
        env_ignore_empty=True,
        extra="ignore",
        validate_default=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(Path(".clead"), description="data folder: database, broker, artifacts, caches")
    database_url: str = Field("", description="SQLAlchemy URL; default: SQLite below home")
    broker_url: str = Field("", description="Celery broker URL; default: a folder below home")
    storage_url: str = Field("", description="fsspec URL of the artifacts; default: a folder below home")

    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8000, ge=0, le=65535, description="port that the API listens on; 0: any free one")
    secret_key: SecretStr = Field(
        SecretStr(""), description="key under which tokens are hashed; default: the file secret.key below home"
    )
    secrets_dir: Path | None = Field(
        None, description="folder of files, each named like a variable here, for what no environment should show"
    )
    alive_file: Path | None = Field(
        None,
        description="file that a worker and the reaper touch after every look into the database; for health checks",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="of a log line; auto: text on a terminal and under `clead serve`, else json"
    )
    metrics_host: str = Field("127.0.0.1", description="address of a worker's own metrics")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of a worker's own metrics; 0: none")

    lease_seconds: float = Field(30.0, gt=0, le=86400, description="a worker silent for this long loses its job")
    heartbeat_seconds: float = Field(1.0, gt=0, le=3600, description="how often a worker renews its lease")
    reaper_seconds: float = Field(5.0, gt=0, le=3600, description="how often a worker shows itself and looks for jobs")
    checkpoint_seconds: float = Field(30.0, ge=0, le=86400, description="time between resume checkpoints")
    stop_seconds: float = Field(30.0, gt=0, le=3600, description="grace for a job to save itself before a kill")
    max_attempts: int = Field(3, ge=1, le=1000, description="deaths without a new checkpoint before a job fails")
    job_memory_bytes: int = Field(
        0, ge=0, description="most memory of its own that a job's process may take; 0: as much as there is (Linux)"
    )
    device: str = Field("auto", max_length=50, description='torch device of workers and API: "auto", "cpu", "cuda:0"')

    threads: int = Field(0, ge=0, le=1024, description="torch threads of a process; 0: all cores but one")

    token_requests_per_minute: int = Field(6000, ge=0, description="of one account at one API process; 0: no limit")
    token_unfinished_jobs: int = Field(1000, ge=0, description="queued or running jobs of one account; 0: no limit")
    token_stored_bytes: int = Field(
        100 * 1024 * MIB, ge=0, description="data sets, weights and checkpoints of one account; 0: no limit"
    )

    upload_max_bytes: int = Field(2048 * MIB, ge=1, description="largest upload of a data set or of weights")
    image_max_bytes: int = Field(20 * MIB, ge=1, description="largest single image sent to /classify")
    image_max_pixels: int = Field(50_000_000, ge=1, description="largest width × height of an image")
    image_max_count: int = Field(256, ge=1, le=10_000, description="most images in one request")
    queue_max_images: int = Field(
        1024, ge=1, description="images that may wait for inference; above 3 × 224 × 224 values one counts as several"
    )
    batch_max_images: int = Field(64, ge=1, description="most images in one forward pass, counted in the same way")
    batch_wait_ms: float = Field(4.0, ge=0, le=10_000, description="longest wait for a batch to fill")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Files of ``CLEAD_SECRETS_DIR`` (``clead_database_url``, …) after arguments and the environment."""
        folder = os.environ.get("CLEAD_SECRETS_DIR")
        if not folder or not Path(folder).is_dir():
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)

    @model_validator(mode="before")
    @classmethod
    def _fill_urls(cls, values: dict[str, object]) -> dict[str, object]:
        """Derive the URLs that are not given from ``home``, which is made absolute."""
        home = Path(str(values.get("home") or ".clead")).expanduser().resolve()
        defaults = {
            "database_url": f"sqlite:///{home / 'clead.db'}",
            "broker_url": f"filesystem://{home / 'broker'}",
            "storage_url": f"file://{home / 'storage'}",
        }
        given = {name: value for name, value in values.items() if value not in ("", None)}
        return {**defaults, **given, "home": home}

    @field_validator("secrets_dir")
    @classmethod
    def _check_secrets(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder} is no folder")  # the default for SQLite would lie
        return folder

    @model_validator(mode="after")
    def _check_lease(self) -> Settings:
        needed = "CLEAD_LEASE_SECONDS must be at least twice"
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(f"{needed} CLEAD_HEARTBEAT_SECONDS: a late beat loses the job")
        if self.reaper_seconds * 2 > self.lease_seconds:
            raise ValueError(f"{needed} CLEAD_REAPER_SECONDS: a worker is taken for gone that looks late")
        return self

    def described(self) -> list[tuple[str, str, str, str]]:
        """Environment variable, value, default and meaning of every option; passwords in URLs are masked."""
        rows = []
        redact = Redactor(self.secrets)
        for name, field in type(self).model_fields.items():
            default = "below home" if name.endswith("_url") or name == "secret_key" else str(field.default)
            value = redact(str(getattr(self, name)))
            rows.append((f"CLEAD_{name.upper()}", value, default, field.description or ""))
        return rows

    @property
    def secrets(self) -> list[str]:
        """What no log line may hold: the passwords in the URLs, and the key of the tokens."""
        urls = (self.database_url, self.broker_url, self.storage_url)
        found = [*map(url_password, urls), self.secret_key.get_secret_value()]
        return [secret for secret in found if secret]

    @property
    def torch_threads(self) -> int:
        """Threads of one process's torch."""
        return torch_threads(self.threads)

    @property
    def data_cache(self) -> Path:
        """Where a worker keeps downloaded and uploaded data sets."""
        return self.home / "data"

    @property
    def arriving_dir(self) -> Path:
        """Files on their way into :attr:`data_cache`, on the disk where they are to lie."""
        return self.data_cache / "arriving"

    @property
    def work_dir(self) -> Path:
        """Files of the jobs that run now, of uploads and of weights that are read; none is needed after a restart."""
        return self.home / "work"


def secret_files() -> set[str]:
    """The settings for which `CLEAD_SECRETS_DIR` has a file."""
    folder = os.environ.get("CLEAD_SECRETS_DIR")
    there = {path.name.lower() for path in Path(folder).iterdir()} if folder and Path(folder).is_dir() else set()
    return {name for name in Settings.model_fields if f"clead_{name}" in there}


def faults(error: ValidationError) -> list[str]:
    """What is wrong with which variable; never what was given, which may be a password."""
    found = []
    for item in error.errors(include_input=False, include_url=False):
        message = item["msg"].removeprefix("Value error, ")
        found.append(": ".join([*(f"CLEAD_{name}".upper() for name in item["loc"]), message]))
    return found


def settings_or_exit(**given: Any) -> Settings:
    """The settings of a command; where one is wrong, the process ends with status 2 and says which."""
    try:
        return Settings(**given)
    except ValidationError as error:
        for fault in faults(error):
            print(f"error: {fault}", file=sys.stderr)
        raise SystemExit(2) from None
