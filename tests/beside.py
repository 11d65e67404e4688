"""A function that runs beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

PATIENCE: Final = 120.0  # seconds


class Beside:
    """A function that runs in a thread; `result()` waits for what it returned, or raises what it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._returned: Any = None
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._returned = self._function()
        except BaseException as error:  # noqa: BLE001 (raised again by result)
            self._raised = error

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it hangs"
        if self._raised is not None:
            raise self._raised
        return self._returned
