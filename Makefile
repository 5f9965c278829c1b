# make book       environment, speech data, notebooks executed, the site
# make test       everything that proves it
# make test-fast  what to run before each commit
# make help       the rest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help book pdf test test-fast lab serve setup data contents lint types layers unit unit-fast notebooks site pages complete clean

# Python 3.11 has exact versions (constraints.txt); any other from 3.10 on takes the newest that fit.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# The environment is made anew when what it is made from changes, and only then.
STAMP := $(VENV)/made-from-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

help: ## say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

$(STAMP):
	@echo "== Environment: $(VENV) with $$($(PYTHON) --version), two minutes the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; say which: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || book/_tools/apt.sh "a virtual environment" python3-venv
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
		|| book/_tools/apt.sh "compiling the PESQ metric" python3-dev
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
		pins="--constraint constraints.txt"; \
	else \
		echo "constraints.txt is for Python 3.11: taking the newest versions that fit"; pins=""; \
	fi; \
	if $(BIN)/python -m pip install --quiet $$pins --editable '.[test]'; then \
		rm -f $(VENV)/made-from-*; touch $@; \
	elif ls $(VENV)/made-from-* >/dev/null 2>&1; then \
		echo "The environment could not be brought up to date (pip says why above): going on with the packages that are there."; \
	else \
		echo "The packages could not be installed (pip says why above). They come from the network, the first time; then try again."; exit 1; \
	fi

setup: $(STAMP) ## the environment alone

data: $(STAMP) ## speech, where it is not there already
	@echo "== Data"
	@$(BIN)/dvae data fetch prompts --quiet \
		|| echo "The speech corpus 'prompts' is not here and could not be fetched (see above): what needs it will say so."

book: $(STAMP) data ## the book: notebooks executed, pages in _build/book/html
	@echo "== Book"
	@DVAE_BUDGET=$${DVAE_BUDGET:-book} $(BIN)/python book/_tools/build.py _build/book
	@echo "The book is built: open $(CURDIR)/_build/book/html/index.html, or run: make serve"

pdf: $(STAMP) ## the whole book as one PDF, from the pages of `make book`
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| book/_tools/apt.sh "printing the pages" chromium
	@$(BIN)/python book/_tools/pdf.py _build/book/html _build/book/book.pdf

lab: $(STAMP) data ## JupyterLab with the notebooks
	@$(BIN)/jupyter lab --notebook-dir=book

serve: ## the built book at http://127.0.0.1:8000
	@test -f _build/book/html/index.html || { echo "There is no book yet: run make book"; exit 1; }
	@echo "http://127.0.0.1:8000 (stop with Ctrl-C)"
	@$(PYTHON) -m http.server 8000 --bind 127.0.0.1 --directory _build/book/html

contents: $(STAMP) ## table of contents and first cells, after adding a page
	@$(BIN)/python book/_tools/contents.py
	@$(BIN)/python book/_tools/first_cells.py

# The steps of a test run one after the other, each with its time; one that fails does not keep the next from running.
steps = $(BIN)/python book/_tools/steps.py $(foreach step,$(1),$(step) "$(MAKE) --no-print-directory $(step)")

test: $(STAMP) data ## lint, types, layers, unit tests, notebooks, site, pages
	@$(call steps,lint types layers unit notebooks site pages)

test-fast: $(STAMP) ## for every commit: lint, types, layers, the quick unit tests
	@$(call steps,lint types layers unit-fast)

lint: $(STAMP)
	@echo "== Lint and format"
	@$(BIN)/ruff check .
	@$(BIN)/ruff check --isolated --select F,E9 book  # notebooks: names that nobody reads, or nobody has given
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@echo "== Types"
	@$(BIN)/mypy

layers: $(STAMP)
	@echo "== Layers"
	@$(BIN)/lint-imports

unit: $(STAMP) data
	@echo "== Unit tests and doctests"
	@OMP_NUM_THREADS=1 $(PYTEST) -q -n $(JOBS) --dist loadfile --durations=15 --durations-min=3

# What most changes can break, and little that draws, trains or fetches: laws of the models, graphs, filters, notebooks.
QUICK := tests/graphs tests/models tests/statespace --ignore tests/graphs/test_drawing.py tests/test_distributions.py \
	tests/test_networks.py tests/training/test_schedules.py tests/training/test_checkpoints.py tests/test_budget.py tests/test_house.py \
	tests/book/test_notebooks.py tests/book/test_contents.py tests/book/test_first_cells.py \
	--ignore tests/models/test_dkf_learned.py --ignore tests/models/test_replay.py \
	-k "not importance_weighted_bound_rises and not schedule_of_feedback_trains and not frequencies_are_the_models"

unit-fast: $(STAMP)
	@echo "== Quick unit tests"
	@OMP_NUM_THREADS=1 $(PYTEST) -q -n $(JOBS) $(QUICK)

# The site under test comes from the notebooks as a reader runs them: each alone, in an empty folder, with the library
# from its wheel. nbval runs them, once, and judges; the pages are made from the same results.
notebooks: $(STAMP) data
	@echo "== Notebooks alone, with the library from its wheel (nbval)"
	@DVAE_BUDGET=ci $(BIN)/python book/_tools/alone.py _build/test/cache --jobs $(JOBS)

site: $(STAMP)
	@echo "== Strict build of the site"
	@rm -rf _build/test/draft
	@DVAE_BUDGET=ci $(BIN)/python book/_tools/build.py _build/test --cache _build/test/cache

pages: $(STAMP)
	@echo "== Published pages in a browser"
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| book/_tools/apt.sh "the tests of the published pages" chromium
	@BOOK_HTML=$(CURDIR)/_build/test/html $(PYTEST) -q -n $(JOBS) tests/book/test_pages.py tests/book/test_search.py tests/book/test_links.py \
		tests/book/test_complete.py tests/book/test_weight.py tests/book/test_previews.py tests/book/test_glossary.py \
		tests/book/test_errata_table.py tests/book/test_formulas.py tests/book/test_axe.py tests/book/test_notebooks_zip.py
	@echo "Screenshots: $(CURDIR)/_build/test/screenshots"

complete: $(STAMP) ## whether the book of `make book` has every page, figure and table
	@echo "== Every page of the book, with all that it speaks of"
	@BOOK_HTML=$(CURDIR)/_build/book/html $(PYTEST) -q tests/book/test_links.py tests/book/test_complete.py tests/book/test_weight.py

clean: ## everything that was built, but not the environment or the data
	@rm -rf _build book/generated book/_static/vendor dist
