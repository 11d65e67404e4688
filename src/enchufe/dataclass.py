"""Dataclasses that cost less to define, and each instance less to make.

The standard `dataclass` writes every method as text and compiles it whenever a program starts: 0.7 ms for a frozen one
with slots, and a command has sixty of them before its first byte. Of these here only `__init__` is made so, and the
rest is shared: 0.15 ms. And frozen they are for type checkers alone, which take them for the standard ones: at run
time nothing watches, which makes an instance of those cost three times as much. So they are not for what users of the
library make and keep.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False, kw_only: bool = False, eq: bool = True) -> Any:
        """As `dataclasses.dataclass`; see above."""

        def make(plain: type) -> type:
            made = dataclasses.dataclass(slots=slots, kw_only=kw_only, eq=False, repr=False)(plain)
            shared = {"__repr__": _repr}
            if eq:
                shared |= {"__eq__": _equals, "__hash__": _hash if frozen else None}
            for name, method in shared.items():
                if name not in plain.__dict__:
                    setattr(made, name, method)
            return made

        return make


def _repr(self: Any) -> str:
    told = (f"{one.name}={getattr(self, one.name)!r}" for one in dataclasses.fields(self) if one.repr)
    return f"{type(self).__qualname__}({', '.join(told)})"


def _compared(one: Any) -> tuple[Any, ...]:
    return tuple(getattr(one, field.name) for field in dataclasses.fields(one) if field.compare)


def _equals(self: Any, other: object) -> bool:
    return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_compared(self))
