# convd: one hand-written Makefile.
#
#   make                  build/convd                     make test      every test
#   make deps run         install what is missing, serve  make help      all targets
#
# Variables:
#   CC=gcc|clang          compiler                        V=1            show commands
#   SANITIZER=address|undefined|thread                    WERROR=1       warnings are errors
#   OPT=-O2               optimisation                    PREFIX DESTDIR for install
#   CONVD_CPU=c|avx2|...  highest CPU level in tests      CONVD_SHARED   test data that is not in the tree
#
# Objects go to build/CONFIG/, and CONFIG names the compiler and the flags, so that a change of
# flags never mixes objects. build/convd is a link to the program of the plain configuration.

ifeq ($(origin CC),default)
CC := gcc
endif
AR      ?= ar
OPT     ?= -O2
V       ?=
WERROR  ?=
PREFIX  ?= /usr/local
DESTDIR ?=
SANITIZER ?=

ifneq ($(filter-out address undefined thread,$(SANITIZER)),)
$(error unknown SANITIZER '$(SANITIZER)': it is address, undefined or thread)
endif
ifeq ($(V),)
Q := @
say = @printf '  %-6s %s\n' $(1) $(2)
else
Q :=
say = @:
endif

extra  := $(strip $(OPT) $(CFLAGS) $(CPPFLAGS) $(LDFLAGS))
CONFIG := $(notdir $(CC))$(if $(SANITIZER),-$(SANITIZER))$(if $(WERROR),-werror)$(if $(filter-out -O2,$(extra)),-$(shell printf '%s' '$(extra)' | cksum | cut -d' ' -f1))
B      := build/$(CONFIG)
# Not from the compiler: `make deps run` parses this before one is installed.
ARCH   := $(shell uname -m)

# ---------------------------------------------------------------- flags
WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wundef -Wvla \
        -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wformat=2 \
        -Wdouble-promotion -Wpointer-arith -Wwrite-strings -Wimplicit-fallthrough -Wcast-align \
        $(if $(WERROR),-Werror)
HARDEN := -fstack-protector-strong -fPIE $(if $(filter x86_64,$(ARCH)),-fcf-protection) \
          -fstack-clash-protection
HARDEN_LD := -pie -Wl,-z,relro,-z,now,-z,noexecstack
ifeq ($(SANITIZER),)
HARDEN += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
else
SANITIZE := -fsanitize=$(SANITIZER) -fno-omit-frame-pointer \
            $(if $(filter undefined,$(SANITIZER)),-fno-sanitize-recover=all)
endif

# -ffp-contract=off: gcc and clang differ in what they contract; FMA is used by name where wanted.
BASE := -std=gnu11 -D_GNU_SOURCE -g $(OPT) -ffp-contract=off -fno-common -fno-math-errno \
        -Iinclude -I. -MMD -MP
