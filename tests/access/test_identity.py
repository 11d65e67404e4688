"""A machine's own key: made once, kept whole, and never shown."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from enchufe.access.identity import FILE, SPOKEN, Identity, KeyPair, fingerprint
from enchufe.access.state import Folder, packed
from enchufe.errors import StoreError


def test_the_key_is_made_at_its_first_use_and_stays(folder: Folder) -> None:
    first = Identity.mine(folder)
    assert Identity.mine(folder).public == first.public
    assert len(first.public) == 32
    assert os.stat(f"{folder.path}/{FILE}").st_mode & 0o777 == 0o600
    assert Identity.mine(Folder(f"{folder.path}2")).public != first.public


def test_what_it_signs_is_checked_by_its_public_half(folder: Folder) -> None:
    identity = Identity.mine(folder)
    signature = Identity.mine(folder).sign(b"some data")
    Ed25519PublicKey.from_public_bytes(identity.public).verify(signature, b"some data")
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(identity.public).verify(signature, b"other data")


def test_it_is_the_ed25519_of_rfc_8032() -> None:
    # RFC 8032, section 7.1, test 1.
    pair = KeyPair(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert pair.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert pair.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")


MINE = """
import sys
from enchufe.access.identity import Identity
from enchufe.access.state import Folder
print(Identity.mine(Folder(sys.argv[1])).public.hex())
"""


def test_processes_that_come_first_at_once_have_one_key(folder: Folder) -> None:
    many = [
        subprocess.Popen([sys.executable, "-c", MINE, folder.path], stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    told = {each.communicate(timeout=120)[0].strip() for each in many}
    assert told == {Identity.mine(folder).public.hex()}


def test_a_damaged_key_is_told_and_stays_as_it_is(folder: Folder) -> None:
    good = Identity.mine(folder)._packed()
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    for content in (
        b"",
        good[:-1],
        good.replace(good[-10:-9], b"?"),
        packed({"seed": seed.hex()}),
        packed({"seed": seed.hex()[2:], "public": ""}),
        packed({"seed": seed.hex(), "public": bytes(32).hex()}),
        packed([]),
    ):
        with folder.locked() as opened:
            opened.write(FILE, content)
        with pytest.raises(StoreError, match="damaged") as caught:
            Identity.mine(folder)
        assert "backup" in caught.value.hint
        assert folder.read(FILE) == content


def test_a_key_that_others_may_read_is_not_used(folder: Folder) -> None:
    Identity.mine(folder)
    os.chmod(f"{folder.path}/{FILE}", 0o644)
    with pytest.raises(StoreError, match="open to others"):
        Identity.mine(folder)


def test_the_secret_shows_nowhere(folder: Folder) -> None:
    identity = Identity.mine(folder)
    secret = identity._seed
    for shown in (repr(identity), str(identity), f"{identity!s}{[identity]}"):
        assert secret.hex() not in shown and repr(secret) not in shown
    with pytest.raises(TypeError):
        pickle.dumps(identity)


def test_a_fingerprint_is_twelve_words_that_depend_on_every_bit() -> None:
    public = bytes(32)
    words = fingerprint(public)
    assert len(words.split()) == SPOKEN == 12
    others = {fingerprint((1 << bit).to_bytes(32, "big")) for bit in range(256)}
    assert len(others) == 256 and words not in others


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        KeyPair(bytes(size))
