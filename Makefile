# make run    set up, then one chapter from end to end: its notebook, its page in build/, its result table
# make lab    set up, then JupyterLab at chapter 00
# make test   set up, then everything that CI runs
# make book   set up, then the book: a site from the notebooks with their stored outputs, in build/book/html
PYTHON ?= python3
CHAPTER ?= 03
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run lab test book bench bake clean

run: $(READY)
	$(BIN)/course run $(CHAPTER)

lab: $(READY)
	$(BIN)/course lab

test: $(READY)
	$(BIN)/python tests/run.py

book: $(VENV)/.book
	$(BIN)/course book

bench: $(VENV)/.bench
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bake: $(VENV)/.bake
	$(BIN)/python data_scripts/bake_body.py

clean:
	rm -rf build
	find notebooks solutions course_lib -name '.*.tmp' -delete

# PyTorch first and alone: what comes after then accepts the build that is there and fetches no second one.
# The stamp holds the seconds that this took.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
$(READY): pyproject.toml
	start=$$(date +%s) && \
	{ test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && \
	$(PIP) torch==2.13.0 && \
	$(PIP) -e '.[test]' && \
	echo $$(( $$(date +%s) - start )) > $@

$(VENV)/.bench $(VENV)/.bake $(VENV)/.book: $(VENV)/.%: $(READY)
	$(PIP) -e '.[$*]'
	touch $@