ALL_CFLAGS  = $(BASE) $(WARN) $(HARDEN) $(SANITIZE) $(CPPFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(HARDEN_LD) $(SANITIZE) $(LDFLAGS)

LIBS      := -lmicrohttpd -ljansson -lz -lpthread -lm
STB_FLAGS := -isystem /usr/include/stb -isystem /usr/local/include/stb

# ---------------------------------------------------------------- sources
engine_src  := $(sort $(wildcard engine/*/*.c))
ifneq ($(ARCH),x86_64)
engine_src  := $(filter-out %_avx2.c %_avx512.c,$(engine_src))
endif
server_src  := $(sort $(wildcard server/*.c))
engine_obj  := $(engine_src:%.c=$B/%.o) $B/engine/models/builtin.o
server_obj  := $(filter-out $B/server/main.o,$(server_src:%.c=$B/%.o)) $B/server/web/page.o
support_src := $(filter-out %/tsan_runner.c %/leak_check.c %/alloc_hook.c,$(sort $(wildcard tests/support/*.c)))
support_obj := $(support_src:%.c=$B/%.o)

suites      := unit kernels conformance http
test_src    := $(sort $(wildcard $(suites:%=tests/%/test_*.c)))
test_bin    := $(test_src:%.c=$B/%)
fuzz_src    := $(sort $(wildcard tests/fuzz/fuzz_*.c))
replay_bin  := $(fuzz_src:tests/fuzz/%.c=$B/tests/fuzz/replay_%)
fuzz_bin    := $(fuzz_src:tests/fuzz/%.c=build/fuzz/%)
tool_bin    := $B/onnx-conformance
bench_bin   := $(patsubst %.c,$B/%,$(sort $(wildcard tests/bench/*.c)))
loadgen_obj := $(patsubst %.c,$B/%.o,$(sort $(wildcard tests/bench/loadgen/*.c)))

# ---------------------------------------------------------------- main targets
.DEFAULT_GOAL := all
.PHONY: all run deps test $(suites:%=test-%) test-fuzz test-build lint format bench bench-serve \
        bench-overload soak fuzz model install uninstall clean help check-tools
.SECONDARY:
.DELETE_ON_ERROR:

## all            build the program (build/convd), the library (libconvd.a) and build/onnx-conformance
all: check-tools $B/convd $B/libconvd.a $(tool_bin)
ifeq ($(CONFIG),gcc)
	@ln -sfn $(CONFIG)/convd build/convd
	@ln -sfn $(CONFIG)/libconvd.a build/libconvd.a
	@ln -sfn $(CONFIG)/onnx-conformance build/onnx-conformance
endif

## run            build and serve on http://127.0.0.1:8080 (ARGS="--listen 0.0.0.0:9000 ...")
run: all
	$(Q)exec $B/convd serve $(ARGS)

$B/convd: $B/server/main.o $B/libserver.a $B/libconvd.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$B/libconvd.a: $(engine_obj)
$B/libserver.a: $(server_obj)
$B/libsupport.a: $(support_obj)
# Made aside: another make that links meanwhile never sees half an archive.
$B/%.a:
	$(call say,AR,$@)
	$(Q)$(AR) rcs $@.$$$$ $^ && mv -f $@.$$$$ $@

# ---------------------------------------------------------------- compilation
# Instruction sets are enabled by file name, never for the whole program. Fuzzed kernels are neither
# instrumented nor optimized: clang would take minutes for each of these files, and what they read
# and write is held by the guard pages of tests/kernels.
FLAGS_KERNEL := -O3 $(if $(FUZZING),-O1 -fno-sanitize=all)
$B/engine/kernels/%_avx2.o:   FLAGS_FILE := -mavx2 -mfma $(FLAGS_KERNEL)
$B/engine/kernels/%_avx512.o: FLAGS_FILE := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512 $(FLAGS_KERNEL)
$B/engine/kernels/%_c.o:      FLAGS_FILE := $(FLAGS_KERNEL)
$B/engine/ops/%.o:            FLAGS_FILE := -O3
$B/engine/train/%.o:          FLAGS_FILE := -O3
# A convolution's tile needs all vector registers and most others: these two passes of GCC's would
# keep sums of offsets beside it, and spill them around every few multiply-adds. Clang has neither.
TILES := -fno-tree-pre -fno-tree-loop-im
TILES := $(shell $(CC) $(TILES) -x c -fsyntax-only /dev/null 2>/dev/null && echo $(TILES))
$B/engine/kernels/conv_%.o $B/engine/kernels/winograd_%.o: FLAGS_TILES := $(TILES)
# stb_image is not ours to warn about. Where its gate should have overlooked something, the checks
# for bounds and overflow end the decoding (stb.c says how); a sanitizer's build keeps its own, but
# for the shifts and sums that stb_image lets run over on purpose.
STB_CHECKS := -fsanitize=bounds,signed-integer-overflow -fno-sanitize-recover=all -DSTB_CATCH_UNDEFINED
STB_SANITIZED := -fno-sanitize=shift,signed-integer-overflow
$B/server/stb.o: FLAGS_FILE := -w -ftrivial-auto-var-init=pattern $(STB_FLAGS) $(if $(findstring sanitize,$(CFLAGS))$(SANITIZER),$(STB_SANITIZED),$(STB_CHECKS))
$B/server/preprocess.o $B/server/resize.o: FLAGS_FILE := -O3

$B/%.o: %.c $(MAKEFILE_LIST)
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) $(FLAGS_FILE) $(FLAGS_TILES) -c -o $@ $<

$B/%.o: %.S $(MAKEFILE_LIST)
	$(call say,AS,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -c -o $@ $<

$B/engine/models/builtin.o: engine/models/lenet5.onnx
$B/server/web/page.o: $(wildcard server/web/*.html)

# ---------------------------------------------------------------- tests
# Criterion needs help beside two of the sanitizers: see the comments in these files.
test_extra := $(if $(filter thread,$(SANITIZER)),$B/tests/support/tsan_runner.o) \
              $(if $(filter address,$(SANITIZER)),$B/tests/support/leak_check.o)

$(test_bin): $B/%: $B/%.o $(test_extra) $B/libsupport.a $B/libserver.a $B/libconvd.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcriterion $(LIBS)

# Its own malloc(): see alloc_hook.h. Not instrumented, because it works before a sanitizer does.
ifeq ($(filter thread,$(SANITIZER)),)
$B/tests/unit/test_load_memory: $B/tests/support/alloc_hook.o
endif
$B/tests/support/alloc_hook.o: FLAGS_FILE := -fno-sanitize=all

# Not from libsupport.a: the tool needs no Criterion.
$(tool_bin): $B/tests/conformance/onnx_conformance.o $B/tests/support/conformance.o $B/libconvd.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

## model-run      the tool with which tests/conformance/models.sh compares models with ONNX Runtime
.PHONY: model-run
model-run: $B/model-run
$B/model-run: $B/tests/conformance/model_run.o $B/libconvd.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(replay_bin): $B/tests/fuzz/replay_%: $B/tests/fuzz/%.o $B/tests/fuzz/replay_main.o $B/libserver.a $B/libconvd.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(bench_bin): $B/%: $B/%.o $B/libserver.a $B/libconvd.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# The load generator: libc only, so that it can be built and carried to another machine.
$B/loadgen: $(loadgen_obj)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^

# The same, preloaded into the program.
alloc_hook := $B/tests/support/alloc_hook.so
$(alloc_hook): tests/support/alloc_hook.c tests/support/alloc_hook.h
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE) $(WARN) -fPIC -shared -o $@ $< -ldl

test-build: all $(test_bin) $(replay_bin) $B/loadgen $(alloc_hook)

## test           run every test (SANITIZER=..., CONVD_CPU=..., see also test-unit, test-http, ...)
test: test-build
	$(Q)CONVD_BIN=$B/convd ALLOC_HOOK=$(alloc_hook) SANITIZER=$(SANITIZER) tests/run.sh $(test_bin) $(replay_bin)

## test-SUITE     run one suite: unit, kernels, conformance, http, fuzz
$(suites:%=test-%): test-%: test-build
	$(Q)CONVD_BIN=$B/convd ALLOC_HOOK=$(alloc_hook) SANITIZER=$(SANITIZER) tests/run.sh $(filter $B/tests/$*/%,$(test_bin))
test-fuzz: test-build
	$(Q)CONVD_BIN=$B/convd ALLOC_HOOK=$(alloc_hook) SANITIZER=$(SANITIZER) tests/run.sh $(replay_bin)

## fuzz           build libFuzzer targets in build/fuzz (needs clang; run: build/fuzz/fuzz_X tests/fuzz/corpus/X)
# One make of its own for all of them, which sets FUZZING: it compiles everything in another way.
ifeq ($(FUZZING),)
FUZZ_FLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -U_FORTIFY_SOURCE
make_fuzz = $(Q)$(MAKE) --no-print-directory CC=clang OPT=-O1 CFLAGS="$(FUZZ_FLAGS)" FUZZING=1
.PHONY: $(fuzz_bin)
fuzz:
	+$(make_fuzz) $(fuzz_bin)
$(fuzz_bin):
	+$(make_fuzz) $@
else
$(fuzz_bin): build/fuzz/%: $B/tests/fuzz/%.o $B/libserver.a $B/libconvd.a
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_LDFLAGS) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)
endif

