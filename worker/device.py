"""Whether the device of the settings is there. Asked in a process of its own: a worker's does without torch."""

from __future__ import annotations

import subprocess
import sys

from app.settings import DEVICE_ADVICE

ALWAYS_THERE = ("auto", "cpu")


def missing_device(wanted: str) -> str | None:
    """Why a worker cannot work with this device, in a line for its log; None if it can."""
    if wanted in ALWAYS_THERE:
        return None
    asked = subprocess.run([sys.executable, "-m", "worker.device", wanted], stderr=subprocess.PIPE, text=True)
    if asked.returncode == 0:
        return None
    last = asked.stderr.strip().splitlines()[-1:] or [f"looking for {wanted} ended with status {asked.returncode}"]
    return f"{last[0]}; {DEVICE_ADVICE}"


def main(wanted: str) -> None:
    """Ends with status 1, and the reason on stderr, where the device is not there."""
    from models.precision import DeviceError, pick_device

    try:
        pick_device(wanted)
    except DeviceError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
