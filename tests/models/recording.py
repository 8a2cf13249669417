"""A reporter that keeps everything it is told and can ask to stop."""

from pathlib import Path


class Recorder:
    """Asks to stop once ``stop_after`` steps are done (null: never)."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.done = 0
        self.total = 0
        self.stages: set[str] = set()
        self.series: dict[str, dict[int, float]] = {}
        self.checkpoints: list[tuple[Path, int]] = []

    def progress(self, done: int, total: int, *, unit: str, stage: str) -> None:
        assert unit == "step"
        self.done, self.total = done, total
        self.stages.add(stage)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.series.setdefault(name, {})[step] = value

    def checkpoint(self, path: Path, step: int) -> None:
        self.checkpoints.append((path, step))

    def should_stop(self) -> bool:
        return self.stop_after is not None and self.done >= self.stop_after
