# SPDX-License-Identifier: MIT
# gorge: builds libgorge.so and the Lua declarations of its ABI, and runs every check. `make help` lists the targets.

BUILD ?= build
# V=1 shows the commands.
V ?=
Q := $(if $(V),,@)
DEPS ?= yes
ifeq ($(origin CC),default)
CC := gcc
endif
# The compiler of the sanitizer builds.
SAN_CC ?= $(CC)
PREFIX ?= /usr/local
LUADIR ?= $(PREFIX)/share/lua/5.1
LIBDIR ?= $(PREFIX)/lib/lua/5.1
# Where Debian's nginx has its modules.
MODULEDIR ?= /usr/lib/nginx/modules
BINDIR ?= $(PREFIX)/bin

MODULES := base shm sync backlog l1 flight resil proto tls io drive engine api
SRCS := $(sort $(wildcard $(MODULES:%=core/%/*.c)))
# core/test: every test_*.c is a cmocka program of its own; the other files are helpers linked into each.
TEST_SRCS := $(sort $(wildcard core/test/test_*.c))
SUPPORT_SRCS := $(sort $(filter-out $(TEST_SRCS),$(wildcard core/test/*.c core/fault/*.c)))
TESTS := $(TEST_SRCS:core/test/%.c=%)
# ThreadSanitizer is for programs that run threads.
TSAN_TESTS ?= $(filter %_threads,$(TESTS))
# core/fuzz: every fuzz_*.c is a libFuzzer program of its own.
FUZZERS := $(patsubst core/fuzz/%.c,%,$(sort $(wildcard core/fuzz/fuzz_*.c)))
LUA_FILES := $(sort $(shell find lua -name '*.lua' 2>/dev/null))

LIBRARY := $(BUILD)/libgorge.so
# The others use what the first one declares.
FFI_HEADERS := core/include/gorge_ffi.h core/include/gorge_ffi_io.h core/include/gorge_ffi_look.h
CDEF := $(BUILD)/lua/gorge/ffi/cdef.lua

# Linux only: the whole of glibc is there for every file.
GORGE_CPPFLAGS := -Icore -Icore/include -D_GNU_SOURCE=
CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Werror -Wvla -Wstrict-prototypes
GORGE_CFLAGS := -std=gnu11 $(WARNINGS) -fvisibility=hidden -fPIC -pthread
# nodelete: a thread of the library may outlive a dlclose by the host.
GORGE_LDFLAGS := -shared -Wl,-z,nodelete -Wl,-z,defs -Wl,--no-undefined -Wl,-z,relro -Wl,-z,now
LIBS := -lhiredis -lssl -lcrypto -lev -lpthread -lm

# The library is optimized as a whole at link time. The objects hold machine code besides, which the tests link.
LTO ?= $(if $(findstring clang,$(CC)),,-flto=auto -ffat-lto-objects)

# One set of objects for each way to compile: opt is what is shipped.
CC_opt := $(CC)
CC_asan := $(SAN_CC)
CC_tsan := $(SAN_CC)
CC_fuzz := clang
FLAGS_opt := $(CFLAGS) $(LTO)
FLAGS_asan := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
# gcc warns that ThreadSanitizer does not understand fences; what fences order here is atomic in any case.
FLAGS_tsan := -O1 -g -fno-omit-frame-pointer -fsanitize=thread \
  $(if $(findstring clang,$(SAN_CC)),,-Wno-tsan)
FLAGS_fuzz := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: build FORCE

build: $(LIBRARY) $(CDEF)  ## build the library and the cdef (the default)

define variant
OBJS_$(1) := $$(SRCS:core/%.c=$$(BUILD)/obj/$(1)/%.o)
SUPPORT_$(1) := $$(SUPPORT_SRCS:core/%.c=$$(BUILD)/obj/$(1)/%.o)
PROGRAMS_$(1) := $$(TESTS:%=$$(BUILD)/test/$(1)/%)

$$(BUILD)/obj/$(1)/%.o: core/%.c Makefile
	@mkdir -p $$(@D)
	@echo 'cc   $$<'
	$$(Q)$$(CC_$(1)) $$(GORGE_CPPFLAGS) $$(CPPFLAGS) $$(GORGE_CFLAGS) $$(FLAGS_$(1)) -MMD -MP -c $$< -o $$@

# The list of objects is an input too: a source that was removed must leave the library. However BUILD is written, it is the same.
LIST_$(1) := $$(patsubst $$(BUILD)/%,%,$$(OBJS_$(1)) $$(SUPPORT_$(1)))
$$(BUILD)/obj/$(1)/objects: FORCE
	@mkdir -p $$(@D)
	@echo '$$(LIST_$(1))' | cmp -s - $$@ || echo '$$(LIST_$(1))' > $$@

# Tests link the objects, not the library, so that they reach hidden symbols.
$$(BUILD)/obj/$(1)/libgorge.a: $$(OBJS_$(1)) $$(BUILD)/obj/$(1)/objects
	@rm -f $$@
	@ar rcs $$@ $$(OBJS_$(1))

$$(BUILD)/test/$(1)/%: $$(BUILD)/obj/$(1)/test/%.o $$(SUPPORT_$(1)) $$(BUILD)/obj/$(1)/libgorge.a
	@mkdir -p $$(@D)
	@echo 'link $$@'
	$$(Q)$$(CC_$(1)) $$(FLAGS_$(1)) -fno-lto -pthread $$(filter %.o %.a,$$^) -lcmocka $$(LIBS) -o $$@

.SECONDARY: $$(TESTS:%=$$(BUILD)/obj/$(1)/test/%.o) $$(SUPPORT_$(1))
-include $$(OBJS_$(1):.o=.d) $$(SUPPORT_$(1):.o=.d) $$(TESTS:%=$$(BUILD)/obj/$(1)/test/%.d)
endef
$(foreach v,opt asan tsan fuzz,$(eval $(call variant,$(v))))

$(LIBRARY): $(OBJS_opt) $(BUILD)/obj/opt/objects
	@mkdir -p $(@D)
	@echo 'link $@'
	$(Q)$(CC) $(FLAGS_opt) $(GORGE_LDFLAGS) $(LDFLAGS) $(OBJS_opt) $(LIBS) -o $@.new
	@mv $@.new $@ # whoever loads it meanwhile finds a whole one

# The library without one of its checks, for the specs that show that they would notice: see core/base/broken.h.
upper = $(shell echo '$(1)' | tr a-z A-Z)
$(BUILD)/broken/%/libgorge.so: $(OBJS_opt) $(BUILD)/obj/opt/objects core/base/broken.h
	@mkdir -p $(@D)
	@echo 'link $@'
	$(Q)set -e; objs=' $(OBJS_opt) '; files=$$(grep -lF 'GORGE_CHECKS($(call upper,$*))' $(SRCS)); for c in $$files; do \
	  $(CC) $(GORGE_CPPFLAGS) $(CPPFLAGS) -DGORGE_BROKEN=GORGE_CHECK_$(call upper,$*) $(GORGE_CFLAGS) $(CFLAGS) \
	    -c $$c -o $(@D)/$$(basename $$c .c).o; \
	  o=$${c#core/}; objs=$$(echo "$$objs" | sed "s# $(BUILD)/obj/opt/$${o%.c}.o # $(@D)/$$(basename $$c .c).o #"); done; \
	$(CC) $(CFLAGS) -fno-lto $(GORGE_LDFLAGS) $(LDFLAGS) $$objs $(LIBS) -o $@

$(CDEF): $(FFI_HEADERS) core/tools/cdef.sh
	@mkdir -p $(@D)
	@echo 'cdef $@'
	$(Q)core/tools/cdef.sh $(FFI_HEADERS) > $@

.PHONY: install
install: build  ## copy the Lua modules to LUADIR, the library to LIBDIR and the command line to BINDIR
	@set -e; for f in $(LUA_FILES:lua/%=%); do install -D -m 644 lua/$$f "$(DESTDIR)$(LUADIR)/$$f"; done
	install -D -m 644 $(CDEF) "$(DESTDIR)$(LUADIR)/gorge/ffi/cdef.lua"
	install -D -m 755 $(LIBRARY) "$(DESTDIR)$(LIBDIR)/gorge/libgorge.so"
	install -D -m 755 lua/gorge/cli/gorge "$(DESTDIR)$(BINDIR)/gorge"

.PHONY: deps deps-dev
deps:  ## install what building and the demo need (Debian packages)
	@[ "$(DEPS)" = no ] || core/tools/deps.sh run
deps-dev:  ## install what tests and lint need as well
	@[ "$(DEPS)" = no ] || core/tools/deps.sh run dev

# ngx_gorge_module, for the nginx that is installed.
.PHONY: nginx-module test-nginx-module install-nginx-module
nginx-module:  ## build the optional module for nginx; NGINX=binary, NGINX_SRC=tree: see core/tools/nginx_module.sh
	@[ "$(DEPS)" = no ] || [ -n "$(NGINX_SRC)" ] || core/tools/deps.sh module
	@MAKE='$(MAKE)' NGINX='$(NGINX)' NGINX_SRC='$(NGINX_SRC)' core/tools/nginx_module.sh '$(BUILD)'
install-nginx-module: nginx-module  ## copy it to MODULEDIR
	install -D -m 644 $(BUILD)/ngx_gorge_module.so "$(DESTDIR)$(MODULEDIR)/ngx_gorge_module.so"
test-nginx-module: deps-dev  ## specs in nginx with the module loaded; SPECS="files" picks some
	@MAKE='$(MAKE)' SPECS='$(SPECS)' core/tools/test.sh all-module

.PHONY: test test-c test-asan test-tsan test-lua test-programs-opt test-programs-asan test-programs-tsan
export BUILD
test: deps-dev  ## run every test; the last line is the total
	@MAKE='$(MAKE)' core/tools/test.sh c asan tsan fuzz model lua module
test-c:  ## C unit tests
	@MAKE='$(MAKE)' core/tools/test.sh c
test-asan:  ## C unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@MAKE='$(MAKE)' core/tools/test.sh asan
test-tsan:  ## the C tests that run threads, under ThreadSanitizer
	@MAKE='$(MAKE)' core/tools/test.sh tsan
test-lua:  ## specs under LuaJIT; SPECS="files" picks some
	@MAKE='$(MAKE)' SPECS='$(SPECS)' core/tools/test.sh lua
test-programs-opt: $(PROGRAMS_opt)
test-programs-asan: $(PROGRAMS_asan)
test-programs-tsan: $(TSAN_TESTS:%=$(BUILD)/test/tsan/%)

.PHONY: list-opt list-asan list-tsan
list-opt list-asan:
	@echo $(TESTS)
list-tsan:
	@echo $(TSAN_TESTS)

$(BUILD)/fuzz/%: $(BUILD)/obj/fuzz/fuzz/%.o $(BUILD)/obj/fuzz/libgorge.a
	@mkdir -p $(@D)
	@echo 'link $@'
	$(Q)$(CC_fuzz) $(FLAGS_fuzz) -fsanitize=fuzzer -pthread $^ $(LIBS) -o $@
.SECONDARY: $(FUZZERS:%=$(BUILD)/obj/fuzz/fuzz/%.o)
-include $(FUZZERS:%=$(BUILD)/obj/fuzz/fuzz/%.d)

.PHONY: model
model: deps-dev  ## run every spin model of core/test/model; MODELS="names" picks some
	@core/tools/model.sh full $(MODELS)

.PHONY: fuzz fuzz-quick fuzz-programs list-fuzz
list-fuzz:
	@echo $(FUZZERS)
fuzz: deps-dev  ## fuzz for an hour a target; FUZZ_SECONDS, FUZZERS
	@MAKE='$(MAKE)' core/tools/fuzz.sh $(or $(FUZZ_SECONDS),3600) $(FUZZERS)
fuzz-quick: deps-dev  ## fuzz for a minute a target
	@MAKE='$(MAKE)' core/tools/fuzz.sh $(or $(FUZZ_SECONDS),60) $(FUZZERS)
fuzz-programs: $(FUZZERS:%=$(BUILD)/fuzz/%)

.PHONY: test-trixie deps-trixie
deps-trixie:  ## install what make test-trixie needs
	@[ "$(DEPS)" = no ] || core/tools/deps.sh trixie
test-trixie: deps-trixie  ## build and test everything in Debian 13, in a chroot; needs root: see core/tools/trixie.sh
	@core/tools/trixie.sh

.PHONY: soak
soak: deps-dev  ## long runs of faults; SOAK="parts" picks some: see core/tools/soak.sh
	@MAKE='$(MAKE)' core/tools/soak.sh $(SOAK)

.PHONY: lint format
lint: deps-dev  ## static checks of C and Lua
	@MAKE='$(MAKE)' core/tools/lint.sh
format:  ## rewrite the C sources in the project's format
	clang-format -i $(shell find core -name '*.[ch]')

.PHONY: docs
docs: deps-dev  ## the public interface of Lua and C as HTML in build/docs, from annotations and comments
	@mkdir -p $(BUILD)/docs/c
	@luajit core/tools/docs/make.lua $(BUILD)/docs
	@{ cat core/tools/docs/Doxyfile; echo 'OUTPUT_DIRECTORY = $(BUILD)/docs/c'; } | doxygen -
	@echo '$(BUILD)/docs/c/index.html'

.PHONY: bench
bench: deps build  ## measure every target beside its peer in nginx; ROWS=pattern, RUNS=n, QUICK=1: see spec/bench/run.lua
	@env -u LUA_PATH -u LUA_CPATH -u LUA_INIT -u GORGE_LIBRARY -u GORGE_NGINX_MODULE GORGE_BUILD='$(BUILD)' ROWS='$(ROWS)' RUNS='$(RUNS)' QUICK='$(QUICK)' \
	  RESULTS='$(RESULTS)' MLCACHE='$(MLCACHE)' LUA_RESTY_LOCK='$(LUA_RESTY_LOCK)' LUA_RESTY_REDIS='$(LUA_RESTY_REDIS)' \
	  luajit spec/bench/run.lua

# Programs that measure L1 alone.
$(BUILD)/bench/trace: core/bench/trace_peers.c
$(BUILD)/bench/%: core/bench/%.c $(BUILD)/obj/opt/libgorge.a
	@mkdir -p $(@D)
	@echo 'link $@'
	$(Q)$(CC) $(GORGE_CPPFLAGS) $(CPPFLAGS) $(GORGE_CFLAGS) $(FLAGS_opt) $(filter %.c %.a,$^) $(LIBS) -lz -o $@

.PHONY: bench-l1 bench-trace bench-traces
bench-l1: deps-dev $(BUILD)/bench/l1 $(BUILD)/bench/fill  ## nanoseconds of the operations of L1 in C, and what fits into it
	$(BUILD)/bench/l1
	$(BUILD)/bench/fill
bench-trace: deps-dev $(BUILD)/bench/trace  ## hit ratio of L1 under a recorded trace: TRACE=file SIZE=size, see core/bench/trace.c
	$(BUILD)/bench/trace '$(TRACE)' '$(SIZE)'
bench-traces: deps-dev $(BUILD)/bench/trace  ## the same for a folder of traces: TRACES=folder, see core/bench/traces.sh
	core/bench/traces.sh $(BUILD)/bench/trace '$(TRACES)'


.PHONY: picture
picture: deps-dev build  ## paint the status page under load again, for the README
	GORGE_BUILD='$(BUILD)' PICTURE=examples/metrics/status.png luajit /usr/bin/busted spec/nginx/picture.lua

.PHONY: demo serve
demo: deps build  ## run the demo; REDIS=none runs it without Redis
	@REDIS='$(REDIS)' examples/packages/demo
serve: deps build  ## leave the demo's servers running until interrupted
	@REDIS='$(REDIS)' examples/packages/demo serve

.PHONY: clean help
clean:  ## remove what was built
	rm -rf $(BUILD)
help:  ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12