## lint           style, layering, sizes, formatting
lint:
	$(Q)tests/lint.sh

## format         rewrite the sources with clang-format
format:
	$(Q)clang-format -i $$(git ls-files '*.c' '*.h' '*.inc')

## bench          time the engine beside ONNX Runtime (MODELS=DIR ORT_DIR=DIR ONLY="a b" ROUNDS=5 SECONDS=1)
bench: all
	$(Q)$(if $(SECONDS),SECONDS_EACH=$(SECONDS)) tests/bench/engine.sh $B/convd $(MODELS)

## bench-overload  offer the server up to ten times what it can do (MODEL=FILE BODY=FILE: not LeNet-5)
bench-overload: all $B/loadgen
	$(Q)tests/bench/overload.sh $B $(ARGS)

## bench-serve    time the server beside a bare libmicrohttpd handler (needs wrk; MODELS=DIR: a large model too)
bench-serve: all $(bench_bin)
	$(Q)tests/bench/serve.sh $B $(ARGS)

## soak           15 minutes (SECONDS=N) of mixed load; fails on a wrong answer or growth (RELOAD=1: with SIGHUP)
soak: all $B/loadgen
	$(Q)tests/bench/soak.sh $B $(or $(SECONDS),900) $(ARGS)

# ---------------------------------------------------------------- the default model
CONVD_SHARED ?= ../shared
MNIST ?= $(CONVD_SHARED)/data/mnist
## model          train engine/models/lenet5.onnx again (MNIST=DIR)
model: all
	$(B)/convd train --data $(MNIST) --output engine/models/lenet5.onnx

