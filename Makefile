# make demo: the whole path, from an ONNX model to predictions on an OpenCL device.
# make test: the tests, on every driver this machine's kind promises.
# Both work in a virtual environment, .venv, and download what is missing with pip.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# Intel's OpenCL runtime for CPUs comes with pip, without root, but only for x86-64.
ifeq ($(shell uname -m),x86_64)
  INTEL := intel-opencl-rt intel-cmplr-lib-rt
else
  DRIVERS := --driver pocl
endif

.PHONY: demo test driver clean

demo: .venv/demo
	$(BIN)/edgerun demo

test: .venv/test
	$(BIN)/python -m pytest -n auto --dist loadfile $(DRIVERS)

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "needs Python 3.10 or newer")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Debian: apt install python3-venv"; false; }
	touch $@

.venv/tools: .venv/python setup.cfg pyproject.toml
	$(PIP) install --editable '.[tools]'
	touch $@

# Any driver with a device will do.
.venv/demo: .venv/tools
	$(BIN)/edgerun devices 2>/dev/null || $(MAKE) --no-print-directory driver
	touch $@

driver:
	@test -n '$(INTEL)' || { \
	    echo 'No OpenCL driver here, and none from pip for this processor.'; \
	    echo 'As root: apt install pocl-opencl-icd'; false; }
	@echo "No OpenCL driver here: fetching Intel's CPU runtime into .venv (225 MB)"
	$(PIP) install $(INTEL)
	$(BIN)/edgerun devices

# The tests want PoCL, and on x86-64 the Intel runtime too.
.venv/test: .venv/tools
	@ls /etc/OpenCL/vendors/pocl*.icd >/dev/null 2>&1 || { \
	    echo 'The tests need the PoCL driver. As root: apt install pocl-opencl-icd'; false; }
	$(PIP) install --editable '.[tools,test]' $(INTEL)
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis
	find edgerun tools tests -name __pycache__ -prune -exec rm -rf {} +
