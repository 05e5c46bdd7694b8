# Two commands do everything, set-up included: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := bash
PY := .venv/bin/python
SEEDS ?= 1000
DEMO ?=

.PHONY: help setup demo test lint compile monitoring simulate lock clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: ## virtual environment, locked dependencies, Debian packages
	@scripts/setup.sh

demo: setup ## the main job: from metrics to a healed incident; DEMO='--fault bad-rollout' passes options
	@.venv/bin/clusterheal demo $(DEMO)

test: setup lint ## every test whose needs are met; lists what was skipped and why
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)
	@$(PY) -m clusterheal.local.simulation --seeds $(SEEDS)

lint: setup ## formatting, lint, types, import rules
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

compile: setup ## regenerate pipelines/compiled and the components' READMEs
	@.venv/bin/clusterheal pipeline compile

monitoring: setup ## regenerate service level rules and dashboards from scripts/monitoring
	@$(PY) -m scripts.monitoring

simulate: setup ## the engine under seeded faults: SEEDS=1000
	@$(PY) -m clusterheal.local.simulation --seeds $(SEEDS)

lock: ## write constraints.txt from what is installed in .venv
	@$(PY) -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## remove what runs leave behind, not .venv
	rm -rf out dist local_outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis
