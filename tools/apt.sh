#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Install the Debian packages that a purpose needs, if they are missing:
#   apt.sh build|run|lab|test|bench
set -eu
purpose=${1:-build}

build="gcc libc6-dev python3-venv python3-dev"
run="$build busybox-static e2fsprogs kmod mmdebstrap passt uidmap"
lab="$run qemu-system-x86"
arm="qemu-system-arm qemu-efi-aarch64 gcc-aarch64-linux-gnu"
test="$lab $arm acpica-tools arch-test binfmt-support clang libclang-rt-dev cpio dmidecode ethtool iperf3 iproute2 iputils-ping libslirp-helper lz4 pciutils qemu-user-static zstd"
bench="$lab $arm ethtool fio iperf3 iputils-ping"
case $purpose in
  build) want=$build ;;
  run) want=$run ;;
  lab) want=$lab ;;
  test) want=$test ;;
  bench) want=$bench ;;
  *) echo "usage: apt.sh build|run|lab|test|bench" >&2; exit 2 ;;
esac

if ! command -v apt-get >/dev/null; then
  echo "vmm: this is not a Debian machine: install the equivalents of: $want" >&2
  exit 0
fi

missing=
for package in $want; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
# Kernels come by `apt-get download`, which needs package lists but not root.
lists=
[ "$purpose" = build ] || ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || lists="apt's package lists"
[ -n "$missing$lists" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "vmm: as root, run: apt-get update && apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
  as_root=sudo
  echo "vmm: root is needed, for apt to install:${missing:- $lists}" >&2
fi
echo "vmm: installing with apt:${missing:- $lists}"
$as_root apt-get update -qq
[ -z "$missing" ] || $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
