"""Named entries (attacks, methods, backbones, data sets): one file each, found by importing their package."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(LookupError):
    """A name that no entry of the registry carries; the message lists those that are."""


class Registry(Generic[T]):
    """Entries of one kind by name.

    A new entry is one new file in ``package`` that calls :meth:`add` at import; nothing else has to know of it.
    """

    def __init__(self, kind: str, *, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._discovered = False
        self._discovering = threading.RLock()
        self._importing = False

    def add(self, name: str, entry: T) -> T:
        """Register ``entry``; a name can be taken once (ValueError)."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        """The entry called ``name``; raises :class:`UnknownNameError`."""
        self._discover()
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(f"unknown {self.kind} {name!r}; known: {', '.join(self)}") from None

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Names in alphabetical order, so that listings do not depend on the order of imports."""
        self._discover()
        return iter(sorted(self._entries))

    def entries(self) -> list[T]:
        return [self._entries[name] for name in self]

    def _discover(self) -> None:
        """Import every file of the package, once; another thread waits until all entries are there."""
        if self._discovered:
            return
        with self._discovering:
            if self._discovered or self._importing:
                return  # while it is being imported, a file of the package sees what is there so far
            self._importing = True
            try:
                package = importlib.import_module(self._package)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self._package}.{module.name}")
            finally:
                self._importing = False
            self._discovered = True
