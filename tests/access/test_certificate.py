"""The certificate that proves nothing, and TLS that asks nothing of it."""

from __future__ import annotations

import errno
import os
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from enchufe import transports
from enchufe.access import certificate as module
from enchufe.access.certificate import (
    LASTING,
    Certificate,
    dialing_context,
    lasting,
    listener_certificate,
    listening_context,
)
from enchufe.access.state import Folder
from enchufe.errors import LocalProtocolError, RemoteProtocolError, StoreError
from enchufe.transports import tls
from enchufe.waiting import drive
from tests.access.meeting import WAITER, Place, soon
from tests.beside import Beside


def shaken(place: Place) -> tuple[bytes | None, str | None, bytes | None, str | None]:
    """What each side knows of the other after a handshake: the certificate, and the protocol."""
    accepting = Beside(place.accept)
    near = place.dial()
    far = accepting.result()
    with near, far:
        return near.peer_certificate(), near.alpn(), far.peer_certificate(), far.alpn()


def test_a_fresh_certificate_is_a_new_one_with_no_end() -> None:
    one, other = listener_certificate(), listener_certificate()
    assert one.sha256 != other.sha256
    assert one.pem != other.pem
    read = x509.load_der_x509_certificate(one.der)
    key = read.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert read.not_valid_before_utc == datetime(2000, 1, 1, tzinfo=UTC)
    assert read.not_valid_after_utc == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    read.verify_directly_issued_by(read)
    assert b"PRIVATE" not in repr(one).encode()
    assert repr(one.pem) not in repr(one)


@pytest.mark.parametrize("memory", ["memory", "a path that is not there", "no memory files", "forbidden"])
def test_both_sides_know_the_certificate_and_the_protocol(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if memory == "no memory files":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif memory == "forbidden":
        monkeypatch.setattr(os, "memfd_create", Mock(side_effect=PermissionError(errno.EPERM, "a sandbox")))
    elif memory != "memory":
        monkeypatch.setattr(os.path, "exists", lambda _path: False)
    locked: list[bytes] = []
    lock = module._locked

    def spy(pem: bytes, password: bytes) -> bytes:
        locked.append(pem)
        return lock(pem, password)

    monkeypatch.setattr(module, "_locked", spy)
    certificate = listener_certificate()
    with Place(certificate) as place:
        assert locked == ([] if memory == "memory" else [certificate.pem])
        assert shaken(place) == (certificate.der, "enchufe/1", None, "enchufe/1")


def test_where_there_are_no_files_in_memory_the_key_lies_nowhere_unlocked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[tuple[int, bytes]] = []

    load = ssl.SSLContext.load_cert_chain

    def spy(context: ssl.SSLContext, certfile: str, keyfile: None = None, password: str | None = None) -> None:
        path = Path(certfile)
        assert path.parent == tmp_path
        seen.append((stat.S_IMODE(path.stat().st_mode), path.read_bytes()))
        load(context, certfile, keyfile, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    listening_context(listener_certificate())
    ((mode, content),) = seen
    assert mode == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in content
    assert b"BEGIN PRIVATE KEY" not in content
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StoreError, match="temporary file") as caught:
        listening_context(listener_certificate())
    assert "TMPDIR" in caught.value.hint


def test_nothing_older_than_tls_1_3() -> None:
    certificate = listener_certificate()
    old = dialing_context()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    assert dialing_context().minimum_version == ssl.TLSVersion.TLSv1_3
    with Place(certificate) as place:
        accepting = Beside(place.accept)
        with pytest.raises(RemoteProtocolError, match=r"older than 1\.3"):
            drive(tls.connect(place.address, WAITER, soon(), context=old))
        with pytest.raises(RemoteProtocolError, match=r"older than 1\.3"):
            accepting.result()


def test_no_tickets() -> None:
    assert listening_context(listener_certificate()).num_tickets == 0


def test_who_did_not_shake_hands_knows_nothing() -> None:
    with Place(listener_certificate()) as place:
        raw = drive(transports.connect(place.address, WAITER, soon()))
        with tls.over(raw, dialing_context(), server_side=False) as transport:
            for ask in (transport.peer_certificate, transport.alpn):
                with pytest.raises(LocalProtocolError):
                    ask()


# One that lasts


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "state"))


