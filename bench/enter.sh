#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In the lab: enter.sh BUNDLE JOBS COMMAND…: unpack BUNDLE into RAM and run COMMAND in a chroot of it, JOBS as /jobs.json.
# VMM_BENCH_SETUP: commands for the lab itself, before the chroot: modules, disks, network.
set -e
bundle=$1 jobs=$2
shift 2
root=/run/bench
if [ -n "$VMM_BENCH_SETUP" ]; then
    (eval "$VMM_BENCH_SETUP") >&2
fi
mkdir -p "$root"
mount -t tmpfs -o size=2g bench "$root"
tar -C "$root" -xf "$bundle"
cp "$jobs" "$root/jobs.json"
cd "$root"
mkdir -p dev proc sys tmp run
mount --bind /dev dev
mount -t proc proc proc
mount -t sysfs sys sys
mount -t debugfs debug sys/kernel/debug 2> /dev/null || :
exec chroot . "$@"