# ---------------------------------------------------------------- installation
## install        install the program, library, man page and systemd unit (PREFIX, DESTDIR)
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system \
	    $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/include/convd
	install -m 755 $B/convd $(DESTDIR)$(PREFIX)/bin/convd
	install -m 644 $B/libconvd.a $(DESTDIR)$(PREFIX)/lib/libconvd.a
	install -m 644 include/convd/*.h $(DESTDIR)$(PREFIX)/include/convd/
	install -m 644 deploy/convd.1 $(DESTDIR)$(PREFIX)/share/man/man1/convd.1
	sed 's|@PREFIX@|$(PREFIX)|g' deploy/convd.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/convd.service

## uninstall      remove what install put there
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/convd $(DESTDIR)$(PREFIX)/lib/libconvd.a \
	    $(DESTDIR)$(PREFIX)/share/man/man1/convd.1 \
	    $(DESTDIR)$(PREFIX)/lib/systemd/system/convd.service
	rm -rf $(DESTDIR)$(PREFIX)/include/convd

# ---------------------------------------------------------------- dependencies
DEPS := gcc libc6-dev libmicrohttpd-dev libjansson-dev libstb-dev zlib1g-dev curl
DEPS_TEST := libcriterion-dev clang-format prometheus

# With "make -j deps run", nothing may be compiled before its headers are there.
ifneq ($(filter deps,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif

# `make deps run` is for users: it leaves out what only tests and lint need.
deps_only_run := $(if $(filter deps,$(MAKECMDGOALS)),$(if $(filter-out deps,$(MAKECMDGOALS)),$(if $(filter-out deps all run install,$(MAKECMDGOALS)),,yes)))
## deps           install missing Debian packages; on other systems, list what is needed
deps:
	$(Q)tests/deps.sh $(DEPS) $(if $(deps_only_run),,$(DEPS_TEST))

check-tools:
	@command -v $(CC) >/dev/null || { echo "convd: no compiler '$(CC)': run 'make deps'" >&2; exit 1; }
	@printf '#include <microhttpd.h>\n#include <jansson.h>\n#include <zlib.h>\n#include <stb_image.h>\n' \
	    | $(CC) $(STB_FLAGS) -E -o /dev/null - 2>/dev/null \
	    || { echo "convd: libmicrohttpd, jansson, zlib or stb_image headers are missing: run 'make deps'" >&2; exit 1; }

## clean          remove build/
clean:
	$(Q)rm -rf build

## help           this list
help:
	@sed -n 's/^## /  /p' $(MAKEFILE_LIST)

-include $(shell find $B -name '*.d' 2>/dev/null)
