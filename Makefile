# Thin: CMake does the work. `make` builds, `make demo` shows, `make check` tests.
JOBS ?= $(shell nproc)

.PHONY: all deps demo check soak bench clean
all: deps
	@cmake --preset release >build-configure.log 2>&1 || { cat build-configure.log; exit 1; }; rm -f build-configure.log
	@cmake --build --preset release -j $(JOBS)

deps:
	@scripts/deps

demo: all
	@scripts/demo

check: deps
	@scripts/check

soak: all
	@scripts/soak

clean:
	rm -rf build
