# SPDX-License-Identifier: Apache-2.0
# Targets ask for root only where apt has to install something, and say so.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test soak lab bench fuzz clean

sources := $(wildcard pyproject.toml setup.py native/*.[ch] native/*.py vmmcore/include/*.h \
             plugins/*/pyproject.toml plugins/*/setup.py plugins/*/native/*.[ch] plugins/*/native/*.py)

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

.venv/.ready: tools/setup.sh tools/apt.sh $(sources)
	tools/setup.sh

run: .venv/.ready ## run a Debian with disk, network and console: to log in on a terminal, else to run a command
	@.venv/bin/python tools/run.py

test: .venv/.ready ## every package's suite (tox), then the lab suite
	@tools/apt.sh test
	.venv/bin/tox run -q -e wheels
	.venv/bin/tox run-parallel -p 2 --parallel-no-spinner -e $$(.venv/bin/python tools/envs.py)
	.venv/bin/tox run-parallel -p 2 --parallel-no-spinner -r -e lab,lab-packages,lab-aarch64,lab-aarch64-packages

soak: .venv/.ready ## tests of the API, devices, hot plug and pauses at full length: load for minutes, hundreds of rounds; an hour or more
	@tools/apt.sh test
	.venv/bin/tox run -q -e wheels
	.venv/bin/tox run -r -e soak

lab: .venv/.ready ## a shell in the lab: an emulated host with a complete KVM
	@tools/apt.sh lab
	.venv/bin/vmm lab --tty -- bash -i

bench: .venv/.ready ## measurements against QEMU, in one run
	@tools/apt.sh bench
	.venv/bin/python bench/run.py

fuzz: .venv/.ready ## every fuzz target for a minute
	@tools/apt.sh test
	.venv/bin/tox run -e fuzz

clean: ## remove what the targets above built here (not the caches under ~/.cache/vmm)
	rm -rf .venv .tox build
