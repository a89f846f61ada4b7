# Two commands do it all on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test coverage chaos benchmark audit schemas clean

demo: $(VENV)/demo.stamp
	@$(BIN)/offkey demo

# Four processes on two cores: many tests wait for a broker.
test: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses=4 --dist=worksteal

# The same tests, a fifth slower, and which lines and branches none of them has run.
coverage: $(VENV)/test.stamp
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --numprocesses=4 --dist=worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90

# Faults, kills, malformed payloads and full load on Apache Kafka, for three quarters of an hour; KAFKA_HOME as for
# `benchmark`.
CHAOS_SEEDS ?= 20
KILL_SEEDS ?= 10
CHAOS_PAYLOADS ?= 1000000
CHAOS_SOAK_S ?= 600

chaos: $(VENV)/test.stamp
	$(BIN)/python -m pytest tests/chaos --chaos-seeds $(CHAOS_SEEDS) --kill-seeds $(KILL_SEEDS) \
		--chaos-payloads $(CHAOS_PAYLOADS) --chaos-soak-s $(CHAOS_SOAK_S)

# Figures for tests/benchmarks/results; KAFKA_HOME must name a folder with Apache Kafka's libs/.
benchmark: $(VENV)/test.stamp
	$(BIN)/python -m tests.benchmarks.worker_throughput
	$(BIN)/python -m tests.benchmarks.arrow_throughput
	$(BIN)/python -m tests.benchmarks.recorder

# Packages with known holes among those that are installed. It asks PyPI, so it is no part of `test`; one that PyPI
# does not know fails it, for nobody can tell then.
audit: $(VENV)/test.stamp
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit; }
	$(BIN)/pip list --format=freeze --exclude-editable --disable-pip-version-check | sed 's/+.*//' > $(VENV)/audited.txt
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)/audited.txt

# What is generated from the code and shipped with it.
schemas: $(VENV)/test.stamp
	$(BIN)/python -m tests.schemas
	$(BIN)/python -m deploy.grafana.write

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info .coverage* .*_cache .hypothesis

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable '.[demo,dev]'
	@touch $@
