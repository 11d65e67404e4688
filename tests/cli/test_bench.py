"""`enchufe bench`: every measurement finishes and says numbers. None of them is judged."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from enchufe import measure
from enchufe.blocking import ENGINES
from enchufe.cli.bench import tables, told
from enchufe.cli.chart import as_html, as_svg
from enchufe.errors import BrokenError, LocalProtocolError
from tests.until import until

COMMAND = [sys.executable, "-m", "enchufe"]
HANGUP = pytest.param(
    signal.SIGHUP,
    marks=pytest.mark.skipif(
        signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="run by nohup, as is what we start"
    ),
)
PATIENCE = 120.0


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=PATIENCE, check=False, env=env)


def check(results: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """That all numbers are there; which results there are."""
    for result in results:
        values = result["values"]
        assert len(values) == measure.ROUNDS
        assert all(math.isfinite(value) and value > 0 for value in values)
        assert min(values) == result["lowest"] <= result["median"] <= result["highest"] == max(values)
        assert result["unit"]
    return {(result["measured"], result["name"]) for result in results}


def words(path: Path) -> set[str]:
    """What is written in a file of XML, element by element."""
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    return {(element.text or "").strip() for element in root.iter()}


def test_everything_on_this_machine(tmp_path: Path) -> None:
    page, chart = tmp_path / "page.html", tmp_path / "chart.svg"
    done = run("bench", "--seconds", "0.3", "--json", "--html", str(page), "--svg", str(chart))
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert found["v"] == 1
    here = measure.transports_here()
    assert {"tcp", "unix"} <= set(here)
    pairs = [f"{engine}, {transport}" for engine in ENGINES for transport in here]
    assert check(found["results"]) == {
        *(("latency", pair) for pair in pairs),
        *(("rate", pair) for pair in pairs),
        *(("bulk", transport) for transport in here),
        ("files", "one file"),
        *((way, framing) for way in ("encode", "decode") for framing in measure.FRAMINGS),
    }
    for path in (page, chart):
        written = words(path)
        assert {result["name"] for result in found["results"]} <= written
        # On a busy machine a round trip may take longer.
        assert any(word.startswith(("microseconds (", "milliseconds (", "seconds (")) for word in written)
        text = path.read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in text
        assert not any(
            outside in text.replace("http://www.w3.org/2000/svg", "") for outside in ("http", "src=", "url(")
        )


def test_a_table_with_bars() -> None:
    done = run("bench", "--seconds", "0.1", "--only", "netstring", "--only", "fixed:64")
    assert done.returncode == 0, done.stderr
    table = done.stdout.decode()
    assert table.count("netstring") == table.count("fixed:64") == 2
    assert "█" in table
    assert "tcp" not in table
    assert "more is better" in table


@pytest.mark.parametrize(("columns", "ranges", "bars"), [(200, True, True), (55, True, False), (20, False, False)])
def test_a_narrow_terminal_has_names_and_medians(columns: int, ranges: bool, bars: bool) -> None:
    results = [measure.Result(measure.DECODE, name, (1e6, 2e6, 3e6)) for name in ("lines", "typed:A=63,B=length:4")]
    drawn = tables(results, columns)
    assert "typed:A=63,B=length:4  2.00 M/s" in drawn
    assert ("1.00 M/s to 3.00 M/s" in drawn, "█" in drawn) == (ranges, bars)
    assert max(map(len, drawn.splitlines())) <= max(columns, 31)


@pytest.mark.parametrize("engine", ["threads", "events"])
def test_the_way_to_another_machine(engine: str) -> None:
    listen = [*COMMAND, "listen", "127.0.0.1:0", "--echo", "--framing", "length:4", "--engine", engine]
    with subprocess.Popen(listen, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as host:
        assert host.stderr is not None
        address = host.stderr.readline().split()[2].rstrip(b",").decode()
        done = run("bench", address, "--seconds", "0.3", "--json")
        host.terminate()
        host.stderr.read()
        assert host.wait(PATIENCE) == 0
    assert done.returncode == 0, done.stderr
    assert check(json.loads(done.stdout)["results"]) == {("latency", address), ("echo", address)}


@pytest.mark.parametrize("options", [["--no-input", "--framing", "length:4"], ["--echo", "--framing", "netstring"]])
def test_who_does_not_echo_is_told_what_to_run(options: list[str]) -> None:
    listen = [*COMMAND, "listen", "127.0.0.1:0", "--quiet", "--json", *options]
    with subprocess.Popen(listen, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        address = json.loads(host.stdout.readline())["address"]
        done = run("bench", address, "--seconds", "0.1")
        host.terminate()
        host.stdout.read()
    assert done.returncode == 4
    assert f"{address} does not echo" in done.stderr.decode()
    assert f"enchufe listen {address} --echo" in done.stderr.decode()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_tls_is_measured() -> None:
    assert "tls" in measure.transports_here()
    done = run("bench", "--seconds", "0.1", "--only", "tls", "--json")
    assert done.returncode == 0, done.stderr
    expected = {(kind, f"{engine}, tls") for kind in ("latency", "rate") for engine in ENGINES}
    assert check(json.loads(done.stdout)["results"]) == {*expected, ("bulk", "tls")}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--only", "steam"], 2, "There are"),
        (["--seconds", "0"], 2, "seconds"),
        (["--seconds", "nan"], 2, "nan"),
        (["nowhere"], 2, "no port"),
        (["--only", "steam", "--html", "{folder}/left.html"], 2, "There are"),
        (["unix:/no/such/socket", "--seconds", "0.1"], 4, "/no/such/socket"),
        (["--html", "/no/such/folder/page.html"], 6, "/no/such/folder"),
        (["--html", "-"], 2, "into a file"),
        (["--html", "{folder}/one", "--svg", "{folder}/./one"], 2, "one file"),
    ],
)
def test_what_goes_wrong(arguments: list[str], code: int, text: str, tmp_path: Path) -> None:
    done = run("bench", *[one.format(folder=tmp_path) for one in arguments])
    assert list(tmp_path.iterdir()) == []
    assert done.returncode == code
    assert text in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_what_was_measured_before_something_failed_is_shown(tmp_path: Path) -> None:
    openssl = tmp_path / "openssl"
    openssl.write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    openssl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    page = tmp_path / "page.html"
    done = run("bench", "--seconds", "0.1", "--only", "bulk", "--json", "--html", str(page), env=environment)
    assert done.returncode == 4
    assert b"openssl made no certificate: out of luck" in done.stderr
    names = {result["name"] for result in json.loads(done.stdout)["results"]}
    assert {"tcp", "unix"} <= names < set(measure.transports_here())
    assert "unix" in page.read_text()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds children in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGUP])
def test_an_interruption_leaves_nobody_behind(number: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "bench", "--seconds", "600", "--only", "latency"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as bench:
        listed = Path(f"/proc/{bench.pid}/task/{bench.pid}/children")
        until(lambda: len(listed.read_text().split()) == 2)
        children = listed.read_text().split()
        bench.send_signal(number)
        out, err = bench.communicate(timeout=PATIENCE)
    assert (bench.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    # One that was just being started hears of it by the end of its standard input.
    until(lambda: not any(lives(child) for child in children))


def lives(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_full_standard_output_is_told() -> None:
    for options in ([], ["--json"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*COMMAND, "bench", "--seconds", "0.1", "--only", "varint", *options],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=PATIENCE,
                check=False,
            )
        assert done.returncode == 6
        assert b"cannot write standard output" in done.stderr


def test_a_failure_of_what_is_measured_is_told() -> None:
    with measure.Helper("load", "latency", "unix:/no/such/socket", "1") as helper:
        with pytest.raises(BrokenError, match="/no/such/socket"):
            helper.said()
    with pytest.raises(LocalProtocolError):
        measure.plan(only=["steam"])


@pytest.mark.parametrize("size", [1e-3, 1.0, 999.0, 12_345.0, 1e6, 3e7, 8e9])
@pytest.mark.parametrize("kind", [measure.LATENCY, measure.RATE, measure.BULK])
def test_charts_of_any_size_are_readable(kind: measure.Kind, size: float) -> None:
    result = measure.Result(kind, "<a & b>", (size, size * 1.5, size * 2))
    for drawn in (as_svg([result], "here"), as_html([result], "here")):
        root = ElementTree.fromstring(drawn)
        assert "<a & b>" in [element.text for element in root.iter()]
        for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
            if bar.get("class") == "bar":
                assert 0 < float(bar.get("width", "")) < 600
        assert not any("e+" in (element.text or "") for element in root.iter("{http://www.w3.org/2000/svg}text"))
    assert told(result, result.median)
