"""processes: connections served by processes of their own, under a supervisor that does all the forking.

The supervisor is forked first, before there are threads that a fork would leave behind half-way: it has one thread and
no connections of its own. It accepts, keeps the limits, and hands every connection to the worker that has the fewest;
a worker that dies takes its own connections with it and is replaced. With "each", a process is forked for every
connection instead.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import field, replace
from typing import Final, Literal, NoReturn

from enchufe.checks import check_whole
from enchufe.dataclass import dataclass
from enchufe.engines import Engine as AnyEngine
from enchufe.engines import threads
from enchufe.engines.handover import Handover, channel, ended, give
from enchufe.engines.signals import run_until
from enchufe.errors import BrokenError, BusyError, DeadlineExceeded, LocalProtocolError
from enchufe.interruption import ENDING
from enchufe.server import OVERTIME, Acceptor, Handler, log, serve_connection
from enchufe.transports import Transport
from enchufe.waiting import READ, BlockingWaiter, Doorbell, Interest, drive, no_room

NAME: Final = "processes"
EACH: Final = "each"

MakeEngine = Callable[[Handler, Acceptor], AnyEngine]

# A worker that dies as soon as it lives must not keep the machine busy with being born.
_SHORT_LIFE: Final = 1.0  # seconds
_RESPITE: Final = 1.0  # seconds until such a one is replaced
_AT_ONCE: Final = 16  # connections accepted before we look who died, and whether it is time to stop
_GRACE: Final = 3.0  # seconds beyond the drain's, which every process keeps by itself


class Engine:
    """Forks the supervisor when it is made; `run` waits for it.

    Args:
        handler: runs in the workers.
        acceptor: listens; this process' copy is closed.
        workers: how many, or "each".
        engine: what runs in every worker; None: one connection after the other.

    Raises:
        LocalProtocolError: `workers` makes no sense, or this system cannot fork.
        BusyError: it has no descriptors or processes left.
    """

    def __init__(
        self, handler: Handler, acceptor: Acceptor, workers: int | Literal["each"], engine: MakeEngine | None
    ) -> None:
        if not hasattr(os, "fork"):
            raise LocalProtocolError("this system cannot fork", hint="Use the engine threads or events.")
        if workers == EACH and engine is not None:
            raise LocalProtocolError('workers="each" is for the engine "processes"')
        if workers != EACH:
            check_whole("workers", workers, 1)
        # The supervisor stops when this end is closed, by us or by our death.
        try:
            stop, self._stop = os.pipe()
        except OSError as error:
            raise no_room("no descriptors for a supervisor", error) from error
        self._lock = threading.RLock()  # a signal handler may call stop() while we hold it

        def supervise() -> None:
            os.close(self._stop)
            supervisor.run()

        try:
            supervisor = Supervisor(handler, acceptor, workers, engine, stop)  # here it can say what it lacks
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until it heeds them as it means to
            try:
                self._supervisor = fork(supervise)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            os.close(self._stop)
            os.close(stop)
            raise
        supervisor.abandon()

    def stop(self) -> None:
        """Ask the supervisor, and so `run`, to drain and end; any thread or signal handler may."""
        with self._lock:
            if self._stop >= 0:
                # Not by closing alone: another server's processes may have been forked with a copy.
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._stop, b"\0")
                os.close(self._stop)
                self._stop = -1

    def run(self) -> None:
        """Wait until the supervisor has drained.

        Raises:
            BrokenError: it died.
        """
        try:
            _, status = os.waitpid(self._supervisor, 0)
        except ChildProcessError:
            status = 0  # it ended, and how was told to whoever waits for all children, or to nobody: SIGCHLD is ignored
        self.stop()
        if status:
            raise BrokenError(
                f"the supervisor of the workers died ({_told(status)})", hint="See the log; start the server again."
            )


def fork(child: Callable[[], None]) -> int:
    """Run `child` in a process of its own, which ends with it: that process' id.

    Raises:
        BusyError: the system has no more processes or memory.
        LocalProtocolError: this interpreter must not fork.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns where there are threads. The child runs our code alone, which needs none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            pid = os.fork()
        except OSError as error:
            raise BusyError(f"cannot fork: {error.strerror}") from error
        except RuntimeError as error:  # a subinterpreter must not
            raise LocalProtocolError(f"cannot fork: {error}", hint="Use the engine threads or events.") from error
    if not pid:
        _become(child)
    return pid


