"""Every state x every message x both ways, against the table; and the picture in the document."""

from __future__ import annotations

from pathlib import Path

import pytest

from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.transfer.messages import Role, Type
from enchufe.transfer.states import TABLES, State, Way, drawn_into, step

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "protocol.md"


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("kind", Type)
def test_a_step_is_in_the_table_or_somebodys_fault(role: Role, state: State, way: Way, kind: Type) -> None:
    after = TABLES[role][state].get((way, kind))
    if after is not None:
        assert step(role, state, way, kind) is after
        return
    fault = LocalProtocolError if way is Way.SENT else RemoteProtocolError
    with pytest.raises(fault, match=f"{kind.name} while {state.value}"):
        step(role, state, way, kind)


def test_what_one_side_may_send_the_other_may_get() -> None:
    mirror = {Way.SENT: Way.GOT, Way.GOT: Way.SENT}
    for state in (State.OFFERING, State.SENDING, State.FINISHING):
        sender = dict(TABLES[Role.SENDER][state])
        receiver = {(mirror[way], kind): after for (way, kind), after in TABLES[Role.RECEIVER][state].items()}
        assert sender == receiver, state


def test_every_state_can_be_reached_and_left_for_done_or_failed() -> None:
    for table in TABLES.values():
        reached, fresh = {State.START}, {State.START}
        while fresh:
            fresh = {after for state in fresh for after in table[state].values()} - reached
            reached |= fresh
        assert reached == set(State)


def test_the_document_shows_the_tables_as_they_are() -> None:
    document = DOCUMENT.read_text()
    assert drawn_into(document) == document, "run: python -m enchufe.transfer.states <docs/protocol.md"
