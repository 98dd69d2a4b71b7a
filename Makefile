PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
CPP_FILES = $(shell find runtimes/cpp tests/helpers/cuda_standin -name '*.[ch]' -o -name '*.[ch]pp')
DEFINITION := pyproject.toml setup.py constraints.txt minit2i_deploy/_version.py

# A thread that waits must sleep: spinning ones cost a factor of ten beside other work.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-python test-cpp test-cuda test-web web check docs clean
.NOTPARALLEL:

demo: $(VENV)/.demo
	$(BIN)/minit2i demo --export $(ARGS)

test: docs test-python test-cpp test-web

# A process a core, and a file's tests in one of them: they share bundles. WORKERS=0 uses none.
WORKERS ?= auto
test-python: check
	$(BIN)/pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile $(ARGS)

# Compiles, with packages that scripts/build_cpp.sh installs as root on Debian.
test-cpp: $(VENV)/.test
	$(BIN)/pytest -m cpp tests $(ARGS)

# onnxruntime-gpu without a GPU: 260 MB the first time, into build/cuda.
test-cuda: $(VENV)/.test
	$(BIN)/pytest -m cuda tests $(ARGS)

# Runs runtimes/web in Node and in Chromium; Debian's is installed where there is none.
test-web: $(VENV)/.test
	sh scripts/setup_web.sh $(BIN)/python
	$(BIN)/pytest -m web tests $(ARGS)

# The shipped models in the browser: build/web, for any file server.
web: $(VENV)/.test
	sh scripts/setup_web.sh $(BIN)/python
	$(BIN)/python scripts/build_web.py build/web

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy minit2i_deploy
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)
	$(BIN)/pytest -q tests/test_import_rules.py

# The pages of docs/ as a site in build/site; a broken link is an error.
docs: $(VENV)/.docs
	$(BIN)/python scripts/cli_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf build dist $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.demo: $(VENV)/.created $(DEFINITION)
	$(INSTALL) -e '.[export]'
	touch $@

$(VENV)/.test: $(VENV)/.created $(DEFINITION)
	$(INSTALL) -e '.[export,train,dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.created $(DEFINITION)
	$(INSTALL) -e '.[docs]'
	touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	    echo 'Python 3.11, 3.12 or 3.13 is wanted; name one: make PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	    echo '$(PYTHON) cannot make virtual environments; run: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	touch $@
