#!/bin/bash
# Does scripts/check-layers find what it must find? A small tree is made and broken in one way at a time.
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

new_tree() {
	rm -rf "$work/tree"
	mkdir -p "$work/tree"/{include/holdfast,src/{base,os,heap,pool,request},malloc,tools,tests/unit,scripts}
	cp "$source_dir/ARCHITECTURE.md" "$work/tree/"
	cd "$work/tree"
	echo '#include <stddef.h>' >include/holdfast/alloc.h
	echo '#include <stdint.h>' >src/base/list.h
	printf '#include "base/list.h"\n\n#include <sys/mman.h>\nvoid f(void)\n{\n\tmunmap(0, 0);\n}\n' >src/os/os_linux.c
	printf '#include "base/list.h"\n' >src/pool/pool.h
	printf '#include "pool/pool.h"\n\n#include <pthread.h>\n' >src/heap/heap.c
	printf '/* open(), malloc() and "fork()" in words are no calls. */\n#include "heap/heap.h"\n' >src/request/loop.c
	printf 'static const char text[] = "close(3)";\nint f(struct s *s)\n{\n\treturn s->open(1) + (*s).read(2);\n}\n' >>src/request/loop.c
	printf '#include <holdfast/alloc.h>\n' >malloc/dropin.c
	printf '#include <holdfast/alloc.h>\n#include "show.h"\n\n#include <unistd.h>\n' >tools/run.c
	printf '#include "heap/heap.h"\n#include <sys/mman.h>\n' >tests/unit/test_heap.c
}

repeat() {
	local i
	for ((i = 0; i < $1; i++)); do echo "$2"; done
}

# expect NAME TEXT: the broken tree fails, and the output has TEXT.
expect() {
	local name=$1 text=$2 status=0
	"$source_dir/scripts/check-layers" "$work/tree" >"$work/out" 2>&1 || status=$?
	if [ $status -ne 1 ] || ! grep -qF -- "$text" "$work/out"; then
		echo "FAIL: $name: status $status, wanted 1 and \"$text\"; the output was:"
		cat "$work/out"
		failures=$((failures + 1))
	else
		echo "ok: $name"
	fi
}

new_tree
if ! "$source_dir/scripts/check-layers" "$work/tree" >"$work/out" 2>&1; then
	echo "FAIL: a correct tree is refused:"
	cat "$work/out"
	failures=$((failures + 1))
fi

new_tree; echo '#include "heap/heap.h"' >>src/pool/pool.h
expect "a layer includes one above it" 'src/pool/pool.h:2: layer: pool may not include heap/heap.h'
new_tree; echo '#include <holdfast/alloc.h>' >>src/base/list.h
expect "the base includes the public API" 'base may not include holdfast/alloc.h'
new_tree; echo '#include "heap/heap.h"' >>malloc/dropin.c
expect "the drop-in includes an internal header" 'malloc may not include heap/heap.h'
new_tree; echo '#include "ledger/ledger.h"' >>tools/run.c
expect "a tool includes an internal header" 'tools may not include ledger/ledger.h'
new_tree; mkdir src/extra; echo 'int x;' >src/extra/x.c
expect "a folder that is no layer" 'folder "extra" is not in the table'
new_tree; echo '#include "test_pool.c"' >>tests/unit/test_heap.c
expect "a .c includes a .c" 'no .c includes a .c'
new_tree; echo '#include <fcntl.h>' >>src/pool/pool.h
expect "a header of system calls outside os" 'includes <fcntl.h>'
new_tree; echo '#include <linux/futex.h>' >>src/heap/heap.c
expect "a kernel header outside os" 'includes <linux/futex.h>'
new_tree; echo '#include <pthread.h>' >>src/pool/pool.h
expect "pthread outside heap and request" 'includes <pthread.h>'
new_tree; printf 'void g(void)\n{\n\t(void)madvise(0, 0, 0);\n}\n' >>src/heap/heap.c
expect "a system call outside os" 'heap.c:6: system: calls madvise()'
new_tree; printf '#define GO() fork()\n' >>src/heap/heap.c
expect "a system call in a macro" 'calls fork()'
new_tree; printf 'void *g(void)\n{\n\treturn malloc(1);\n}\n' >>src/os/os_linux.c
expect "malloc inside the library" 'calls malloc()'
new_tree; { echo 'void g(void)'; echo '{'; repeat 71 '	;'; echo '}'; } >>src/heap/heap.c
expect "a function of 71 lines" 'function of 71 lines'
new_tree; repeat 1001 'extern int x;' >src/heap/slab.c
expect "a .c of 1001 lines" '1001 lines, more than 1000'
new_tree; repeat 251 'extern int x;' >src/heap/slab.h
expect "a header of 251 lines" '251 lines, more than 250'
new_tree; echo 'layer src/heap/heap.c tools/x.h it was needed once' >scripts/check-layers.exempt
expect "an exemption that nobody needs" 'not needed any more'

# An exemption that is needed is honoured.
new_tree; echo '#include <fcntl.h>' >>src/heap/heap.c
echo 'system src/heap/heap.c fcntl.h for the test of exemptions' >scripts/check-layers.exempt
if ! "$source_dir/scripts/check-layers" "$work/tree" >"$work/out" 2>&1; then
	echo "FAIL: an exemption is not honoured:"
	cat "$work/out"
	failures=$((failures + 1))
fi
# A file of 601 lines passes, and is listed.
new_tree; repeat 601 'extern int x;' >src/heap/slab.c
if ! "$source_dir/scripts/check-layers" "$work/tree" >"$work/out" 2>&1 || ! grep -q 'slab.c: 601 lines' "$work/out"; then
	echo "FAIL: a file of 601 lines is not listed:"
	cat "$work/out"
	failures=$((failures + 1))
fi

[ $failures -eq 0 ] || exit 1
