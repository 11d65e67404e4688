"""A byte changed on its way: which one, what must hold whatever becomes of it, and the search through many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from enchufe import events
from enchufe.store.memory import MemoryStore
from tests.crash import everything
from tests.crash.wire import Harm, Outcome, attempt

TOGETHER: Final = 64

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Flip:
    """One byte of what a dialer says or hears, and who dials."""

    harm: Harm
    sender_dials: bool


def places(lengths: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bool, int]]:
    """Every byte of connections so long, there and back: the connection, whether there, and which byte."""
    for connection, crossed in enumerate(lengths):
        for outward, most in zip((True, False), crossed, strict=True):
            yield from ((connection, outward, at) for at in range(most))


def told(store: MemoryStore) -> object:
    return {path: (node.kind, bytes(node.data), node.mode, node.mtime_ns) for path, node in store.nodes.items()}


def ended(flip: Flip, sent: MemoryStore, first: Mapping[str, Any], again: Mapping[str, Any] | None) -> str:
    """How an attempt ended whose byte was changed, once all is found to be as it must.

    Args:
        first: of `attempt`, for the one that is harmed.
        again: the same, for another one after it, which nobody harms; None: there is none.
    """
    try:
        return _ended(flip, sent, first, again)
    except BaseException as error:
        error.add_note(f"{flip}")
        raise


def _ended(flip: Flip, sent: MemoryStore, first: Mapping[str, Any], again: Mapping[str, Any] | None) -> str:
    store, harm = MemoryStore(), flip.harm
    harmed = attempt(sent, store, harm, sender_dials=flip.sender_dials, **first)
    assert not harmed.stuck, "it hangs"
    done = isinstance(harmed.receiver, events.Receipt)
    assert done or not isinstance(harmed.sender, events.Receipt), "a receipt came from nowhere"
    if done:
        assert told(store) == told(sent), "what arrived is not what was sent"
        if not isinstance(harmed.sender, events.Receipt):
            return "receipt not believed"
        if not _reached(harm, harmed):
            return "not there"
        return "went another way" if harm.connection else "no harm"
    assert not store.nodes, "something half-done is visible"
    if again is not None:
        unharmed = attempt(sent, store, sender_dials=flip.sender_dials, epoch=2, **again)
        assert isinstance(unharmed.sender, events.Receipt), unharmed
        assert told(store) == told(sent)
    return "refused"


def _reached(harm: Harm, harmed: Outcome) -> bool:
    """Whether there was such a byte: no two signatures are equally long."""
    if harm.connection >= len(harmed.connections):
        return False
    return harm.at < len(harmed.connections[harm.connection][not harm.outward])


def counted(run: Callable[[P], Counter[str]], points: Iterable[P]) -> Counter[str]:
    """How some of them ended."""
    return sum(map(run, points), Counter[str]())


def search(about: str | None, points: Callable[[], list[P]], run: Callable[[P], Counter[str]]) -> None:
    """As `everything.search`, for those of one kind of exchange."""
    everything.search(
        about,
        lambda _: points(),
        partial(counted, run),
        "points: {}; nothing wrong was taken",
        default=2000,
        together=TOGETHER,
    )
