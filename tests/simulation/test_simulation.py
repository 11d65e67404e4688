"""The real client, server and events loop on a simulated network: CI's share of the seeds."""

from __future__ import annotations

import pytest

from enchufe import Connection, framing
from enchufe.testing import SimNetwork
from tests.simulation import scenarios

SHARE = 3000


@pytest.mark.parametrize("tenth", range(10))
def test_conversations_go_as_the_model_says(tenth: int) -> None:
    for seed in range(tenth * SHARE // 10, (tenth + 1) * SHARE // 10):
        scenarios.run(seed)


def test_the_same_seed_gives_the_same_run() -> None:
    def told(seed: int) -> object:
        conversation = scenarios.Conversation(seed)
        conversation.run()
        return conversation.network.clock(), [(c.answers, repr(c.error)) for c in conversation.clients]

    for seed in range(50):
        assert told(seed) == told(seed)


def test_a_defect_is_found_and_its_seed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgetful(self: scenarios.Conversation, connection: Connection) -> None:
        async for message in connection:
            if message:
                await connection.send(message)

    monkeypatch.setattr(scenarios.Conversation, "echo", forgetful)
    with pytest.raises(AssertionError) as caught:
        for seed in range(200):
            scenarios.run(seed)
    assert "--from" in caught.value.__notes__[0]


def test_waiting_for_each_other_is_found() -> None:
    network = SimNetwork(7)
    loop = network.loop()

    async def main() -> None:
        listener = network.listen("server:1")
        connection = Connection(network.connect("server:1", loop), framing.Lines())
        try:
            await connection.receive()
        finally:
            connection.close()
            listener.close()

    with pytest.raises(AssertionError, match="seed 7: nothing will ever happen"):
        loop.run(main())
    loop.close()
