# make demo        quantize the embedded model and draw the comparison, in build/demo (the default)
# make test        lint, format check and the tests
# make test-all    the same, and tests that repeat others with more inputs, or run benchmarks/ and gpu/
# make test-portable  all tests under nine settings of instruction sets and threads: hours; some of them:
#                  make test-portable ONLY='default SSE41 1'
# make test-oldest    the fast tests of tests/io and tests/ptq with the oldest versions that pyproject.toml accepts
# make lab         the course in JupyterLab
# make bench       the measurements of benchmarks/
# make notebooks   build and run the lessons, from notebooks/src; one alone: make notebooks ONLY=00_start_here
# make tables      the recorded results, and RESULTS.md from them; PROFILE=tiny only proves that it works
# make torture     kill many small quantizations at random moments, and compare what resuming makes of them
# make site        the course, the library and the results as a static site, in build/site
# make student     the lessons without solutions and outputs, in build/student
#                  as a course folder of nbgrader, in build/student-nbgrader: make student FORMAT=nbgrader
#
# Everything runs in $(VENV), made on first use. PYTHON is the interpreter that makes it:
#     make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test test-all test-portable test-oldest lint lab bench notebooks student site tables torture clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(RUN) -m qdiff_lib demo --out build/demo

test: lint
	$(RUN) -m pytest -n 2 -m "not exhaustive"

test-all: lint
	$(RUN) -m pytest -n 2

test-portable: $(STAMP)
	$(RUN) -m tools.portable $(if $(ONLY),--only '$(ONLY)')

test-oldest: $(STAMP)
	$(RUN) -m tools.oldest

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache

lab: $(STAMP)
	JUPYTER_CONFIG_PATH=tools/jupyter $(RUN) -m jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks/README.md

bench: $(STAMP)
	$(RUN) benchmarks/run.py

notebooks: $(STAMP)
	$(RUN) -m tools.contents
	$(RUN) -m tools.notebooks $(if $(ONLY),--only $(ONLY))

student: $(STAMP)
	$(if $(filter-out nbgrader,$(FORMAT)),$(error FORMAT=$(FORMAT) is unknown: use FORMAT=nbgrader or leave it out))
	$(RUN) -m $(if $(FORMAT),tools.nbgrader_format build/student-nbgrader,tools.notebooks --student build/student)

site: $(STAMP)
	$(RUN) -m tools.site --out build/site

tables: $(STAMP)
	$(RUN) experiments/run.py --profile $(or $(PROFILE),laptop)
	$(RUN) -m tools.results $(if $(filter tiny,$(PROFILE)),--data build/tables-tiny --page build/tables-tiny/RESULTS.md)

torture: $(STAMP)
	$(RUN) -m tools.torture --kills $(or $(KILLS),200) --seed $(or $(SEED),0)

# build/ also holds long trainings that can be resumed: clean leaves them alone.
clean:
	rm -rf build/demo build/portable build/student build/site build/site-pages dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or later is needed, and '$(PYTHON)' is not: try make PYTHON=python3.12" >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): once, some minutes, about 6 GB with torch's GPU libraries"
	$(RUN) -m pip install --quiet --requirement requirements.txt
	@touch $@
