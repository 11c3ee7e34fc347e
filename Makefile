# minillm. Two commands do everything on a fresh machine: `make book` and `make test`.
# Without make (Windows): python tools/environment.py, then the commands below by hand.

PYTHON ?= python3
RUN := .venv/bin/python
export TORCH ?= cpu
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: help env book test test-book test-slow test-real lint lab export assets pretrained results class bench clean execute

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## .venv, made or refreshed when the pins changed (TORCH=cuda for a GPU)
	@$(PYTHON) tools/environment.py

execute: env
	@$(RUN) tools/execute.py

book: execute ## the executed book: book/_build/html/index.html
	@$(RUN) tools/build_book.py

test: env ## every test that needs no browser and no network; coverage of minillm
	@OMP_NUM_THREADS=1 $(RUN) -m pytest --cov --cov-report=term-missing:skip-covered

test-book: book ## the built book and JupyterLab in headless Chromium (needs chromium, node, npm)
	@$(RUN) -m pytest tests/book -p no:cacheprovider

test-slow: env ## the long tests
	@OMP_NUM_THREADS=1 $(RUN) -m pytest tests/slow

test-real: env ## on real text: make test-real DATA=folder
	@test -n "$(or $(DATA),$(MINILLM_REAL_DATA))" || { echo "name the folder with the texts: make test-real DATA=folder"; exit 2; }
	@MINILLM_REAL_DATA="$(abspath $(or $(DATA),$(MINILLM_REAL_DATA)))" OMP_NUM_THREADS=1 $(RUN) -m pytest tests/real

lint: env ## ruff and mypy
	@.venv/bin/ruff check
	@.venv/bin/mypy

lab: env ## JupyterLab with the chapters
	@cd nbs && ../.venv/bin/jupyter lab

export: env ## nbs/ → minillm/
	@$(RUN) tools/export.py

assets: env ## rebuild what is shipped and made by program: the sample tokenizer
	@$(RUN) tools/build_tokenizer.py

pretrained: env ## train, judge and pack the model that comes with minillm: half an hour or so on two cores, goes on where it was killed
	@$(RUN) tools/build_storyteller.py
	@$(RUN) tools/build_attention_story.py

results: env ## re-run the stale long experiments and write results/*.json
	@$(RUN) tools/results.py

class: env ## class/: an nbgrader course with the practice exercises
	@$(RUN) tools/make_class.py --out class

bench: env ## side by side with public libraries: make bench FILES="a.txt b.txt" GPT2=folder
	@$(RUN) benchmarks/bpe_training.py $(FILES)
	@$(RUN) benchmarks/attention.py
	@$(RUN) benchmarks/gqa.py
	@$(RUN) benchmarks/model.py
	@$(RUN) benchmarks/loss.py
	@$(RUN) benchmarks/precision.py
	@if [ -n "$(FILES)" ]; then $(RUN) benchmarks/batches.py $(FILES); else echo "batches are measured with FILES=… only"; fi
	@if [ -n "$(GPT2)" ] && [ -n "$(FILES)" ]; then $(RUN) benchmarks/encoding.py --gpt2 $(GPT2) $(FILES); \
	else echo "encoding is measured with GPT2=folder (vocab.json, merges.txt) and FILES=… only"; fi

clean: ## remove what was built (not .venv)
	@rm -rf book/_build class build dist .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.* minillm_book.egg-info/SOURCES.txt
