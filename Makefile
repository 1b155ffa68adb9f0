# make env | demo [VIDEO=path] | gpu-check | portability [VIDEO=path] | test | test-slow | fuzz [CASES=n] | reliability [KILLS=n] | lint
# | audit. Needs Python 3.10-3.12 and make only.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.10 python3; do \
	$$p -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: env demo gpu-check portability test test-slow fuzz reliability lint audit clean

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "cmfr needs Python 3.10, 3.11 or 3.12 (none found)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: env
	$(BIN)/python scripts/demo.py $(if $(VIDEO),"$(VIDEO)")

gpu-check: env
	$(BIN)/python scripts/gpu_check.py

portability: env
	$(BIN)/python scripts/portability.py $(if $(VIDEO),"$(VIDEO)")

test: env lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: env
	$(BIN)/python -m pytest -m slow

fuzz: env
	$(BIN)/python scripts/fuzz.py $(CASES)

reliability: env
	$(BIN)/python scripts/reliability.py $(KILLS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known holes in what is installed. Strict: a package that could not be looked up is no pass.
audit: env
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip-audit>=2.7,<3'
	$(BIN)/pip freeze --exclude-editable > $(VENV)/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r $(VENV)/installed.txt

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .ruff_cache .mypy_cache
