# Everything a newcomer needs, from a machine with python3 and make alone. `make` lists it.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help run run-mysql test faults bench docs messages clean
# One thing at a time, also under -j: the steps share .venv.
.NOTPARALLEL:

PYTHON ?= python3
# Options for the daemon, as in: make run ARGS='--http tcp:9000'
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
RUN := $(CURDIR)/.run
# Editable, and in the way that lets twistd find the plugin, too.
INSTALL := $(BIN)/python -m pip install -qq --config-settings editable_mode=compat --editable
# Tools of the virtual environment answer before the machine's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONPATH PYTHONHOME

# Every test runs under both runners, but for the longest: those with processes and databases of
# their own, searches, and stories, which are told over every wire.
MODULES := $(patsubst tests/%.py,tests.%,$(wildcard tests/test_*.py))
TRIAL_ALONE := $(addprefix tests.test_,activation crowds fsck integration names outages \
	permissions receipts reload schema signals store_accounts store_contacts store_groups \
	store_log store_messages store_overview store_presence store_rooms)
PYTEST_ALONE := $(addprefix tests.test_,bad_input chatctl commands conformance connections daemon \
	delivery friends groups guessing hostile_text languages limits machine messages metrics \
	packaging people presence profile properties revocations rooms scenarios_% search secrets \
	sessions websocket)

help: ## list what there is to do
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

run: $(VENV)/installed ## try chatd: SQLite, this machine only; ARGS='…' are its options
	@exec $(BIN)/twistd --nodaemon --pidfile= chatd $(ARGS)

run-mysql: $(VENV)/installed ## the same on a private MariaDB, kept in .run/mariadb
	@tools/servers
	@exec $(BIN)/python tools/mariadb.py "$(RUN)/mariadb" $(ARGS)

test: $(VENV)/installed-test ## all checks and tests
	@tools/servers
	ruff check --quiet .
	ruff format --check --quiet .
	mypy --no-error-summary
	@mkdir -p $(RUN)
	@# Both runners at once, for two cores; each tells the whole of what it found.
	@# (A shell lets its background jobs ignore interrupts, and tests send some.)
	@env --default-signal=INT python -m twisted.trial --reporter=text --temp-directory=$(RUN)/trial \
		$(filter-out $(PYTEST_ALONE),$(MODULES)) > $(RUN)/trial.log 2>&1 & trial=$$!; \
	python -m pytest --quiet $(TRIAL_ALONE:tests.%=--ignore=tests/%.py); pytest=$$?; \
	wait $$trial; trial=$$?; \
	echo "python -m twisted.trial tests"; tail -n 100 $(RUN)/trial.log; \
	exit $$((pytest | trial))
	@python -m tests.faults --once

faults: $(VENV)/installed-test ## kill, stall, fill and flood what runs, search long; ARGS='--report FILE'
	@tools/servers
	@env --default-signal=INT python -m tests.faults $(ARGS)
	@CHATD_SEARCH=long python -m pytest --quiet tests/test_machine.py tests/test_people.py \
		tests/test_properties.py

bench: $(VENV)/installed-test ## measure throughput and latency on this machine
	@tools/servers
	@exec $(BIN)/python -m bench $(ARGS)

docs: $(VENV)/installed ## write docs/protocol.md from the code
	@$(BIN)/python -m tools.protocol > docs/protocol.md

messages: $(VENV)/installed-test ## bring chatd/locales up to date; tells what is to be translated
	@$(BIN)/python -m tools.messages

clean: ## remove what make made: .venv, .run and its database, caches
	rm -rf $(VENV) .run build dist chatd.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f twisted/plugins/dropin.cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# Debian keeps the part of venv that installs pip in a package of its own.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "chatd needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) -V 2>&1`." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tools/install python3-venv
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg | $(BIN)/pip
	@echo "Installing chatd in $(VENV) ..."
	@$(INSTALL) .
	@$(plugins)
	@touch $@

$(VENV)/installed-test: setup.cfg | $(BIN)/pip
	@echo "Installing chatd and its tests' tools in $(VENV) ..."
	@$(INSTALL) '.[test]'
	@$(plugins)
	@touch $@ $(VENV)/installed

# twistd reads the list of plugins from dropin.cache, and makes it anew when asked for all of them.
plugins = $(BIN)/python -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'