def _become(child: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        child()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 (nobody is above us: what stands there is another process' stack)
        log.exception("process %d failed", os.getpid())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # Not sys.exit: what the parent wanted done at its end is not ours to do.
        os._exit(code)


def _told(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"


@dataclass(slots=True)
class _Worker:
    pid: int
    born: float
    connections: dict[int, Transport] = field(default_factory=dict)
    giver: socket.socket | None = None  # one forked for its connection needs none

    def ended(self) -> list[int]:
        return (ended(self.giver) or []) if self.giver else []

    def forget(self) -> None:
        if self.giver:
            self.giver.close()


class Supervisor:
    """Accepts, hands over, and replaces who died. One thread, and nothing but this in its process.

    Args:
        stop: readable, or at its end, when it is time to drain.
    """

    def __init__(
        self,
        handler: Handler,
        acceptor: Acceptor,
        workers: int | Literal["each"],
        engine: MakeEngine | None,
        stop: int,
    ) -> None:
        self._handler = handler
        self._acceptor = acceptor
        self._engine = engine
        self._count = 0 if workers == EACH else int(workers)
        self._each = workers == EACH
        self._stop = stop
        self._stopping = False
        self._waiter = BlockingWaiter()
        self._workers: dict[int, _Worker] = {}
        self._replace_at = 0.0
        self._numbers = itertools.count(1)
        self._child = Doorbell()  # a signal came: a child has ended, or it is time to stop

    def run(self) -> None:
        """Supervise until told to stop; then drain, and end with the last worker."""
        # A terminal's Ctrl-C reaches us too, and that it goes away; whoever forked us tells us, or is gone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._stop_soon())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._child.ring_on_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        while not self._stopping:
            self._replace()
            self._wait()
            self._child.clear()
            self._bury()
            for _ in range(_AT_ONCE):
                if self._stopping or not self._has_taker() or not self._accept():
                    break
        self._acceptor.close()
        self._drain()

    def abandon(self) -> None:
        """Close this process' copies of what another one, which runs it, has."""
        os.close(self._stop)
        self._child.close()
        self._acceptor.abandon()

    def fileno(self) -> int:
        """What is readable when it is time to stop."""
        return self._stop

    def _stop_soon(self) -> None:
        self._stopping = True

    def _is_to_stop(self) -> bool:
        if not self._stopping:
            with contextlib.suppress(DeadlineExceeded):
                self._stopping = bool(drive(self._waiter.wait([(self, READ)], self._waiter.now())))
        return self._stopping

    def _wait(self) -> None:
        now = self._waiter.now()
        interests: list[Interest] = [(self, READ), (self._child, READ)]
        interests += [(worker.giver, READ) for worker in self._workers.values() if worker.giver]
        if self._has_taker():
            interests += self._acceptor.interests()
        moments = [self._acceptor.retry_at(now)]
        if len(self._workers) < self._count:
            moments.append(max(self._replace_at, now))
        with contextlib.suppress(DeadlineExceeded):
            ready = drive(self._waiter.wait(interests, min((m for m in moments if m is not None), default=None)))
            self._stopping = self._stopping or any(thing is self for thing, _ in ready)
        for worker in list(self._workers.values()):
            for number in worker.ended():
                self._release(worker, number)

    # Accepting.

    def _has_taker(self) -> bool:
        """Whether some worker takes one more."""
        if self._each:
            return True
        if self._engine is None:
            return any(not worker.connections for worker in self._workers.values())
        return bool(self._workers)

    def _accept(self) -> bool:
        transport = self._acceptor.try_accept(self._waiter)
        if transport is None:
            return False
        transport.ends_only_by_close()
        number = next(self._numbers)
        if self._each:
            return self._fork_for(transport, number)
        for worker in sorted(self._workers.values(), key=lambda worker: len(worker.connections)):
            if worker.giver and give(worker.giver, number, self._acceptor.open[transport], transport):
                worker.connections[number] = transport
                transport.abandon()
                return True
        self._acceptor.put_back(transport, BusyError("no worker takes another connection"))
        return False

    def _release(self, worker: _Worker, number: int) -> None:
        if (transport := worker.connections.pop(number, None)) is not None:
            self._acceptor.release(transport)

    # Forking.

    def _replace(self) -> None:
        while len(self._workers) < self._count and self._waiter.now() >= self._replace_at:
            if self._is_to_stop():  # each time anew: they may be very many
                return
            try:
                giver, taker = channel()
            except BusyError as error:
                log.warning("%s", error)
                self._replace_at = self._waiter.now() + _RESPITE
                return

            def work(giver: socket.socket = giver, taker: socket.socket = taker) -> None:
                giver.close()
                self._forget_parent()
                _work(self._handler, self._acceptor, self._engine or _one_after_the_other, taker)

            try:
                pid = self._fork(work)
            except BusyError as error:
                giver.close()
                log.warning("no new worker: %s", error)
                self._replace_at = self._waiter.now() + _RESPITE
            else:
                self._workers[pid] = _Worker(pid, self._waiter.now(), giver=giver)
            finally:
                taker.close()

    def _fork_for(self, transport: Transport, number: int) -> bool:
        """Serve it in a process of its own, where there is one for it: whether there was."""

        def serve() -> None:
            self._forget_parent()
            # It waits by a bell of its own, which stop_receiving() rings.
            bell = Doorbell()
            transport.waiter = BlockingWaiter(bell)
            options = self._acceptor.options
            serving = serve_connection(self._handler, transport, options, len(self._acceptor.open))

            def stop() -> None:
                transport.stop_receiving()
                _cut_off_in(options.drain, transport, f"it did not finish in {options.drain:g} s")

            if (lifetime := options.max_lifetime) is not None:
                _cut_off_in(lifetime + OVERTIME, transport, f"it lasted for more than {lifetime:g} s")
            run_until([signal.SIGTERM], lambda: drive(serving), stop)

        try:
            pid = self._fork(serve)
        except BusyError as error:
            self._acceptor.put_back(transport, error)
            return False
        transport.abandon()
        self._workers[pid] = _Worker(pid, self._waiter.now(), {number: transport})
        return True

    @staticmethod
    def _fork(child: Callable[[], None]) -> int:
        """`fork`, so that the child hears a SIGTERM that comes before it can."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            return fork(child)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def _forget_parent(self) -> None:
        """In a child: keep nothing of the supervisor's, least of all what tells the others that it lives."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.abandon()
        for worker in self._workers.values():
            worker.forget()

    def _bury(self) -> None:
        """See who died, and let their connections go."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if (worker := self._workers.pop(pid, None)) is None:
                continue  # a child that the handler's module had before us
            for number in worker.ended():
                self._release(worker, number)
            worker.forget()
            if status:
                log.warning("worker %d died (%s) with %d connections", pid, _told(status), len(worker.connections))
            for number in list(worker.connections):
                self._release(worker, number)
            if not self._each and self._waiter.now() - worker.born < _SHORT_LIFE:
                self._replace_at = self._waiter.now() + _RESPITE

    # The end.

    def _drain(self) -> None:
        for worker in self._workers.values():
            self._signal(worker, signal.SIGTERM)
        deadline = self._waiter.now() + self._acceptor.options.drain + _GRACE
        while self._workers:
            self._child.clear()
            self._bury()
            if not self._workers:
                return
            try:
                drive(self._waiter.wait_one(self._child, READ, deadline))
            except DeadlineExceeded:
                for worker in self._workers.values():
                    log.warning("worker %d did not finish in time and is killed", worker.pid)
                    self._signal(worker, signal.SIGKILL)
                deadline = self._waiter.now() + _GRACE

    @staticmethod
    def _signal(worker: _Worker, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)


def _work(handler: Handler, acceptor: Acceptor, make_engine: MakeEngine, taker: socket.socket) -> None:
    """What a worker of a pool does, from its fork to its end."""
    options = replace(acceptor.options, max_connections=None, max_per_address=None)
    arrivals = Handover(taker, acceptor.listeners, options)
    engine = make_engine(handler, arrivals)
    arrivals.gone = engine.stop
    run_until([signal.SIGTERM], engine.run, engine.stop)


def _cut_off_in(seconds: float, transport: Transport, why: str) -> None:
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), transport.cut_off, [why])
    timer.daemon = True
    timer.start()


def _one_after_the_other(handler: Handler, acceptor: Acceptor) -> AnyEngine:
    """A thread does, where the supervisor sends the next connection when the last has ended."""
    return threads.Engine(handler, acceptor)
