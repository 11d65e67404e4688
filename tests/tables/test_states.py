"""Every state x every message x both ways, against the table; and the picture in the document."""

from __future__ import annotations

from pathlib import Path

import pytest

from enchufe.buffer import Buffer
from enchufe.entry import NO_PARENT, Answer, Entry, Kind, Reason
from enchufe.errors import EnchufeError, LocalProtocolError, RemoteProtocolError
from enchufe.transfer import messages as m
from enchufe.transfer.data import Batch, Block, Hole, Packed, Patch, Same
from enchufe.transfer.going import Going
from enchufe.transfer.machine import Machine
from enchufe.transfer.message import Message, Role, Type
from enchufe.transfer.offers import Offer
from enchufe.transfer.patches import PIECE_SIZE, RECORD_SIZE
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from enchufe.transfer.states import DATA, TABLES, State, Way, drawn_into, step

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


# The machines themselves, in every state: what the table forbids is neither said nor heard.

MESSAGES: dict[Type, Message] = {
    Type.HELLO: m.Hello(Role.SENDER, window=1),
    Type.OFFER: Offer([Entry(0, NO_PARENT, b"f", Kind.FILE)]),
    Type.OFFER_END: m.OfferEnd(0, 0, 0),
    Type.WANT: m.Want([(0, 1, Answer.ALL)]),
    Type.BLOCK: Block(0, 0, bytes(32), b"x"),
    Type.BATCH: Batch([(0, bytes(32), b"x")]),
    Type.FILE_END: m.FileEnd(0, 0, bytes(32)),
    Type.LEFT_OUT: m.LeftOut(0, Reason.CHANGED),
    Type.PROGRESS: m.Progress(0, 0, []),
    Type.FINISH: m.Finish(bytes(32)),
    Type.RECEIPT: m.Receipt(0, 0, bytes(32)),
    Type.PING: m.Ping(),
    Type.ERROR: m.Error(m.Code.INTERNAL, ""),
    Type.HAVE: m.Have(0, 0, True, b""),
    Type.SAME: Same(0, 0, 1),
    Type.HOLE: Hole(0, 0, 1),
    Type.LOST: m.Lost(1, 0),
    Type.AGAIN: m.Again(0, 0, 1),
    Type.PACKED: Packed(Type.BLOCK, 1, b"x"),
    Type.INDEX: m.Index(0, PIECE_SIZE, bytes(RECORD_SIZE)),
    Type.PATCH: Patch(0, 0, bytes(32), [(1, 0)], b""),
}


def machine(role: Role, state: State) -> Machine:
    made: Machine = Sender() if role is Role.SENDER else Receiver()
    made.state = state
    return made


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", Type)
def test_a_machine_hears_what_its_table_allows(role: Role, state: State, kind: Type) -> None:
    hearing = machine(role, state)
    message = MESSAGES[kind]
    if isinstance(message, m.Hello):
        message = m.Hello(Role.RECEIVER if role is Role.SENDER else Role.SENDER, window=1)
    hearing.receive_data(b"".join(m.frame(message)))
    after = TABLES[role][state].get((Way.GOT, kind))
    if after is None:
        with pytest.raises(RemoteProtocolError, match=f"{kind.name} while {state.value}"):
            hearing.next_event()
        assert hearing.state is state
        return
    try:
        heard = hearing.next_event()
        assert heard == (None if kind is Type.PING else message)
    except EnchufeError as error:
        assert "while" not in str(error)  # the books may object, not the table
        assert hearing.state is (after if kind is Type.ERROR else state)
    else:
        assert hearing.state is after


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", Type)
def test_a_machine_says_what_its_table_allows(role: Role, state: State, kind: Type) -> None:
    saying = machine(role, state)
    after = TABLES[role][state].get((Way.SENT, kind))
    if after is None:
        with pytest.raises(LocalProtocolError, match=f"{kind.name} while {state.value}"):
            saying.send(MESSAGES[kind])
        assert saying.state is state
        return
    try:
        assert b"".join(saying.send(MESSAGES[kind])) == b"".join(m.frame(MESSAGES[kind]))
    except LocalProtocolError as error:
        assert "while" not in str(error)
        assert saying.state is state
    else:
        assert saying.state is after


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", DATA)
def test_data_on_any_stream_is_said_only_where_the_table_allows(state: State, kind: Type) -> None:
    sender = machine(Role.SENDER, state)
    assert isinstance(sender, Sender)
    message = MESSAGES[kind]
    going = Going(Entry(0, NO_PARENT, b"f", Kind.FILE, 2 << 20), Answer.ALL)

    def say() -> list[Buffer]:
        if isinstance(message, Batch):
            return sender.say_batch(1, [], [], message)
        assert isinstance(message, Block | Same | Hole | Packed | Patch)
        return sender.say_blocks(1, going, 0, bytes(32), message)

    if (Way.SENT, kind) in TABLES[Role.SENDER][state]:
        assert say()
        return
    with pytest.raises(LocalProtocolError, match=f"{kind.name} while {state.value}"):
        say()
