"""Hands of the model: threads that take turns read and write small files, as processes do for the real stores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from enchufe.testing.turns import SimDoorbell, Turns

SLOTS = 6  # as `enchufe.store.hands`

Answered = Callable[[Any], None]


class _Hand:
    """One of them: does what it is asked one after the other, and rings where there is an answer."""

    def __init__(self, turns: Turns) -> None:
        self.channel = SimDoorbell(turns)
        self.asked: deque[tuple[Callable[[], Any], Answered]] = deque()
        self.answers: deque[tuple[Any, Answered]] = deque()
        self.closed = False
        self._turns = turns
        self._turn = turns.spawn(turns.process, "hand", self._work)

    def _work(self) -> None:
        turns = self._turns
        while not self.closed:
            turns.until(lambda: self.asked or self.closed)
            if not self.closed:
                job, answered = self.asked[0]
                turns.perhaps()
                answer = job()
                turns.perhaps()
                self.asked.popleft()
                self.answers.append((answer, answered))
                self.channel.ring()

    def hear(self) -> None:
        answer, answered = self.answers.popleft()
        if not self.answers:
            self.channel.clear()
        answered(answer)

    def end(self) -> None:
        """Have it end after what it is at, and wait for that."""
        self.closed = True
        turn = self._turn
        self._turns.until(lambda: turn.done)
        self.answers.clear()


class ModelHands:
    """As `Hands`, of whatever can be called."""

    def __init__(self, turns: Turns, count: int) -> None:
        self._turns = turns
        self._slots = SLOTS
        self._hands = [_Hand(turns) for _ in range(count)]

    @property
    def waited_for(self) -> Sequence[SimDoorbell]:
        """As `Hands.waited_for`."""
        return [one.channel for one in self._hands if one.asked or one.answers]

    def collect(self) -> None:
        """As `Hands.collect`."""
        for one in self._hands:
            while one.answers:
                one.hear()

    def slot(self) -> None:
        """As `Hands.slot`: waits for one, and collects; others have had their turn since it was last looked for any."""
        self._turns.yield_turn()
        self.collect()
        while not self._slots:
            self._turns.until(lambda: any(one.answers for one in self._hands))
            self.collect()
        self._slots -= 1

    def give_back(self) -> None:
        """As `Hands.give_back`."""
        self._slots += 1

    def ask(self, job: Callable[[], Any], answered: Answered) -> None:
        """Have one do it, some time; `collect` tells of it."""
        min(self._hands, key=lambda one: len(one.asked) + len(one.answers)).asked.append((job, answered))

    def close(self) -> None:
        """End them after what they are at."""
        for one in self._hands:
            one.end()
        self._hands.clear()
