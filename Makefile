# `make` lists the commands. Everything they install goes into .venv, everything they write into .local.

PYTHON ?= python3
export PYTHON

RUN := .venv/bin/python
OURS := api client config jobs models observe ops worker.py wsgi.py
INTO := .
VENV := @sh ops/venv.sh
COMPILE := $(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.PHONY: help run kafka test check docs chaos bench picture backup restore archive proto collection vulnerabilities mutants lock
# One recipe after the other: `make -j check` would mix their output.
.NOTPARALLEL:

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

run: ## run the whole service here, in the foreground (PORT, WALLET_HOME, WORKERS, DATABASE_URL, REDIS_URL, TRANSPORT)
	$(VENV) requirements-local.txt
	@exec $(RUN) -m ops.local.stack --follow-parent

kafka: ## run a Kafka broker here, in the foreground, for KAFKA_BROKERS (BROKERS=3: a cluster of three; needs Java, Maven)
	$(VENV) requirements-local.txt
	@exec $(RUN) -m ops.local.kafka --follow-parent

test: ## run all tests, on throw-away servers of their own
	$(VENV) requirements-dev.txt
	@PYTHONDONTWRITEBYTECODE= exec $(RUN) -m pytest

check: ## what CI runs: format, lint, types, import rules, documentation, tests with coverage
	$(VENV) requirements-dev.txt
	@$(RUN) -m ruff format --check --quiet .
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m mypy
	@$(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest --cov --cov-report=
	@exec $(RUN) -m coverage report --fail-under=95

docs: ## build the documentation into a site, docs/_build/html; a dead link or a page that no index names fails
	$(VENV) requirements-dev.txt
	@# Anew each time: what has not changed may lead to what is gone.
	@$(RUN) -m sphinx --quiet --fail-on-warning --fresh-env -d docs/_build/doctrees -c docs . docs/_build/html
	@echo docs/_build/html/index.html

bench: ## measure how fast it is, beside yardsticks, in some 30 minutes (BENCH_ROUNDS, BENCH_JOBS)
	$(VENV) requirements-local.txt
	@exec $(RUN) -m bench $(if $(BENCH_ROUNDS),--rounds $(BENCH_ROUNDS)) $(if $(BENCH_JOBS),--jobs $(BENCH_JOBS))

picture: ## record the README's picture anew: docs/picture.svg (needs curl)
	$(VENV) requirements-local.txt
	@exec $(RUN) -m bench.picture

chaos: ## load and kill -9 for a minute, then audit the books (SECONDS=60 SEED=1 TRANSPORT=rq)
	$(VENV) requirements-dev.txt
	@exec env PYTHONPATH=client $(RUN) -m tests.chaos --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1) --transport $(or $(TRANSPORT),rq)

backup: ## write the books to a file (FILE, WALLET_HOME, DATABASE_URL), beside a running service or without one
	$(VENV) requirements-local.txt
	@exec $(RUN) -m ops.backup dump $(if $(FILE),"$(FILE)")

restore: ## bring the books back from FILE, into an empty database (WALLET_HOME, DATABASE_URL, REDIS_URL)
	$(VENV) requirements-local.txt
	@exec $(RUN) -m ops.backup restore "$(or $(FILE),$(error FILE=… names the backup to restore))"

archive: ## let entries from before a day leave for files in FOLDER (BEFORE, WALLET_HOME, DATABASE_URL), while it runs
	$(VENV) requirements-local.txt
	@exec $(RUN) -m ops.archive move "$(or $(BEFORE),$(error BEFORE=… is the day before which entries leave))" \
		"$(or $(FOLDER),$(error FOLDER=… is where their files are kept))"

proto: ## generate the gRPC code anew, wallet/v1/ from proto/ (INTO: below another folder)
	$(VENV) requirements-dev.txt
	@mkdir -p "$(INTO)/wallet/v1"
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(RUN) -m grpc_tools.protoc --proto_path=proto \
		--python_out="$(INTO)" --grpc_python_out="$(INTO)" --mypy_out=quiet:"$(INTO)" --mypy_grpc_out=quiet:"$(INTO)" \
		wallet/v1/wallet.proto

collection: ## generate the collection for Bruno anew, docs/bruno/ from the OpenAPI document (INTO: below another folder)
	$(VENV) requirements-local.txt
	@rm -rf "$(INTO)/docs/bruno"
	@DATABASE_URL=postgresql://nowhere/wallet REDIS_URL=redis://nowhere AUTH_MODE=user-id \
		$(RUN) -m flask collection "$(INTO)/docs/bruno"

vulnerabilities: ## ask whether a package that is installed has a known weakness, and look for weaknesses in the code
	$(VENV) requirements-dev.txt
	@$(RUN) -m bandit --quiet --configfile pyproject.toml --recursive $(OURS)
	@exec $(RUN) -m pip_audit --requirement requirements-local.txt --disable-pip --strict

mutants: ## change the code that computes money in every small way, and see a test fail for each
	$(VENV) requirements-dev.txt
	@rm -rf .mutants && mkdir .mutants && cp -r models tests pyproject.toml .mutants
	@cd .mutants && ../$(RUN) -m mutmut run --max-children 2 && ../$(RUN) -m mutmut results

lock: ## pin all packages anew, from the requirements*.in
	$(VENV) requirements-dev.txt
	@$(COMPILE) -o requirements.txt requirements.in
	@$(COMPILE) -o requirements-local.txt -c requirements.txt requirements-local.in
	@$(COMPILE) -o requirements-dev.txt -c requirements-local.txt requirements-dev.in
