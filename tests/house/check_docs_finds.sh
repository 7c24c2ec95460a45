#!/bin/bash
# check_docs_finds.sh BUILD: does scripts/check-docs find what it must find? The documents are copied, and made to lie in one
# way at a time.
set -euo pipefail
build=$(realpath "$1")
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

new_tree() {
	rm -rf "$work/tree"
	mkdir "$work/tree"
	cd "$source_dir"
	cp -r include man docs ./*.md CMakeLists.txt CMakePresets.json LICENSE "$work/tree/"
	ln -s "$source_dir"/{src,tests,malloc,tools,cmake} "$work/tree/"
	cd "$work/tree"
}

# expect NAME TEXT: the documents are refused, with TEXT.
expect() {
	local name=$1 text=$2 status=0
	CHECK_DOCS_TREE=$work/tree "$source_dir/scripts/check-docs" "$build" >"$work/out" 2>&1 || status=$?
	if [ $status -ne 1 ] || ! grep -qF -- "$text" "$work/out"; then
		echo "FAIL: $name: status $status, wanted 1 and \"$text\"; the output was:"
		cat "$work/out"
		failures=$((failures + 1))
	else
		echo "ok: $name"
	fi
}

new_tree; printf '\n```c\nhf_alloc(1);\n```\n' >>README.md
expect "a snippet that does not compile" 'the snippet does not compile'
new_tree; printf '.\\" c\n.EX\nint x = hf_stats_get(1, 2);\n.EE\n' >>man/hf_alloc.3
expect "one in a man page" 'the snippet does not compile'
new_tree; printf '\n```c\nstruct hf_stats {\n\tsize_t struct_bytes;\n};\n```\n' >>README.md
expect "a struct as it was once" 'hf_stats has changed'
new_tree; echo 'Call hf_alloc_now() first.' >>README.md
expect "a function that does not exist" 'README.md: hf_alloc_now does not exist'
new_tree; echo 'HF_NOFAIL never fails.' >>man/holdfast.7
expect "a class that does not exist" 'man/holdfast.7: HF_NOFAIL does not exist'
new_tree; sed -i 's/^ \* Holdfast: allocation.*/& See hf_nothing()./' include/holdfast/alloc.h
expect "a name in a header's comment" 'alloc.h: hf_nothing does not exist'
new_tree; sed -i 's/^\.BI "void \*hf_zalloc(size_t "/.BI "void *hf_zalloc(int "/' man/hf_alloc.3
expect "a synopsis with another type" 'man/hf_alloc.3: its SYNOPSIS disagrees'
new_tree; sed -i 's/^hf_alloc, hf_zalloc, /hf_alloc, /' man/hf_alloc.3
expect "a function that no man page has" 'its NAME section has no hf_zalloc'
new_tree; sed -i 's/HF_NOWARN/HF_ZERO/g' man/hf_alloc.3
expect "a flag that no man page has" 'does not mention HF_NOWARN'
new_tree; sed -i 's/^\.BI fail\.seed=.*/.BI fail.seeds= n/' man/hf_init.3
expect "a knob that does not exist" 'only in the page: fail.seeds'
expect "a knob that is not documented" 'only in the program: fail.seed'
new_tree; echo '.B \-\-frobnicate' >>man/holdfast.1
expect "an option that does not exist" 'only in the page: --frobnicate'
new_tree; sed -i 's/\\-\\-budget//g; s/--budget//g' man/holdfast.1
expect "an option that is not documented" 'only in the program: --budget'
new_tree; echo 'See [there](docs/nowhere.md).' >>README.md
expect "a dead link" 'links to docs/nowhere.md'

[ $failures -eq 0 ]
