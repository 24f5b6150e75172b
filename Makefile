# The only commands that CI and the README use. Each sets up what is missing first; a second call starts at once.
#
#   make finetune TASK=summarize                    fine-tune, evaluate, report (embedded base and samples)
#   make finetune TASK=qa MODEL=org/name DATA=my.jsonl QUANT=nf4 ARGS="train.num_train_epochs=1"
#   make evaluate RUN=runs/summarize | predict RUN=.. INPUT=.. OUTPUT=.. | report RUN=..
#   make push RUN=runs/summarize REPO=user/name WITH_BASE=1 DRY_RUN=1 | export RUN=.. OUT=..
#   make inspect TASK=qa | pretrain | samples | setup | test | lint | types | format | clean
#   RESUME=1 goes on with a run that exists, OVERWRITE=1 begins it anew; llama-tasks --help has more commands, in .venv/bin
#   make bench ARGS="RUN ..." | bench-speed | bench-ablation | bench-decode | bench-generate | bench-choices | bench-imports | bench-gpu | bench-plan | bench-loop | bench-tables      docs/performance.md

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
TASK ?= summarize
ARGS ?=

bin := $(VENV)/bin
llama-tasks := $(bin)/llama-tasks
overrides = $(if $(MODEL),'base.model=$(MODEL)') $(if $(DATA),'data.train=$(DATA)') $(if $(QUANT),base.quantization=$(QUANT)) $(if $(OUT),'output=$(OUT)') $(ARGS)
flags = $(if $(RESUME),--resume) $(if $(OVERWRITE),--overwrite)

benches := bench-speed bench-ablation bench-decode bench-generate bench-choices bench-imports bench-gpu bench-plan bench-loop bench-tables

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev finetune inspect evaluate predict report export push samples pretrain test lint types format bench $(benches) clean

help:
	@sed -n -e 's/^#  *\(make .*\)/\1/p' -e 's/^#  *\(RESUME=1 .*\)/\1/p' Makefile

setup: $(VENV)/ready
setup-dev: $(VENV)/ready-dev

# uv where it is installed, else pip; constraints.txt names the versions that were tested together. Modules are compiled when they
# are first imported: to compile all of them takes pip longer than to install them. Where PYTHONDONTWRITEBYTECODE is set, as in
# many containers, no import would keep what it compiled, and each command would take twice as long to start: there all of them are,
# once, by all cores (packages bring files that cannot be compiled, and are not to be).
$(VENV)/ready $(VENV)/ready-dev: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "llama-tasks needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@if command -v uv >/dev/null; then \
		set -x; test -x $(bin)/python || uv venv --python $(PYTHON) $(VENV); \
		uv pip install --python $(bin)/python $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode) --constraint $(CONSTRAINTS) --editable '.$(if $(findstring ready-dev,$(notdir $@)),[dev])'; \
	else \
		set -x; test -x $(bin)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
		$(bin)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint $(CONSTRAINTS) --editable '.$(if $(findstring ready-dev,$(notdir $@)),[dev])' \
			$(if $(PYTHONDONTWRITEBYTECODE),&& { $(bin)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true; }); \
	fi
	@touch $(VENV)/ready $@

finetune: export LLAMA_TASKS_COMMAND = $(strip make finetune TASK=$(TASK) $(foreach name,MODEL DATA QUANT OUT ARGS,$(if $($(name)),$(name)='$($(name))')))
finetune: setup
	@$(llama-tasks) finetune recipes/$(TASK).yaml $(overrides) $(flags)

inspect: setup
	@$(llama-tasks) inspect recipes/$(TASK).yaml $(overrides)

evaluate: setup
	@$(llama-tasks) evaluate '$(RUN)' $(ARGS)

predict: setup
	@$(llama-tasks) predict '$(RUN)' --input '$(INPUT)' --output '$(OUTPUT)' $(ARGS)

report: setup
	@$(llama-tasks) report '$(RUN)' $(ARGS)

export: setup
	@$(llama-tasks) export '$(RUN)' '$(OUT)' $(ARGS)

push: setup
	@$(llama-tasks) push '$(RUN)' '$(REPO)' $(if $(DRY_RUN),--dry-run) $(if $(PUBLIC),--public) $(if $(BASE),--base-model $(BASE)) $(if $(BASE_REVISION),--base-revision $(BASE_REVISION)) $(if $(WITH_BASE),--with-base) $(ARGS)

samples: setup
	$(bin)/python recipes/embedded/make_samples.py

pretrain: export LLAMA_TASKS_COMMAND = make pretrain
pretrain: setup
	$(bin)/python recipes/embedded/make_practice.py
	@$(llama-tasks) finetune recipes/pretrain.yaml $(flags) $(ARGS)
	@$(llama-tasks) finetune recipes/pretrain_drills.yaml $(flags) $(ARGS)

test: setup-dev
	@$(bin)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup-dev
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .

format: setup-dev
	@$(bin)/ruff check --fix .
	@$(bin)/ruff format .

types: setup-dev
	@$(bin)/mypy

bench: setup-dev
	@$(bin)/python bench/peer.py $(ARGS)

$(benches): bench-%: setup-dev
	@$(bin)/python bench/$*.py $(ARGS)

clean:
	rm -rf $(VENV) build dist
