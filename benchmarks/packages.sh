#!/bin/sh
# The peers that benchmarks/files.py compares with, and a compiler for load.c, as Debian and Ubuntu package them. Needs root.
set -eu
apt-get update
apt-get install -y --no-install-recommends gcc libc6-dev socat netcat-openbsd rsync openssh-server openssh-client
