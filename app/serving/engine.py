"""Model versions in memory, ready to answer: loaded once, checked, warm, the least recently used one dropped."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from app.errors import ConflictError, NotFoundError, UnavailableError
from app.folders import work_folder
from app.records import ModelVersion
from app.serving.batcher import Batcher, Forward
from app.serving.decode import ImageLimits, supported_channels
from app.serving.metrics import InferenceMetrics
from app.settings import Settings
from app.storage import CorruptArtifactError, Storage
from models.checkpoints import CheckpointError, load_model
from models.networks import Classifier, ImageModel
from models.precision import pick_device
from models.specs import ModelCard

MODELS_IN_MEMORY = 4
"""Versions kept loaded; enough for production, the version that replaces it, and two being tried."""
LOAD_THREADS = 2
"""Versions loaded at one time; further ones wait for their turn."""
DECODE_THREADS = 4
"""Pictures decoded at one time; with the limit on pixels this bounds the memory that decoding takes."""
WRITE_THREADS = 2
"""Answers written at one time; one of many images and classes takes seconds."""

Output = Literal["logits", "features"]
_Key = tuple[str, str]


@dataclass(frozen=True)
class Served:
    """A loaded model version. ``card`` tells its classes and the images that it takes."""

    reference: str
    card: ModelCard
    model: ImageModel

    def rows(self, output: Output) -> Forward:
        """uint8 images (N, C, H, W) → float32 logits (N, K) or features (N, D), in evaluation mode.

        Raises ConflictError for the logits of an encoder.
        """
        if output == "logits" and not isinstance(self.model, Classifier):
            raise ConflictError(
                f"{self.reference} is an encoder and has no classes; POST /jobs/probe makes a classifier of it, "
                "POST /embed answers its features"
            )
        compute = self.model if output == "logits" else self.model.features
        device = next(self.model.parameters()).device

        @torch.inference_mode()
        def forward(images: Tensor) -> Tensor:
            rows: Tensor = compute(images.to(device).float() / 255)
            return rows.float().cpu()

        return forward


class Engine:
    """Serves model versions on one device. Threads may share it. Raises DeviceError where it is not there."""

    def __init__(self, settings: Settings, storage: Storage, *, metrics: InferenceMetrics | None = None) -> None:
        self.metrics = metrics or InferenceMetrics()
        self._storage = storage
        self._work_dir = settings.work_dir
        self._device = pick_device(settings.device)
        self._lock = threading.Lock()
        self._served: OrderedDict[_Key, Served] = OrderedDict()
        self._loading: dict[_Key, Future[Served]] = {}
        self._proven: set[_Key] = set()
        self._loaders = ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="load")
        self.limits = ImageLimits(max_bytes=settings.image_max_bytes, max_pixels=settings.image_max_pixels)
        self.decoders = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")
        self.writers = ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="write")
        self.request_max_places = max(settings.queue_max_images, settings.image_max_count)
        self.batcher = Batcher(
            max_images=settings.batch_max_images,
            queue_max_images=settings.queue_max_images,
            wait_seconds=settings.batch_wait_ms / 1000,
            metrics=self.metrics,
        )

    def get(self, version: ModelVersion) -> Served:
        """The version, loaded and warm; waits while it loads, which never disturbs those already in memory.

        Raises UnavailableError when its weights are missing or damaged.
        """
        return self._load(version).result()

    async def wait_for(self, version: ModelVersion) -> Served:
        """:meth:`get` for the event loop: who waits holds no thread."""
        loading = self._load(version)
        if loading.done():
            return loading.result()
        return await asyncio.shield(asyncio.wrap_future(loading))  # others may wait for the same

    def has_loaded(self, version: ModelVersion) -> bool:
        """Whether the version was loaded by this process before, be it in memory still or not."""
        with self._lock:
            return _key(version) in self._proven

    @property
    def loaded(self) -> list[str]:
        """References of the versions in memory."""
        with self._lock:
            return [reference for reference, _ in self._served]

    def close(self) -> None:
        self._loaders.shutdown(cancel_futures=True)
        self.batcher.close()
        self.decoders.shutdown()
        self.writers.shutdown()

    def _load(self, version: ModelVersion) -> Future[Served]:
        key = _key(version)
        with self._lock:
            if key in self._served:
                self._served.move_to_end(key)
                found: Future[Served] = Future()
                found.set_result(self._served[key])
                return found
            if key not in self._loading:
                self._loading[key] = self._loaders.submit(self._keep, version)
            return self._loading[key]

    def _keep(self, version: ModelVersion) -> Served:
        key = _key(version)
        try:
            served = self._read(version)
        except BaseException:
            with self._lock:
                del self._loading[key]  # the next request tries again; those that wait now learn why
            raise
        with self._lock:
            del self._loading[key]
            self._proven.add(key)
            self._served[key] = served
            while len(self._served) > MODELS_IN_MEMORY:
                self._served.popitem(last=False)
        return served

    def _read(self, version: ModelVersion) -> Served:
        card = ModelCard.model_validate(version.card)
        if not supported_channels(card.image_shape[0]):
            raise ConflictError(
                f"{version.reference} takes images of {card.image_shape[0]} channels; picture files have 1 or 3"
            )
        try:
            with work_folder(self._work_dir, "model") as folder:
                path = self._storage.fetch(version.sha256, folder / "weights.safetensors")
                model = load_model(path, card=card)
        except (NotFoundError, CorruptArtifactError, CheckpointError, OSError) as error:
            raise UnavailableError(f"the weights of {version.reference} cannot be loaded: {error}") from error
        model = model.to(self._device).eval().requires_grad_(False)
        served = Served(version.reference, card, model)
        served.rows("features")(torch.zeros((1, *card.image_shape), dtype=torch.uint8))
        return served


def _key(version: ModelVersion) -> _Key:
    return version.reference, version.sha256
