# The house: everything that is run by hand or by a machine starts here. `make` alone says what there is.

PYTHON ?= python3
# A worker more than a small machine has cores: many tests wait for real processes, and leave their core to another one.
# Who has nothing left to do takes tests from the others: some take half a minute.
WORKERS ?= 3
parallel := --numprocesses $(WORKERS) --dist worksteal

bin := .venv/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help

.PHONY: help demo test check lint types compiled test-compiled sim torment mutants
.PHONY: bench bench-quick bench-smoke bench-growth bench-self clean .smoke-load .smoke-killed .smoke-silent
.PHONY: .test-compiled-core .test-compiled-server

help:
	@echo 'make demo     a cell, three instances of a service, 20,000 requests, two kills and an audit'
	@echo 'make test     lint, types, layers and the whole test suite (about 6 minutes on 2 cores)'
	@echo 'make check    the same without the slow tests (about 1 minute)'
	@echo 'make test-compiled   the tests of the hot rooms on a core compiled by mypyc (needs a C compiler)'
	@echo 'make sim      some hundred simulated histories with faults (SEEDS=N, JOBS=N)'
	@echo 'make torment  a minute of faults for real processes, and a judge of what clients saw (SECONDS=N, TORMENT=OPTIONS)'
	@echo 'make mutants  break the code on purpose, patch by patch, and see a test fail each time'
	@echo 'make bench    the cell and its peers in turns on this machine (make bench-quick: 3 minutes)'
	@echo 'make bench-growth   ours alone, as znodes, sessions and watches grow (some minutes)'
	@echo 'make bench-self     ours alone on a few rows, against the figures of the last release (under a minute)'
	@echo 'make clean    forget the virtual environment and every cache'

demo: .venv/.runs
	@$(bin)/synod demo $(DEMO)

test: lint types
	$(bin)/pytest --quiet $(parallel)

check: lint types
	$(bin)/pytest --quiet $(parallel) -m 'not slow'

lint: .venv/.tests
	$(bin)/ruff check --quiet .
	$(bin)/ruff format --quiet --check .

types: .venv/.tests
	$(bin)/mypy --no-error-summary

# The core compiled by mypyc, in an environment of its own; the other one stays editable and pure.
hot := $(wildcard src/synod/base/_change.py src/synod/base/_invariant.py src/synod/paxos/*.py src/synod/tree/*.py src/synod/replica/*.py src/synod/wire/*.py src/synod/storage/*.py src/synod/server/*.py)
compiled: .venv-compiled/.made

# Without the simulator's: it is not compiled, and a test of the other run shows that both cores leave the same traces.
# Without every crash point and every flipped byte of the log: its bytes are the same on both cores, and these two take
# longer than all others together.
# In two parts at the same time: one computes, the other waits for processes and clocks.
test-compiled: .venv-compiled/.made
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target .test-compiled-core .test-compiled-server

.test-compiled-core:
	.venv-compiled/bin/python -m pytest --quiet --numprocesses 2 tests/wire tests/tree tests/replica tests/storage \
	  --deselect tests/storage/test_storage_crash_points.py::test_every_crash_point_and_every_way_to_tear \
	  --deselect tests/storage/test_storage_damage.py::test_a_flipped_byte_is_never_read_as_nothing

.test-compiled-server:
	.venv-compiled/bin/python -m pytest --quiet --numprocesses 2 -m 'not slow' tests/paxos tests/server

SEEDS ?= 300
JOBS ?= 2
sim: .venv/.runs
	$(bin)/synod sim --seeds $(SEEDS) --jobs $(JOBS)

SECONDS ?= 60
torment: .venv/.runs
	$(bin)/synod torment --seconds $(SECONDS) $(TORMENT)

mutants: .venv/.tests
	$(bin)/python tests/mutants/run.py

bench: .venv/.runs
	$(bin)/python -m bench $(BENCH)

bench-quick: .venv/.runs
	$(bin)/python -m bench --quick $(BENCH)

# In three parts at the same time: each waits for starts and take-overs most of the time, and nobody reads the figures.
bench-smoke: .venv/.runs
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target .smoke-load .smoke-killed .smoke-silent

.smoke-load:
	$(bin)/python -m bench --smoke --rows ':|fan-out|first write|memory'

.smoke-killed:
	$(bin)/python -m bench --smoke --rows 'leader killed'

.smoke-silent:
	$(bin)/python -m bench --smoke --rows 'leader silent'

bench-growth: .venv/.runs
	$(bin)/python -m bench --growth $(BENCH)

bench-self: .venv/.runs
	@$(bin)/python -m bench --self $(BENCH)

clean:
	rm -rf .venv .venv-compiled .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# An environment is made once, and brought up to date only when what it was made from has changed.
.venv/.made: constraints.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "There is no '$(PYTHON)' here: install Python 3.11 or newer (Debian: apt-get install python3 python3-venv), or name one with make PYTHON=/path/to/python3."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "synod needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1): name a newer one with make PYTHON=/path/to/python3."; exit 2; }
	@test -x $(bin)/python || { echo 'Making the virtual environment .venv ...'; $(PYTHON) -m venv .venv; } || { rm -rf .venv; \
	  echo "'$(PYTHON)' cannot make a virtual environment: on Debian, apt-get install python3-venv."; exit 2; }
	@$(pip) pip hatchling editables
	@touch $@

.venv/.runs: .venv/.made pyproject.toml
	@echo 'Installing synod ...'
	@$(pip) --no-build-isolation --editable '.[http]'
	@touch $@

.venv/.tests: .venv/.runs
	@echo 'Installing what the tests need ...'
	@$(pip) --group test
	@touch $@

.venv-compiled/.made: .venv/.made pyproject.toml hatch_build.py $(hot)
	@echo 'Compiling the core: this takes one to two minutes ...'
	@test -x .venv-compiled/bin/python || $(PYTHON) -m venv .venv-compiled
	@.venv-compiled/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	@.venv-compiled/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --group test
	@.venv-compiled/bin/python -m pip uninstall --quiet --yes synod
	@SYNOD_COMPILE=1 .venv-compiled/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[http]'
	@touch $@
