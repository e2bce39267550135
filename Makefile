# `make` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup run test check format lint types floors docs-check openapi bench soak audit lock clean
.PHONY: package deploy deploy-local deploy-local-stop e2e-aws

VENV   ?= .venv
PYTHON := $(VENV)/bin/python
SOURCE := agent_core handlers
export VENV

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv with all that development needs (quick when it is there)
	@scripts/setup.sh dev
	@echo "Ready. Next: make run (talk to an agent), make check (before a commit), make test (everything)."

.PHONY: .setup-run .setup-dev .setup-deploy .setup-cloud
.setup-run:
	@scripts/setup.sh run
.setup-dev:
	@scripts/setup.sh dev
.setup-deploy:
	@scripts/setup.sh deploy
.setup-cloud:
	@scripts/setup.sh cloud

run: .setup-run ## start the server and ask the agent a question: make run [ASK="..."] [PORT=8000] [HOST=127.0.0.1] [DATA=folder] [ONCE=1]
	@exec $(PYTHON) -m agent_core.cli run --demo $(if $(ASK),--ask "$$ASK") $(if $(PORT),--port "$$PORT") \
	    $(if $(filter command,$(origin HOST)),--host "$$HOST") $(if $(DATA),--data "$$DATA") $(if $(ONCE),--once)
# Some shells export a HOST of their own (the machine's name): only the one given to make counts.
# Passed on by the environment, so that quotes in a question stay what they are; `value` keeps its dollar signs too.
override export ASK := $(value ASK)
export PORT HOST DATA

package: .setup-run ## make the zip for AWS Lambda, and list what is in it: make package [ARCH=arm64|x86_64] [PYTHON_VERSION=3.13]
	@$(PYTHON) deploy/aws/package.py $(if $(ARCH),--arch "$(ARCH)") $(if $(PYTHON_VERSION),--python "$(PYTHON_VERSION)")

deploy: .setup-deploy ## deploy to AWS: make deploy [STAGE=dev] [REGION=eu-west-1]; docs/aws.md says what it needs
	@node_modules/.bin/serverless deploy --stage "$(or $(STAGE),dev)" $(if $(REGION),--region "$(REGION)")

deploy-local: .setup-cloud ## deploy to an emulated AWS on this machine, and say how to ask the agent there
	@$(PYTHON) deploy/local/cloud.py up

deploy-local-stop: ## end the emulated AWS; what was in it is gone
	@$(PYTHON) deploy/local/cloud.py down

e2e-aws: .setup-dev .setup-deploy ## deploy to your own AWS account, ask everything, remove it: make e2e-aws [REGION=eu-west-1]
	@$(PYTHON) -m tests.e2e.aws.account $(if $(REGION),--region "$(REGION)")

test: check .setup-cloud ## everything CI runs: the checks, then all tests
	$(PYTHON) -m pytest -q -n 2 -m "not measured"
	$(PYTHON) -m pytest -q -m measured

check: format-check lint types floors docs-check ## what must hold before a commit: format, lint, types, floors, docs (under a minute)

format: .setup-dev ## put the code in form
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix-only -q .

.PHONY: format-check
format-check: .setup-dev
	$(PYTHON) -m ruff format --check -q .

lint: .setup-dev ## ruff, with the rules of pyproject.toml
	$(PYTHON) -m ruff check .

types: .setup-dev ## mypy --strict
	$(PYTHON) -m mypy $(SOURCE)

floors: .setup-dev ## who may import whom, and the other rules of the tree
	$(PYTHON) -m pytest -q tests/test_architecture.py

docs-check: .setup-dev ## the OpenAPI document is up to date
	$(PYTHON) -m agent_core.api.openapi --check

openapi: .setup-dev ## make the OpenAPI document from the code
	$(PYTHON) -m agent_core.api.openapi

bench: .setup-dev ## measure speed, memory and cost, and write the tables of benchmarks/README.md
	env -u PYTHONDONTWRITEBYTECODE $(PYTHON) -m compileall -q $(SOURCE)
	$(PYTHON) -m benchmarks

soak: .setup-dev ## the long versions of the proofs of durability and of fuzzing, and the server under load: make soak [MINUTES=5] [PROOFS="disorder"]
	$(PYTHON) -m tests.durability.soak $(PROOFS)
	$(PYTHON) -m benchmarks.soak --minutes $(or $(MINUTES),5)
	$(PYTHON) -m tests.fuzz.run --seconds 60

audit: .setup-dev ## list all packages (build/sbom.cdx.json), and ask whether any has a known hole
	$(PYTHON) scripts/make_sbom.py
	$(PYTHON) scripts/audit.py

lock: ## resolve requirements/*.txt anew, with hashes and without addresses: make lock [UPGRADE=1]
	@scripts/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## remove what was made here, but not your data
	rm -rf $(VENV) .make node_modules build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage* htmlcov
	find . -name __pycache__ -not -path './node_modules/*' -prune -exec rm -rf {} +
