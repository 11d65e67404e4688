#!/bin/sh
# The peers of files, a compiler for load.c and wan.c, and what makes network namespaces, as Debian and Ubuntu package them.
# Needs root.
set -eu
apt-get update
apt-get install -y --no-install-recommends gcc libc6-dev socat netcat-openbsd rsync openssh-server openssh-client \
    iproute2 procps valgrind
