#!/bin/sh
# Installs the Debian packages of the programs that the tests need and that are not there yet: as root, or by sudo
# without a password.
set -eu

missing=""
for each in escript=erlang-base ip=iproute2 mkfs.btrfs=btrfs-progs mkfs.ext4=e2fsprogs nc.openbsd=netcat-openbsd openssl=openssl \
    strace=strace; do
    command -v "${each%%=*}" >/dev/null || missing="$missing ${each#*=}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "tests/packages.sh: the tests need$missing, and there is no apt-get here: install them by hand." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "tests/packages.sh: the tests need$missing: run this as root, or: sudo apt-get install$missing" >&2
    exit 1
fi

install() {
    # shellcheck disable=SC2086 # several words each
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $missing
}

# A machine's list of packages may be missing, or older than the archive: only then is it fetched.
install || { $as_root apt-get update --quiet && install; } || {
    echo "tests/packages.sh: apt-get could not install$missing: see above." >&2
    exit 1
}
