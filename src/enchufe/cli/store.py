"""`enchufe store`: what cut transfers have left, for a person or as JSON."""

from __future__ import annotations

import os
from typing import Any

from enchufe.cli.short import ended, shown_time, write_json, write_lines
from enchufe.cli.show import counted, in_bytes
from enchufe.printable import printable
from enchufe.store import partials as kept
from enchufe.store.partials import Partial


def partials(folder: str, *, clean: str | None, as_json: bool) -> int:
    """List what is left in `folder`, or remove it and list that: the exit code.

    Args:
        folder: the destination.
        clean: a name; empty: all; None: only list.
        as_json: as JSON on standard output.
    """
    removed = clean is not None

    def run() -> None:
        found = kept.partials(folder) if clean is None else kept.clean(folder, clean or None)
        if as_json:
            write_json({"partials": [_as_dict(partial, removed=removed) for partial in found]})
        else:
            write_lines(_line(partial, removed=removed) for partial in found)

    return ended(run)


def _as_dict(partial: Partial, *, removed: bool) -> dict[str, Any]:
    return {
        "name": partial.name,
        "root": None if partial.root is None else os.fsdecode(partial.root),
        "bytes": partial.size,
        "files": partial.files,
        "changed": partial.changed,
        "in_use": partial.in_use,
        "arrived": partial.arrived,
        "removed": removed,
    }


def _line(partial: Partial, *, removed: bool) -> str:
    root = "unknown" if partial.root is None else printable(partial.root)
    changed = "never" if partial.changed is None else shown_time(partial.changed)
    told = f"{partial.name}  {root}  {in_bytes(partial.size)} in {counted(partial.files, 'file')}  {changed}"
    if partial.arrived:
        told += "  arrived, its sender may not know"
    return told + ("  removed" if removed else "  in use" if partial.in_use else "")