def put(folder: Folder, content: bytes) -> Path:
    """Have it be there, private."""
    with folder.locked() as opened:
        opened.write(LASTING, content)
    return Path(folder.path) / LASTING


def test_a_lasting_certificate_stays_the_same_and_private(folder: Folder) -> None:
    first = lasting(folder)
    assert stat.S_IMODE((Path(folder.path) / LASTING).stat().st_mode) == 0o600
    assert lasting(folder) == first
    assert set(os.listdir(folder.path)) == {LASTING, "lock"}
    with Place(first) as place:
        assert shaken(place)[0] == first.der


def test_many_who_make_it_at_once_have_the_same(folder: Folder) -> None:
    start, got = threading.Barrier(6), list[Certificate]()

    def make() -> None:
        start.wait()
        got.append(lasting(folder))

    for beside in [Beside(make) for _ in range(6)]:
        beside.result()
    assert len({certificate.sha256 for certificate in got}) == 1
    assert set(os.listdir(folder.path)) == {LASTING, "lock"}


def test_what_is_no_certificate_is_not_taken(folder: Folder) -> None:
    one, other = listener_certificate().pem, listener_certificate().pem
    key, _, shown = one.partition(b"-----BEGIN CERTIFICATE")
    _, _, others = other.partition(b"-----BEGIN CERTIFICATE")
    head = b"-----BEGIN CERTIFICATE"
    for content in (b"", b"hello", key, head + shown, key + head + others):
        path = put(folder, content)
        with pytest.raises(StoreError, match=r"listener\.pem") as caught:
            lasting(folder)
        assert "remove it" in caught.value.hint
        assert path.read_bytes() == content, "it was replaced"


def test_a_damaged_one_is_refused_or_still_the_same(folder: Folder) -> None:
    """Else every link that names it would be told that somebody stands between."""
    whole = lasting(folder)
    path = Path(folder.path) / LASTING
    refused = 0
    for byte in range(len(whole.pem)):
        damaged = bytearray(whole.pem)
        damaged[byte] ^= 1 << byte % 8
        path.write_bytes(damaged)
        try:
            assert lasting(folder).der == whole.der, byte
        except StoreError:
            refused += 1
    assert refused > len(whole.pem) * 0.9


def test_what_is_no_private_file_is_told_and_waited_for_by_nobody(folder: Folder, tmp_path: Path) -> None:
    path = put(folder, b"")
    (tmp_path / "elsewhere").write_bytes(listener_certificate().pem)
    (tmp_path / "elsewhere").chmod(0o600)
    for kind, told in (("pipe", "is no plain file"), ("folder", "is no plain file"), ("link", "symbolic link")):
        path.rmdir() if path.is_dir() else path.unlink()
        if kind == "pipe":
            os.mkfifo(path, 0o600)
        elif kind == "folder":
            path.mkdir(0o700)
        else:
            path.symlink_to(tmp_path / "elsewhere")
        # In a process of its own, which ends by a signal should it wait.
        code = (
            "import signal, sys\nfrom enchufe.access.certificate import lasting\n"
            "from enchufe.access.state import Folder\nsignal.alarm(20)\nlasting(Folder(sys.argv[1]))"
        )
        done = subprocess.run([sys.executable, "-c", code, folder.path], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "StoreError" in done.stderr
        assert told in done.stderr


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_is_not_used(mode: int, folder: Folder) -> None:
    lasting(folder)
    (Path(folder.path) / LASTING).chmod(mode)
    with pytest.raises(StoreError, match="open to others"):
        lasting(folder)
