"""Names of weights: those of a published implementation, and how they become ours.

Ours are ``backbone.…`` and ``head.…``. A published file has its own names for both, often behind the prefix of a
wrapper (``module.`` of DataParallel). The translation is fixed by the file's keys alone and can be read backwards, so
that errors speak of the names that the file has.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

BACKBONE, HEAD = "backbone.", "head."
WRAPPERS = ("module.", "model.", "_orig_mod.", "1.")
"""DataParallel; an attribute that holds the network; torch.compile; ``Sequential(normalization, network)``."""
NORMALIZATION = frozenset({"mean", "std", "mu", "sigma"})
"""Last parts of the names of normalization buffers; the card holds their values."""


class AmbiguousLayoutError(ValueError):
    """A file that can be read in more than one way."""


@dataclass(frozen=True)
class PublishedLayout:
    """How a published implementation names what our backbone and head hold.

    ``heads``: names of the linear classifier, of which a file has one; ``renames``: (their prefix, ours inside the
    backbone), the first that fits counts, and other names are kept; ``unused``: prefixes of weights that the published
    network carries without ever using them.
    """

    heads: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Naming:
    """The names of one file. ``pairs``: (their prefix after the wrapper, ours), the first that fits counts."""

    wrapper: str = ""
    pairs: tuple[tuple[str, str], ...] = (("", ""),)
    unused: tuple[str, ...] = ()

    def ours(self, key: str) -> str | None:
        """Our name of the file's ``key``; None for one that the wrapper does not hold."""
        if not key.startswith(self.wrapper):
            return None
        name = key.removeprefix(self.wrapper)
        theirs, ours = next(pair for pair in self.pairs if name.startswith(pair[0]))
        return ours + name.removeprefix(theirs)

    def theirs(self, name: str) -> str:
        """The file's name for our ``name``."""
        theirs, ours = next(pair for pair in self.pairs if name.startswith(pair[1]))
        return self.wrapper + theirs + name.removeprefix(ours)

    def drops(self, key: str) -> bool:
        """Whether the file's ``key`` is one that the published network never uses."""
        return key.startswith(self.wrapper) and key.removeprefix(self.wrapper).startswith(self.unused)


def is_normalization(key: str) -> bool:
    return key.rpartition(".")[2] in NORMALIZATION


def naming_of(keys: Collection[str], layout: PublishedLayout, *, with_head: bool) -> Naming:
    """How a file with these keys names the weights of a backbone whose published names are ``layout``.

    A file with any ``backbone.`` is in our names, every other one in the published ones. ``with_head``: the card is a
    classifier's. Raises :class:`AmbiguousLayoutError` for a file with two classifiers.
    """
    wrapper = _wrapper_of([key for key in keys if not is_normalization(key)])
    names = [key.removeprefix(wrapper) for key in keys if key.startswith(wrapper)]
    if any(name.startswith(BACKBONE) for name in names):
        return Naming(wrapper)
    inside = (*layout.renames, ("", ""))
    pairs = [(theirs, BACKBONE + ours) for theirs, ours in inside]
    if with_head:
        pairs.insert(0, (_head_of(names, layout) + ".", HEAD))
    return Naming(wrapper, tuple(pairs), layout.unused)


def _wrapper_of(keys: Collection[str]) -> str:
    """The prefix of wrappers that all keys share."""
    found = ""
    while True:
        inner = next((one for one in WRAPPERS if keys and all(key.startswith(found + one) for key in keys)), None)
        if inner is None:
            return found
        found += inner


def _head_of(names: Collection[str], layout: PublishedLayout) -> str:
    present = [head for head in layout.heads if any(name.startswith(f"{head}.") for name in names)]
    if len(present) > 1:
        raise AmbiguousLayoutError(f"there are two classifiers in it, {' and '.join(present)}; leave one out")
    return present[0] if present else layout.heads[0]
