# make demo   the main job once, on rendered scenes: train, compress, convert, verify, evaluate, measure, show
# make fast   lint, types and the tests that are not marked slow
# make test   lint, types and the tests; EDGEMTL_EVERYTHING=1 make test takes in those that run long for what they show
# make prove  the bundled model's int8 in every runtime on every processor that is here or can be emulated, bit by bit:
#             docs/exact.md; with PROVE="RUN --data DIR --frames 100" another run and real frames; with PROVE=--judges
#             only ExecuTorch and LiteRT, which are no targets, in their section of that page; with PROVE=--jetson only
#             the archive of `deploy --to jetson`, started in an emulated Debian: docs/jetson.md
# make speed  how fast the networks run here, beside their authors' form: docs/performance.md; SPEED="RECIPE --quick"
# make docs   these pages and the API's as a site, out/docs/index.html; no network is needed once it is installed
# make clean  removes what both made, except .venv
# Each stage leaves a file; only stages whose file is missing run again.

.DELETE_ON_ERROR:
.SECONDARY:
.NOTPARALLEL:
.PHONY: demo style lint fast test prove speed docs format clean

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
EDGEMTL := $(BIN)/python -m edgemtl
RUN := out/scenes_edge
ARTIFACTS := openvino openvino-fp32 onnx
# What would run these is elsewhere: converted and verified, not measured. coreml needs coremltools, see setup.cfg.
ELSEWHERE := tensorrt $(if $(filter x86_64 arm64,$(shell uname -m)),coreml)

demo: out/report.html
	@echo "pictures and numbers: $<   clip: out/demo.webm"

# OpenCV's windows need the system's libGL; where it is missing, its build without windows serves.
.venv/installed: setup.cfg pyproject.toml
	$(if $(PYTHON),,$(error edgemtl needs Python 3.10, 3.11 or 3.12 with its venv module; name one with make PYTHON=...))
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -e ".[all]"
	$(BIN)/python -c "import cv2" 2>/dev/null || $(BIN)/pip install --force-reinstall --no-deps opencv-python-headless
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install -e ".[dev]"
	touch $@

$(RUN)/.trained: | .venv/installed
	$(EDGEMTL) train scenes_edge --run $(RUN) --resume
	touch $@

$(RUN)/.compressed: $(RUN)/.trained
	$(EDGEMTL) compress $(RUN) --resume
	touch $@

$(RUN)/openvino-fp32/manifest.json: $(RUN)/.trained
	$(EDGEMTL) convert $(RUN) --target openvino --precision fp32

$(RUN)/%/manifest.json: $(RUN)/.compressed
	$(EDGEMTL) convert $(RUN) --target $*

$(RUN)/.verified-%: $(RUN)/%/manifest.json
	$(EDGEMTL) verify $(RUN)/$*
	touch $@

$(RUN)/.evaluated-calibrated: $(RUN)/.compressed
	$(EDGEMTL) evaluate $(RUN) --weights calibrated
	touch $@

$(RUN)/.evaluated-float: $(RUN)/.trained
	$(EDGEMTL) evaluate $(RUN)
	touch $@

$(RUN)/.evaluated-int8: $(RUN)/.compressed
	$(EDGEMTL) evaluate $(RUN) --weights int8
	touch $@

$(RUN)/.evaluated-%: $(RUN)/%/manifest.json
	$(EDGEMTL) evaluate $(RUN)/$*
	touch $@

$(RUN)/.measured-%: $(RUN)/%/manifest.json
	$(EDGEMTL) bench $(RUN)/$*
	touch $@

$(RUN)/clip.webm: | .venv/installed
	$(BIN)/python -m edgemtl.device.walk $@ --frames 60

out/demo.webm: $(RUN)/openvino/manifest.json $(RUN)/clip.webm
	$(EDGEMTL) demo $(RUN)/openvino --source $(RUN)/clip.webm --headless --record $@

out/report.html: $(ARTIFACTS:%=$(RUN)/.verified-%) $(ELSEWHERE:%=$(RUN)/.verified-%) \
		$(RUN)/.evaluated-float $(RUN)/.evaluated-calibrated \
		$(RUN)/.evaluated-int8 \
		$(ARTIFACTS:%=$(RUN)/.evaluated-%) $(ARTIFACTS:%=$(RUN)/.measured-%) out/demo.webm
	$(EDGEMTL) report $(RUN) --out out

# Three processes on two cores, because many slow tests wait for others; fast ones do not, and a process takes 10 s to start.
# Not --dist loadfile: pytest-xdist would give a test that kills its worker to the next one again, and then wait for ever.
# Bytecode is kept also where the environment says otherwise, as containers do: tests start many processes.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --dist worksteal --max-worker-restart 3

style: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint: style
	$(BIN)/mypy

# Types are checked by tests/test_types.py, beside the other tests.
fast: style
	$(PYTEST) -n 2 -m fast

test: style
	$(PYTEST) -n 3

prove: .venv/installed-dev
	$(BIN)/python -m tests.prove $(PROVE)

speed: .venv/installed-dev
	$(BIN)/python -m tests.benchmarks.speed $(SPEED)

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf out build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
