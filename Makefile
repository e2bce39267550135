# `make` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup run test check format lint types floors docs-check openapi bench soak lock clean

VENV   ?= .venv
PYTHON := $(VENV)/bin/python
SOURCE := agent_core handlers
export VENV

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv with all that development needs (quick when it is there)
	@scripts/setup.sh dev
	@echo "Ready. Next: make run (talk to an agent), make check (before a commit), make test (everything)."

.PHONY: .setup-run .setup-dev
.setup-run:
	@scripts/setup.sh run
.setup-dev:
	@scripts/setup.sh dev

run: .setup-run ## start the server and ask the agent a question: make run [ASK="..."] [PORT=8000] [HOST=127.0.0.1] [DATA=folder]
	@$(PYTHON) -m agent_core.cli run --demo $(if $(ASK),--ask "$$ASK") $(if $(PORT),--port "$$PORT") \
	    $(if $(HOST),--host "$$HOST") $(if $(DATA),--data "$$DATA")
export ASK PORT HOST DATA
