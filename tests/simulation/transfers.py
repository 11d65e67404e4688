"""Transfers under a seed: the real sessions and retries on a simulated network and disk, against a plain model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property

from enchufe import events
from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, Entry, Kind
from enchufe.errors import BrokenError, BusyError, DeadlineExceeded, Refused, StoreError
from enchufe.meeting import Plain, dialing, listening
from enchufe.session import Greeted, Options, ReceivingSession, SendingSession
from enchufe.store.grafts import free_names
from enchufe.store.interface import Contents, Rechecked
from enchufe.store.memory import MemoryFile, MemorySource, MemoryStore, Node, Path
from enchufe.store.reading import Content, read_each
from enchufe.testing import Fault, SimNetwork
from enchufe.testing.disk import ModelDelivery, ModelStore
from enchufe.testing.turns import Started, Turns
from enchufe.transfer.digests import block_digest
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from enchufe.transfer.states import State
from enchufe.transports import Transport, parse_address
from tests.simulation.at_hand import SLOTS, ModelHands
from tests.simulation.blocks import SMALL as BLOCK

ADDRESS = "there:1"
ROOMS = (60, 300, 1000, 4096, 65536, 65536)
STEPS = 400_000
PATIENCE = 1000.0  # simulated seconds

Command = Started[events.Receipt]


class Source(MemorySource):
    """A tree that counts what is read of it; small files are read by hands, where there are any."""

    def __init__(self, store: MemoryStore, sparse: bool, hands: ModelHands | None = None) -> None:
        super().__init__(store)
        self.read = 0
        self.hands = hands
        self._sparse = sparse
        self._firsts: dict[int, Entry] = {}  # of what was offered again, by what its names share

    def walk(self) -> Iterator[Entry]:
        return map(self._sparsely, super().walk())

    def inside(self, folder: Entry) -> Iterator[Entry]:
        return map(self._sparsely, super().inside(folder))

    def _sparsely(self, entry: Entry) -> Entry:
        entry.sparse = self._sparse and entry.kind is Kind.FILE
        return entry

    def again(self, entry: Entry) -> Entry:
        """Linked as a source on a disk does it."""
        now = super().again(entry)
        assert now is not None
        key = id(self._nodes[self._paths[now.id]].data)
        first = self._firsts.get(key)
        good = first is not None and first.id not in (entry.id, entry.linked)
        if first is not None and good and self._sent[first.id] == self._sent[now.id]:
            now.linked = first.id
        else:
            now.shared = True
            self._firsts[key] = now
        return now

    def open(self, entry: Entry) -> MemoryFile:
        return File(self, super().open(entry), (entry.size, entry.mtime_ns))

    def read_whole(self, entry: Entry) -> bytes:
        self.read += entry.size
        return super().read_whole(entry)

    def read_together(self, entries: Sequence[Entry], done: Callable[[Contents], None]) -> bool:
        hands = self.hands
        if hands is None:
            return False
        hands.slot()

        def answered(files: list[Content]) -> None:
            done(Contents(files, hands.give_back))

        hands.ask(lambda: read_each(entries, self.read_whole), answered)
        return True

    def close(self) -> None:
        if self.hands is not None:
            self.hands.close()


class File(MemoryFile):
    def __init__(self, source: Source, file: MemoryFile, offered: tuple[int, int]) -> None:
        super().__init__(file.node, offered)
        self._source = source

    def read_into(self, view: memoryview, offset: int) -> int:
        count = super().read_into(view, offset)
        self._source.read += count
        return count

    def holes(self, start: int, stop: int) -> int:
        data = bytes(self.node.data[start:stop])
        return len(data) - len(data.lstrip(b"\0"))


class Delivery(ModelDelivery):
    """Reads again only when something new has arrived, as a slow disk might; hands write, where there are any."""

    slow: Turns | None = None
    in_vain = False
    committed = False
    hands: ModelHands | None = None

    def write_together(self, files: Sequence[tuple[Entry, Buffer, bytes]], done: Callable[[], None]) -> bool:
        hands = self.hands
        if hands is None:
            return False
        hands.slot()
        copies = [(entry, bytes(data), digest) for entry, data, digest in files]

        def job() -> None:
            for entry, data, digest in copies:
                assert block_digest(data) == digest, "its content changed before it was written"
                self.write_whole(entry, data, digest)

        def answered(_: None) -> None:
            hands.give_back()
            done()

        hands.ask(job, answered)
        return True

    def recheck_together(self, entries: Sequence[Entry], done: Rechecked) -> Sequence[Entry]:
        hands, files = self.hands, [entry for entry in entries if entry.size < BLOCK_SIZE]
        if hands is None or not files:
            return entries

        def job() -> list[Entry]:
            before = self.damaged  # whoever reads what is wrong again counts it
            wrong = [entry for entry in files if ModelDelivery.recheck(self, entry, lambda: False)]
            self.damaged = before
            return wrong

        def answered(wrong: list[Entry]) -> None:
            done([entry for entry in files if entry not in wrong], wrong)

        hands.ask(job, answered)
        return [entry for entry in entries if entry not in files]

    def commit(self, *, remember: bool = False) -> None:
        self._end_hands()
        super().commit(remember=remember)
        self.committed = True

    def suspend(self) -> None:
        self._end_hands()
        super().suspend()

    def abandon(self) -> None:
        self._end_hands()
        super().abandon()

    def _end_hands(self) -> None:
        if self.hands is not None:
            self.hands.close()

    def recheck(self, entry: Entry, stopped: Callable[[], bool]) -> list[int]:
        turns = self.slow
        if turns is not None and not self.in_vain:
            try:
                turns.until(lambda: self.first_write or self._over or stopped(), turns.now() + PATIENCE)
            except DeadlineExceeded:
                self.in_vain = True
        return super().recheck(entry, stopped)


def a_tree(chance: random.Random, sparse: bool) -> MemoryStore:
    store = MemoryStore()
    sizes = (0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7, 12 * BLOCK + 500)
    for number in range(chance.choice((1, 1, 2, 3, 6, 12))):
        size = chance.choice(sizes)
        pieces = [
            bytes(BLOCK) if sparse and chance.random() < 0.5 else chance.randbytes(BLOCK) for _ in range(size // BLOCK)
        ]
        data = b"".join((*pieces, chance.randbytes(size % BLOCK) if chance.random() < 0.7 else bytes(size % BLOCK)))
        folder = chance.choice(("", "d/", "d/e/", "f/"))
        store.add(f"{folder}{number}", data, mtime_ns=number)
    if (b"d",) in store.nodes:
        store.nodes[b"d", b"link"] = Node(Kind.SYMLINK, target=b"0")
    files = [(path, node) for path, node in store.nodes.items() if node.kind is Kind.FILE]
    if chance.random() < 0.2:
        path, node = chance.choice(files)
        store.nodes[(*path[:-1], b"again")] = store.nodes[(*path[:-1], b"and again")] = node
    return store


def as_told(node: Node) -> tuple[object, ...]:
    return node.kind, bytes(node.data), node.mode, node.mtime_ns if node.kind is Kind.FILE else 0, node.target


class Transfer:
    """One tree, two commands, and what goes wrong until both are done."""

    def __init__(self, seed: int, rivals: int | None = None, tree: MemoryStore | None = None) -> None:
        self.network = SimNetwork(seed, ROOMS)
        chance = self.chance = self.network.random
        self.turns = turns = Turns(self.network, STEPS)
        turns.faults = self._faults
        self.sparse = tree is None and chance.random() < 0.15
        self.tree = tree or a_tree(chance, self.sparse)
        at_hand = random.Random(f"hands of {seed}")
        self.hands = at_hand.choice((0, 0, 1, 2)), at_hand.choice((0, 0, 1, 2))  # of the sender, of the receiver
        if tree is None and any(self.hands) and at_hand.random() < 0.7:
            for number in range(at_hand.choice((5, 20, 60))):
                self.tree.add(f"small/{number}", at_hand.randbytes(at_hand.choice((0, 10, 300, 700))), mtime_ns=number)
        self.update = chance.random() < 0.5
        self.store = ModelStore(chance, update=self.update, pause=self._pause)
        self.store.begin = self._begin  # type: ignore[assignment]
        self.before: dict[Path, Node] = {}
        if tree is None and self.update and chance.random() < 0.5:
            self._have_before()
        self.sender_dials = rivals is not None or chance.random() < 0.6
        self.streams = chance.choice((1, 1, 2, 3, 4))
        self.compress = chance.choice(("never", "never", "never", "always"))
        self.limit = chance.choice((None, None, None, None, 20_000.0))
        self.retry = chance.choice((0.0, 30.0))
        self.rivals = rivals if rivals is not None else 1
        self.troubles = 0 if rivals is not None else chance.choice((0, 1, 1, 2, 2, 3, 5))
        self.slow_disk = chance.choice((0.0, 0.0, 0.02, 0.2))
        self.late_recheck = not self.sparse and not self.rivals > 1 and chance.random() < 0.3
        # What each path may hold in the end: what was there, and what was there to be sent, ever.
        self.right = {path: [as_told(node)] for path, node in self.tree.nodes.items()}
        for path, node in self.before.items():
            self.right[path].append(as_told(node))
        self.changes = chance.choice((0, 0, 0, 0, 1, 3)) if self.troubles else 0
        self.may_change = bool(self.changes)
        self.faults = 0  # connections that will have had one
        self.deaths = 0  # of receivers: each may cost a block per stream
        self.sources: list[tuple[Source, SendingSession]] = []
        self.deliveries: list[tuple[Delivery, int]] = []

    def _have_before(self) -> None:
        # Half of it, mostly changed; or nearly all of it, so that whole folders are as they were.
        here, others = self.chance.choice(((0.5, 0.7), (1.0, 0.1)))
        for path, node in self.tree.nodes.items():
            if self.chance.random() < here and (len(path) == 1 or path[:-1] in self.before):
                data = bytearray(node.data)
                changed = self.chance.random() < others and node.kind is Kind.FILE
                if changed and data:
                    at = self.chance.randrange(len(data))
                    if self.chance.random() < 0.5:
                        data[at] ^= 1
                    else:
                        data[at : at + self.chance.choice((0, 1, 500))] = bytes(self.chance.choice((0, 1, 700)))
                    if self.chance.random() < 0.3:
                        data += bytes(self.chance.choice((1, BLOCK)))
                mtime = node.mtime_ns + (1000 if changed else 0)
                old = self.before[path] = Node(node.kind, data, node.mode, mtime, node.target)
                self.store.add(path, old)

    # The parts.

    def _pause(self) -> None:
        self.turns.check()
        if self.chance.random() < self.slow_disk:
            self.turns.sleep(self.chance.choice((0.0, 0.001, 0.2)))
        else:
            self.turns.perhaps()

    def _begin(self, origin: bytes) -> Delivery:
        made = ModelStore.begin(self.store, origin)
        delivery = Delivery.__new__(Delivery)
        delivery.__dict__.update(made.__dict__)
        delivery.slow = self.turns if self.late_recheck else None
        delivery.hands = self._hired(self.hands[1])
        self.deliveries.append((delivery, self.faults))
        return delivery

    def _hired(self, count: int) -> ModelHands | None:
        return ModelHands(self.turns, count) if count else None

    def _faults(self) -> tuple[Fault | None, Fault | None]:
        return self._fault(), self._fault()

    def _fault(self) -> Fault | None:
        chance = self.chance
        if not self.troubles or chance.random() < 0.6:
            return None
        self.troubles -= 1
        self.faults += 1
        kind = chance.choice(("reset", "reset", "reset", "stall", "vanish"))
        size = sum(len(node.data) for node in self.tree.nodes.values()) // self.streams
        after = chance.choice((chance.randint(0, 200), chance.randint(0, 2000), chance.randint(0, size + 500)))
        return Fault(kind, after, chance.choice((0.5, 20.0, 100.0)))

    def _options(self) -> Options:
        return Options(streams=self.streams, compress=self.compress, limit=self.limit)

    def _send(self) -> events.Receipt:
        def make(over: Transport | Greeted[Sender], options: Options) -> SendingSession:
            source = Source(self.tree, self.sparse, self._hired(self.hands[0]))
            session = SendingSession(over, source, options, lambda _: None)
            self.sources.append((source, session))
            return session

        if self.sender_dials:
            return dialing(Plain(parse_address(ADDRESS)), make, b"this", self._options(), self.retry, lambda _: None)
        return listening(parse_address(ADDRESS), Sender, make, self._options(), self.retry, lambda _: None, once=True)

    def _receive(self) -> events.Receipt:
        def make(over: Transport | Greeted[Receiver], options: Options) -> ReceivingSession:
            return ReceivingSession(over, self.store.begin, options, self._hear, compares=self.update)

        if self.sender_dials:
            return listening(
                parse_address(ADDRESS), Receiver, make, self._options(), self.retry, self._hear, once=False
            )
        return dialing(Plain(parse_address(ADDRESS)), make, b"that", self._options(), self.retry, self._hear)

    def _hear(self, event: events.Event) -> None:
        """A receiver that listens goes on after an error: this one tells of it."""
        if isinstance(event, events.Failed):
            changed = self.may_change and event.kind in CHANGED_KINDS
            assert changed or event.kind in KINDS, f"not a fault of the world: {event}"

    # The script.

    def run(self) -> None:
        """To the end; AssertionError where what came of it is not what the model says."""
        with self.turns.in_place():
            self.turns.run(self._script)

    def _script(self) -> None:
        turns = self.turns
        senders: list[Command] = []
        receiver: Command | None = None
        committed = 0  # when it began
        while True:
            if receiver is None or receiver.done or receiver.process.killed:
                receiver, committed = turns.start("receiver", self._receive), self.store.receipts
            senders = [sender for sender in senders if not sender.process.killed]
            if all(sender.done for sender in senders):
                senders = [turns.start("sender", self._send) for _ in range(self.rivals)]
            self._wait(senders, receiver)
            self._check_errors([*senders, receiver])
            if self.troubles and not receiver.done:
                self._make_trouble(senders, receiver)
            self._check_visible()
            if won := [sender for sender in senders if sender.result is not None]:
                self._check_won(won)
                if self.store.receipts > committed and not receiver.process.killed:
                    self._check_both(won, receiver)
                return

    def _wait(self, senders: list[Command], receiver: Command) -> None:
        """Until a command has ended, or it is time for trouble."""
        turns = self.turns
        mark = turns.steps + self.chance.choice((5, 50, 200, 500, 2000)) if self.troubles else None

        def all_sent() -> bool:
            return all(sender.done for sender in senders)

        turns.until(lambda: all_sent() or receiver.done or (mark is not None and turns.steps >= mark))
        if receiver.done:
            with suppress(DeadlineExceeded):
                turns.until(all_sent, turns.now() + PATIENCE)
            # One that listens may be another than the receiver talked to: the receiver comes again.
            assert all_sent() or not self.sender_dials, "a sender has nobody to talk to, and hangs"

    def _make_trouble(self, senders: list[Command], receiver: Command) -> None:
        chance, turns = self.chance, self.turns
        if self.changes and chance.random() < 0.5:
            self.changes -= 1
            self._change()
            return
        self.troubles -= 1
        match chance.choice(("sender", "receiver", "power", "power", "both", "flip", "twice", "nothing")):
            case "sender":
                chance.choice(senders).process.kill(unplugged=chance.random() < 0.5)
            case "receiver":
                self._kill(receiver, unplugged=chance.random() < 0.3)
            case "power":
                self._kill(receiver, unplugged=chance.random() < 0.8)
                self.store.power_cut()
            case "both":
                senders[0].process.kill()
                self._kill(receiver, unplugged=False)
            case "flip":
                self._kill(receiver, unplugged=False)
                for _ in range(chance.choice((1, 1, 3, 20))):
                    self.store.flip()
            case "twice" if self.sender_dials:
                senders.append(turns.start("sender", self._send))
        if chance.random() < 0.3:
            turns.sleep(chance.choice((0.1, 5.0, 50.0)))

    def _change(self) -> None:
        """Somebody writes into a file that is being sent."""
        node = self.chance.choice([node for node in self.tree.nodes.values() if node.kind is Kind.FILE])
        node.mtime_ns += 1_000_000
        node.data += self.chance.randbytes(self.chance.choice((0, 1, BLOCK)))
        if node.data:
            node.data[self.chance.randrange(len(node.data))] ^= 1
        for path, one in self.tree.nodes.items():
            if one is node:
                self.right[path].append(as_told(node))

    def _kill(self, receiver: Command, *, unplugged: bool) -> None:
        receiver.process.kill(unplugged=unplugged)
        self.store.killed()
        self.deaths += 1

    # What must hold.

    def _check_errors(self, commands: list[Command]) -> None:
        for command in commands:
            allowed = (*ALLOWED, *CHANGED) if self.may_change else ALLOWED
            if command.error is not None and not isinstance(command.error, allowed):
                raise AssertionError(f"not a fault of the world: {command.error!r}") from command.error

    def _check_won(self, won: list[Command]) -> None:
        assert self.store.receipts, "a receipt, and nothing was committed"
        # Rivals are about the same: one that had sent all before may come again for the receipt of another.
        sent = [sender for sender in won if sender.result is not None and sender.result.sent_bytes]
        assert len(sent) <= self.store.receipts, "more have a receipt than deliveries were committed"
        # The worst power cut there is, now.
        self._check(self.store.durable(), whole=True)
        self._check_visible()
        if not self.update:
            # Whoever has heard that all is there, and dies before it can say so, sends it anew.
            heard = sum(session.machine.state is State.DONE for _, session in self.sources)
            copies = Counter(self._offered[path] for path in self.store.nodes() if len(path) == 1)
            assert self.may_change or max(copies.values()) <= heard, f"{copies} are there, and {heard} were heard of"
        assert self.may_change or self.store.twice <= self.deaths * self.streams * BLOCK, (
            f"{self.store.twice} bytes came twice, after {self.deaths} deaths with {self.streams} streams"
        )
        if not self.before and self.compress == "never" and not self.may_change:
            for source, session in self.sources:
                ahead = SLOTS if self.hands[0] else 0
                most = session.machine.sent_bytes + (self.streams + ahead) * BLOCK
                if self.sparse:
                    continue
                assert source.read <= most, (
                    f"the sender read {source.read} bytes, and sent {session.machine.sent_bytes}"
                )

    def _check_both(self, won: list[Command], receiver: Command) -> None:
        """The receiver that has sent this receipt is alive."""
        self.turns.until(lambda: receiver.done, self.turns.now() + PATIENCE)
        self._check_errors([receiver])
        assert receiver.result is not None, f"the sender has a receipt, the receiver has none: {receiver.error!r}"
        committed = [(delivery, faults) for delivery, faults in self.deliveries if delivery.committed]
        delivery, faults = committed[-1]
        missing = delivery.wanted - delivery.kept_bytes
        if not self.sparse and not self.before and not self.may_change and self.compress == "never":
            # Whoever comes anew brings nothing: all of it is here.
            brought = [one.wanted - one.kept_bytes + one.damaged for one, _ in committed]
            assert receiver.result.sent_bytes in brought, f"{receiver.result.sent_bytes} bytes came, of {brought}"
            again = any(session.machine.concluded is not None for _, session in self.sources)  # only for its receipt
            sent = won[0].result.sent_bytes if won[0].result else 0
            assert self.faults > faults or self.streams > 1 or sent in (*brought, *([0] if again else [])), (
                "too much was sent"
            )
        assert not (delivery.in_vain and missing and self.faults == faults), "it reads again before it goes on"

    def _check_visible(self) -> None:
        self._check(self.store.nodes(), whole=False)

    def _check(self, there: dict[Path, Node], *, whole: bool) -> None:
        """What is visible is right; and all of it where it must be."""
        nodes, right = self.tree.nodes, self.right
        if self.update:
            for path, node in there.items():
                assert as_told(node) in right.get(path, ()), f"{path} is neither the old one nor the new one"
            missing = nodes.keys() - there.keys()
            assert not whole or not missing, f"missing: {missing}"
            if whole and not self.may_change:
                assert all(as_told(there[path]) == as_told(node) for path, node in nodes.items()), (
                    "the old one is there"
                )
            return
        offered = self._offered
        for path, node in there.items():
            assert path in offered, f"{path} was never sent"
            assert as_told(node) in right[offered[path]], f"{path} is not what was sent"
        assert not whole or all(path in there for path in nodes if len(path) == 1), "not everything is there"
        for name in {path[0] for path in there}:
            got = {offered[path] for path in there if path[0] == name}
            want = {path for path in nodes if path[0] == offered[name,][0]}
            assert got == want, f"{name!r} is there and not whole"

    @cached_property
    def _offered(self) -> dict[Path, Path]:
        """By each path that something may have got the one it was offered with.

        A root gets a number where something has its name; and what has changed, in what an attempt before has brought.
        """

        def names(path: Path, node: Node) -> list[bytes]:
            found = free_names(path[-1], directory=node.kind is Kind.DIRECTORY)
            return [next(found) for _ in range(10 if len(path) == 1 or self.may_change else 1)]

        nodes = self.tree.nodes
        offered = {path: path for path in nodes}
        for path, node in nodes.items():
            for last in names(path, node):
                for first in names(path[:1], nodes[path[:1]]):
                    offered.setdefault((first, *path[1:-1], last) if len(path) > 1 else (last,), path)
        return offered


ALLOWED = (BrokenError, DeadlineExceeded, BusyError)
KINDS = {kind("").kind for kind in ALLOWED}
# A file that must be sent again and is another by now ends an attempt.
CHANGED = (StoreError, Refused)
CHANGED_KINDS = {kind("").kind for kind in CHANGED}


def run(seed: int) -> None:
    """One transfer.

    Raises:
        AssertionError: it went otherwise than the model says; names the seed.
    """
    chance = random.Random(seed)
    rivals = 100 if seed % 500 == 499 else chance.choice((2, 3, 5)) if seed % 20 == 19 else None
    try:
        Transfer(seed, rivals).run()
    except BaseException as error:
        error.add_note(f"replay it with: python -m tests.simulation.run_transfers --from {seed} --seeds 1")
        raise
