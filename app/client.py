"""A small client of the HTTP contract, for the command line and the demo."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

FINAL = frozenset({"succeeded", "failed", "cancelled"})
LATER = frozenset({429, 503})
"""Answers that say: try again."""


class ApiError(Exception):
    """An answer of 4xx or 5xx; the text is the problem's own detail, and where it lies in the request."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        told = response.headers.get("Retry-After", "")
        self.retry_after = int(told) if told.isdecimal() else 0  # seconds; a proxy may send a date
        try:
            problem: dict[str, Any] = response.json()
        except ValueError:
            problem = {"detail": response.text[:500]}
        lines = [str(problem.get("detail") or problem.get("title") or f"status {self.status}")]
        lines += [f"  {error['pointer']}: {error['detail']}" for error in problem.get("errors", [])]
        super().__init__("\n".join(lines))


class Client:
    """Speaks to one service; every method raises :class:`ApiError` for a refused request."""

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 60.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, timeout=timeout, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, *, params: Mapping[str, Any] | None = None) -> Any:
        return self._checked(self._http.get(path, params=params)).json()

    def content(self, path: str) -> bytes:
        return self._checked(self._http.get(path)).content

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None) -> Any:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._checked(self._http.post(path, json=body, headers=headers)).json()

    def upload(self, name: str, archive: Path) -> Any:
        """Register the data set in ``archive``, a zip or an npz file, under ``name``."""
        with archive.open("rb") as file:
            response = self._http.post("/datasets", data={"name": name}, files={"file": (archive.name, file)})
        return self._checked(response).json()

    def classify(self, images: Sequence[tuple[str, bytes]], *, model: str | None = None, top_k: int = 5) -> Any:
        """Predictions for named image files; ``model``: a reference such as ``name@2``; None: production."""
        files = [("images", (name, data)) for name, data in images]
        response = self._http.post(
            "/classify", params={"top_k": top_k} | ({"model": model} if model else {}), files=files
        )
        return self._checked(response).json()

    def follow(self, job_id: str, *, interval: float = 1.0) -> Iterator[dict[str, Any]]:
        """The job's state again and again until it is final; the last one yielded is the final one.

        A service that is too busy to answer is asked again when it says, however often.
        """
        while True:
            try:
                job = self.get(f"/jobs/{job_id}")
            except ApiError as error:
                if error.status not in LATER:
                    raise
                time.sleep(max(interval, error.retry_after))
                continue
            yield job
            if job["status"] in FINAL:
                return
            time.sleep(interval)

    def wait_until_ready(self, *, seconds: float) -> None:
        """Returns when ``/readyz`` says so; raises TimeoutError with what was missing."""
        deadline, missing = time.monotonic() + seconds, "no answer"
        while time.monotonic() < deadline:
            try:
                response = self._http.get("/readyz", timeout=5)
                if response.status_code == 200:
                    return
                missing = response.text
            except httpx.TransportError as error:
                missing = str(error)
            time.sleep(0.2)
        raise TimeoutError(f"the service was not ready after {seconds:.0f} s: {missing}")

    @staticmethod
    def _checked(response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise ApiError(response)
        return response
