"""Options that several benchmarks take."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable


def among(known: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes names of ``known`` with commas between them."""
    names = list(known)

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in names]:
            raise ArgumentTypeError(f"takes {', '.join(names)}, not {', '.join(map(repr, unknown))}")
        return chosen

    return parse
