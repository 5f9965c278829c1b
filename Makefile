# make book    environment, speech data, notebooks executed, the site
# make test    everything that proves it
# make help    the rest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help book test lab serve setup data contents lint types layers unit notebooks site pages clean

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
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

$(STAMP):
	@echo "== Environment: $(VENV) with $$($(PYTHON) --version), two minutes the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; say which: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || book/_tools/apt.sh "a virtual environment" python3-venv
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
		|| book/_tools/apt.sh "compiling the PESQ metric" python3-dev
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'; \
	else \
		echo "constraints.txt is for Python 3.11: taking the newest versions that fit"; \
		$(BIN)/python -m pip install --quiet --editable '.[test]'; \
	fi
	@rm -f $(VENV)/made-from-*
	@touch $@

setup: $(STAMP) ## the environment alone

data: $(STAMP) ## speech, where it is not there already
	@echo "== Data"
	@$(BIN)/dvae data fetch prompts --quiet

book: $(STAMP) data ## the book: notebooks executed, pages in _build/book/html
	@echo "== Book"
	@DVAE_BUDGET=$${DVAE_BUDGET:-book} $(BIN)/python book/_tools/build.py _build/book
	@echo "The book is built: open $(CURDIR)/_build/book/html/index.html, or run: make serve"

lab: $(STAMP) data ## JupyterLab with the notebooks
	@$(BIN)/jupyter lab --notebook-dir=book

serve: ## the built book at http://127.0.0.1:8000
	@test -f _build/book/html/index.html || { echo "There is no book yet: run make book"; exit 1; }
	@echo "http://127.0.0.1:8000 (stop with Ctrl-C)"
	@$(PYTHON) -m http.server 8000 --bind 127.0.0.1 --directory _build/book/html

contents: $(STAMP) ## table of contents and first cells, after adding a page
	@$(BIN)/python book/_tools/contents.py
	@$(BIN)/python book/_tools/first_cells.py

test: lint types layers unit notebooks site pages ## lint, types, layers, unit tests, notebooks, site, pages
	@echo "== All tests passed"

lint: $(STAMP)
	@echo "== Lint and format"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@echo "== Types"
	@$(BIN)/mypy

layers: $(STAMP)
	@echo "== Layers"
	@$(BIN)/lint-imports

unit: $(STAMP) data
	@echo "== Unit tests and doctests"
	@OMP_NUM_THREADS=1 $(PYTEST) -q -n $(JOBS) --dist loadfile

# The site under test comes from the notebooks as a reader runs them: each alone, in an empty folder, with the library
# from its wheel. nbval runs them a second time in place, in the environment that `make lab` uses.
notebooks: $(STAMP) data
	@echo "== Notebooks alone, with the library from its wheel"
	@DVAE_BUDGET=ci $(BIN)/python book/_tools/alone.py _build/test/cache
	@echo "== Notebooks in place (nbval)"
	@DVAE_BUDGET=ci OMP_NUM_THREADS=1 $(PYTEST) -q -n $(JOBS) --dist loadfile -o addopts= -o filterwarnings= \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=600 --nbval-kernel-startup-timeout=180 $(wildcard book/*.ipynb book/*/*.ipynb)

site: $(STAMP)
	@echo "== Strict build of the site"
	@rm -rf _build/test/html _build/test/doctrees
	@DVAE_BUDGET=ci $(BIN)/python book/_tools/build.py _build/test --cache _build/test/cache

pages: $(STAMP)
	@echo "== Published pages in a browser"
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| book/_tools/apt.sh "the tests of the published pages" chromium
	@BOOK_HTML=$(CURDIR)/_build/test/html $(PYTEST) -q -n $(JOBS) --dist loadgroup tests/book/test_pages.py tests/book/test_links.py
	@echo "Screenshots: $(CURDIR)/_build/test/screenshots"

clean: ## everything that was built, but not the environment or the data
	@rm -rf _build book/generated book/_static/vendor dist
