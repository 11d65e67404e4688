"""Everything about when which message may be said: one table per role, and nothing else knows.

Run as a module it rewrites the picture of these tables in docs/protocol.md.
"""

from __future__ import annotations

import sys
from enum import Enum
from typing import Final

from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.transfer.message import Role, Type


class State(Enum):
    """Where a transfer stands."""

    START = "start"
    GREETED = "greeted"
    HEARD = "heard"
    OFFERING = "offering"
    SENDING = "sending"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"


class Way(Enum):
    """Which way a message goes, seen from here."""

    SENT = "sends"
    GOT = "gets"


Transitions = dict[State, dict[tuple[Way, Type], State]]

_S, _G = Way.SENT, Way.GOT
_ERRORS: Final = {(_S, Type.ERROR): State.FAILED, (_G, Type.ERROR): State.FAILED}


def _pings(state: State) -> dict[tuple[Way, Type], State]:
    return {(_S, Type.PING): state, (_G, Type.PING): state}


def _stays(state: State, way: Way, *types: Type) -> dict[tuple[Way, Type], State]:
    return {(way, kind): state for kind in types}


DATA: Final = (Type.BLOCK, Type.BATCH, Type.SAME, Type.HOLE, Type.PATCH, Type.PACKED)
_SENT_DATA: Final = (*DATA, Type.FILE_END, Type.LEFT_OUT)
_WANTED: Final = (Type.WANT, Type.HAVE, Type.INDEX, Type.PROGRESS, Type.LOST, Type.AGAIN)
# What is lost or damaged is sent again even when everything was sent.
# And what is here of a file that was left out may just be on its way.
_STILL_WANTED: Final = (Type.HAVE, Type.INDEX, Type.PROGRESS, Type.LOST, Type.AGAIN)

# Who dialed says HELLO first; each side says it once.
_HELLOS: Final[Transitions] = {
    State.START: {(_S, Type.HELLO): State.GREETED, (_G, Type.HELLO): State.HEARD, **_ERRORS},
    State.GREETED: {(_G, Type.HELLO): State.OFFERING, **_ERRORS},
    State.HEARD: {(_S, Type.HELLO): State.OFFERING, **_ERRORS},
}

TABLES: Final[dict[Role, Transitions]] = {
    Role.SENDER: {
        **_HELLOS,
        State.OFFERING: {
            **_stays(State.OFFERING, _S, Type.OFFER, *_SENT_DATA),
            **_stays(State.OFFERING, _G, *_WANTED),
            (_S, Type.OFFER_END): State.SENDING,
            (_G, Type.RECEIPT): State.DONE,  # of an attempt before, where both have concluded one
            **_pings(State.OFFERING),
            **_ERRORS,
        },
        State.SENDING: {
            **_stays(State.SENDING, _S, Type.OFFER, *_SENT_DATA),
            **_stays(State.SENDING, _G, *_WANTED),
            (_S, Type.FINISH): State.FINISHING,
            **_pings(State.SENDING),
            **_ERRORS,
        },
        State.FINISHING: {
            **_stays(State.FINISHING, _S, *DATA),
            **_stays(State.FINISHING, _G, *_STILL_WANTED),
            (_G, Type.RECEIPT): State.DONE,
            **_pings(State.FINISHING),
            **_ERRORS,
        },
        State.DONE: {(_S, Type.FINISH): State.DONE},  # again: the receipt was heard
        State.FAILED: {},
    },
    Role.RECEIVER: {
        **_HELLOS,
        State.OFFERING: {
            **_stays(State.OFFERING, _G, Type.OFFER, *_SENT_DATA),
            **_stays(State.OFFERING, _S, *_WANTED),
            (_G, Type.OFFER_END): State.SENDING,
            (_S, Type.RECEIPT): State.DONE,
            **_pings(State.OFFERING),
            **_ERRORS,
        },
        State.SENDING: {
            **_stays(State.SENDING, _G, Type.OFFER, *_SENT_DATA),
            **_stays(State.SENDING, _S, *_WANTED),
            (_G, Type.FINISH): State.FINISHING,
            **_pings(State.SENDING),
            **_ERRORS,
        },
        State.FINISHING: {
            **_stays(State.FINISHING, _G, *DATA),
            **_stays(State.FINISHING, _S, *_STILL_WANTED),
            (_S, Type.RECEIPT): State.DONE,
            **_pings(State.FINISHING),
            **_ERRORS,
        },
        # A sender may ping or fail until it has read the receipt, and says then that it has.
        State.DONE: {
            (_S, Type.PING): State.DONE,
            (_G, Type.FINISH): State.DONE,
            (_G, Type.PING): State.DONE,
            (_G, Type.ERROR): State.DONE,
        },
        State.FAILED: {},
    },
}


def step(role: Role, state: State, way: Way, kind: Type) -> State:
    """The state after `kind` was sent or got.

    Raises:
        LocalProtocolError: we must not send it now.
        RemoteProtocolError: the peer must not.
    """
    after = TABLES[role][state].get((way, kind))
    if after is not None:
        return after
    told = f"{kind.name} while {state.value}"
    if way is Way.SENT:
        raise LocalProtocolError(f"cannot send {told}")
    raise RemoteProtocolError(f"the peer sent {told}")


def picture() -> str:
    """The tables in Markdown: for each role and state what may be sent and got, and where it leads."""
    lines = []
    for role, table in TABLES.items():
        lines += [f"The {role.name.lower()}:", "", "| state | sends | gets |", "|---|---|---|"]
        for state, transitions in table.items():
            cells = [
                ", ".join(
                    kind.name if after is state else f"{kind.name} → {after.value}"
                    for (which, kind), after in transitions.items()
                    if which is way
                )
                for way in Way
            ]
            lines.append(f"| {state.value} | {cells[0] or '-'} | {cells[1] or '-'} |")
        lines.append("")
    return "\n".join(lines)


BEGIN: Final = "<!-- states: written by `python -m enchufe.transfer.states`, checked by a test -->\n"
END: Final = "<!-- /states -->"


def drawn_into(document: str) -> str:
    """`document` with the picture between its two marks brought up to date."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{picture()}{END}{after}"


if __name__ == "__main__":
    sys.stdout.write(drawn_into(sys.stdin.read()))
