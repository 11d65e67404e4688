#!/bin/sh
# The peers that benchmarks/files.py compares with, as Debian and Ubuntu package them. Needs root.
set -eu
apt-get update
apt-get install -y --no-install-recommends socat netcat-openbsd rsync openssh-server openssh-client
