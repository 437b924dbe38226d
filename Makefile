# The project's commands. `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
SECONDS ?= 60
ARGS ?=
# Processes that run tests at the same time. Those of `make test-system` mostly wait for the processes that they start.
TEST_PROCESSES ?= 3
SYSTEM_TEST_PROCESSES ?= 4
# COVERAGE=1 measures the coverage, with branches. It takes half as long again; CI sets it.
COVERAGE ?=
COVERAGE_ARGS = $(if $(COVERAGE),--cov --cov-fail-under=89)

PY = $(VENV)/bin/python
PYTEST = $(PY) -m pytest --dist worksteal

# Without its bytecode cache, Python compiles all modules again in each process that the tests start.
unexport PYTHONDONTWRITEBYTECODE

# For all supported Pythons and platforms. The lock files name no package index: pip uses the one that is configured.
UPGRADE ?=
LOCK = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(UPGRADE)

# Front ends and clients of other people, for the tests. Without npm, the tests that need them are skipped.
PACKAGES = tests/packages

# The servers that the benchmark compares with.
PEERS = benchmarks/peers

# nox makes the environments of its own, in .nox.
MATRIX_ARGS = $(if $(ARGS),$(ARGS),--session core)

.DEFAULT_GOAL := help
.PHONY: help run test test-system matrix lint format messages docs bench chaos clean venv install install-dev install-peers env lock

help: ## Show what can be done
	@echo "make COMMAND, where COMMAND is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-13s %s\n", $$1, $$2 }'
	@echo "Variables: PYTHON=python3.12 chooses the interpreter, PORT=8001 the port, ARGS='-k board' is for pytest."

run: install env ## Serve the demo site on http://127.0.0.1:8000, ready to log in
	@$(PY) manage.py migrate --verbosity 0
	@$(PY) manage.py create_demo_user
	@echo "The site:  http://$(HOST):$(PORT)/"
	@echo "The admin: http://$(HOST):$(PORT)/admin/"
	@exec $(PY) manage.py runserver $(HOST):$(PORT)

test: install-dev ## Run the tests on SQLite, and those that use the database again on PostgreSQL
	@rm -f .coverage .coverage.*
	$(PYTEST) -n $(TEST_PROCESSES) -m "not system" $(COVERAGE_ARGS) $(ARGS)
	$(PY) -m tests.support.services.postgres $(PYTEST) -n $(TEST_PROCESSES) -m "not system" $(ARGS) \
		|| { [ $$? -eq 5 ] && [ -n "$(ARGS)" ]; } # pytest ends with 5 if none of the selected tests uses the database

test-system: install-dev ## Run the tests that start servers, browsers, services and whole test suites
	$(PYTEST) -n $(SYSTEM_TEST_PROCESSES) -m system $(ARGS)

matrix: install-dev ## Run the core's tests on each Django and Python that is supported and here (takes minutes)
	$(VENV)/bin/nox $(MATRIX_ARGS)

lint: install-dev ## Check form, types and migrations
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	DJANGO_SETTINGS_MODULE=tests.settings $(PY) manage.py makemigrations --check --dry-run

format: install-dev ## Bring the code into form
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

messages: install-dev ## Bring the translations' catalogues up to date, and compile them (needs gettext)
	cd streams && ../$(VENV)/bin/django-admin makemessages --all --no-location --no-obsolete
	cd streams && ../$(VENV)/bin/django-admin compilemessages

docs: install-dev ## Build the documentation site into docs/_build/html
	$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going --builder dirhtml docs docs/_build/html $(ARGS)

bench: install-dev install-peers ## Compare with a bare ASGI app and with other servers (takes most of an hour)
	$(PY) -m benchmarks $(ARGS)

chaos: install-dev ## Kill, stop and cut off parts of a whole site for SECONDS=60, and count what its clients missed
	$(PY) -m tests.system.chaos --seconds $(SECONDS) $(ARGS)

clean: ## Remove .venv, caches and reports; the data in .local and .env stay
	rm -rf .venv $(PACKAGES)/node_modules $(PEERS)/.venv $(PEERS)/node_modules .nox .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov docs/_build build dist *.egg-info .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is what comes into a virtual environment last.
venv:
	@[ -x $(PY) ] && [ -x $(VENV)/bin/pip ] || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "Streams needs Python 3.11 or newer; $(PYTHON) is not. Name another: make PYTHON=python3.12 …" >&2; \
			exit 1; \
		}; \
		echo "Making $(VENV) …" && $(PYTHON) -m venv $(VENV) && $(PY) -m pip install --quiet --upgrade pip; }

lock: install-dev ## Update the lock files after a change of the requirements (UPGRADE=--upgrade takes newer versions)
	$(LOCK) requirements.txt --output-file requirements.lock
	$(LOCK) requirements-dev.txt --constraints requirements.lock --output-file requirements-dev.lock

# The lock file that was installed is copied to the environment, so that pip runs again only if the lock file changes.
install: venv
	@cmp -s requirements.lock $(VENV)/installed.lock || { \
		echo "Installing requirements.lock …" && \
		$(PY) -m pip install --quiet --require-hashes -r requirements.lock && \
		cp requirements.lock $(VENV)/installed.lock; }

install-dev: install
	@cmp -s requirements-dev.lock $(VENV)/installed-dev.lock || { \
		echo "Installing requirements-dev.lock …" && \
		$(PY) -m pip install --quiet --require-hashes -r requirements-dev.lock && \
		cp requirements-dev.lock $(VENV)/installed-dev.lock; }
	@! command -v npm >/dev/null || cmp -s $(PACKAGES)/package-lock.json $(PACKAGES)/node_modules/installed.json || { \
		echo "Installing $(PACKAGES) …" && \
		npm ci --silent --ignore-scripts --prefix $(PACKAGES) && \
		cp $(PACKAGES)/package-lock.json $(PACKAGES)/node_modules/installed.json; }

# The benchmark's peers have an environment of their own. What both have, such as Django and uvicorn, is of the same version
# as in the project's. A peer that cannot be installed is skipped.
install-peers: install-dev
	@cmp -s $(PEERS)/requirements.txt $(PEERS)/.venv/installed.txt || { \
		echo "Installing $(PEERS)/requirements.txt …" && \
		$(PY) -m venv $(PEERS)/.venv && \
		$(PY) -m pip freeze --exclude-editable > $(PEERS)/.venv/constraints.txt && \
		$(PEERS)/.venv/bin/python -m pip install --quiet -r $(PEERS)/requirements.txt -c $(PEERS)/.venv/constraints.txt && \
		cp $(PEERS)/requirements.txt $(PEERS)/.venv/installed.txt; } || echo "The peers in Python are skipped."
	@! command -v npm >/dev/null || cmp -s $(PEERS)/package.json $(PEERS)/node_modules/installed.json || { \
		echo "Installing $(PEERS)/package.json …" && \
		npm install --silent --no-package-lock --ignore-scripts --prefix $(PEERS) && \
		cp $(PEERS)/package.json $(PEERS)/node_modules/installed.json; } || echo "The peers in JavaScript are skipped."

env:
	@[ -e .env ] || { umask 077 && echo "Writing .env for development …" && \
		$(PY) -c 'import secrets; print("DEBUG=true", "SECRET_KEY=" + secrets.token_urlsafe(50), sep="\n")' > .env; }
