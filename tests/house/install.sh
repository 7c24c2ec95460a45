#!/bin/bash
# install.sh BUILD: installs BUILD into a temporary root, and uses it from there as a stranger would. The installed tree is not
# where it was configured to be, so this also shows that it can be moved.
set -euo pipefail
build=$(realpath "$1")
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset LD_LIBRARY_PATH LD_PRELOAD HOLDFAST HOLDFAST_LEDGER
failures=0

fail() {
	echo "FAIL: $*"
	failures=$((failures + 1))
}

# must NAME COMMAND...: runs it; its output only if it fails.
must() {
	local name=$1
	shift
	if "$@" >must.out 2>&1; then
		echo "ok: $name"
	else
		fail "$name: $*"
		sed 's/^/  /' must.out
	fi
}

# same NAME WANTED GOT: both lists of lines.
same() {
	if [ "$2" = "$3" ]; then
		echo "ok: $1"
	else
		fail "$1 (< wanted, > got):"
		diff <(echo "$2") <(echo "$3") | grep '^[<>]' || true
	fi
}

DESTDIR=$work/stage cmake --install "$build" >install.log
prefix=$(sed -n 's/^CMAKE_INSTALL_PREFIX:[A-Z]*=//p' "$build/CMakeCache.txt")
root=$work/stage$prefix
libdir=$root/$(sed -n 's/^CMAKE_INSTALL_LIBDIR:[A-Z]*=//p' "$build/CMakeCache.txt")
[ -d "$libdir" ] || { echo "FAIL: nothing was installed in $libdir"; exit 1; }

# ---- what is there ----
for file in bin/holdfast include/holdfast/holdfast.h share/man/man1/holdfast.1 share/man/man7/holdfast.7 \
	share/man/man3/hf_alloc.3 share/man/man3/hf_zalloc.3; do
	[ -e "$root/$file" ] || fail "$file was not installed"
done
for file in libholdfast.so libholdfast.so.0 libholdfast.a libholdfast-malloc.so pkgconfig/holdfast.pc \
	cmake/holdfast/holdfast-config.cmake cmake/holdfast/holdfast-config-version.cmake; do
	[ -e "$libdir/$file" ] || fail "$file was not installed in $libdir"
done
if grep -rIl --exclude='*.log' -e "$build" -e "$source_dir" "$work/stage" >leaks; then
	fail "paths of the build are in: $(tr '\n' ' ' <leaks)"
fi

# ---- what the libraries show and need ----
defined() {
	nm -D --defined-only --with-symbol-versions "$1" | awk '$2 != "A" { print $3 }' | LC_ALL=C sort
}
declared=$(sed -n 's/^[a-z].*[ *]\(hf_[a-z0-9_]*\)(.*/\1/p' "$root"/include/holdfast/*.h | LC_ALL=C sort)
[ "$(echo "$declared" | wc -l)" -gt 10 ] || fail "the headers declare only: $declared"
same "libholdfast.so exports what the headers declare, versioned" "$(sed 's/$/@@HOLDFAST_0.1/' <<<"$declared")" \
	"$(defined "$libdir/libholdfast.so")"
same "libholdfast.a defines no other global name" "$declared" \
	"$(nm --defined-only --extern-only "$libdir/libholdfast.a" | awk 'NF == 3 { print $3 }' | LC_ALL=C sort)"
malloc_family='aligned_alloc calloc cfree free free_aligned_sized free_sized mallinfo mallinfo2 malloc malloc_info malloc_stats
malloc_trim malloc_usable_size memalign mlockall posix_memalign pvalloc realloc reallocarray valloc'
same "the drop-in exports the malloc family alone" "$(tr -s ' \n' '\n' <<<"$malloc_family")" \
	"$(defined "$libdir/libholdfast-malloc.so")"
needed() {
	readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | LC_ALL=C sort
}
same "libholdfast.so needs the C library alone" libc.so.6 "$(needed "$libdir/libholdfast.so")"
same "the drop-in needs libholdfast and the C library" "$(printf 'libc.so.6\nlibholdfast.so.0')" \
	"$(needed "$libdir/libholdfast-malloc.so")"

# ---- a program that uses it ----
cat >program.c <<'END'
#include <holdfast/holdfast.h>

#include <stdio.h>
#include <string.h>

int main(void)
{
	struct hf_config config;
	struct hf_stats stats;
	char *text;

	memset(&config, 0, sizeof config);
	memset(&stats, 0, sizeof stats);
	config.struct_bytes = sizeof config;
	config.budget_bytes = 16u << 20;
	if (hf_init(&config) != 0)
		return 1;
	text = (char *)hf_alloc(100, HF_RETRY);
	if (text == NULL)
		return 2;
	strcpy(text, "held");
	if (hf_alloc(64u << 20, HF_RETRY | HF_NOWARN) != NULL)
		return 3;
	stats.struct_bytes = sizeof stats;
	if (hf_stats_get(&stats) != 0 || stats.limit_bytes != 16u << 20 || stats.process_refusals != 1)
		return 4;
	printf("%s\n", text);
	hf_free(text);
	return 0;
}
END
cp program.c program.cc

# prints_held NAME PROGRAM
prints_held() {
	local status=0 output
	output=$(LD_LIBRARY_PATH=$libdir "$2" 2>&1) || status=$?
	if [ "$status" = 0 ] && [ "$output" = held ]; then
		echo "ok: $1"
	else
		fail "$1: status $status, output: $output"
	fi
}

export PKG_CONFIG_PATH=$libdir/pkgconfig
must "pkg-config finds it" pkg-config --exists --print-errors holdfast
same "pkg-config has the version" "$(sed -n 's/^CMAKE_PROJECT_VERSION:[A-Z]*=//p' "$build/CMakeCache.txt")" \
	"$(pkg-config --modversion holdfast)"
read -ra flags < <(pkg-config --cflags --libs holdfast)
must "compiles as C with pkg-config" gcc -Wall -Wextra -Werror program.c -o by-pkg-config "${flags[@]}"
prints_held "runs" ./by-pkg-config
must "compiles as C++ with pkg-config" g++ -Wall -Wextra -Werror program.cc -o by-pkg-config-cxx "${flags[@]}"
prints_held "runs" ./by-pkg-config-cxx

mkdir package
cp program.c program.cc package/
cat >package/CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.25)
project(stranger LANGUAGES C CXX)
find_package(holdfast 0.1 REQUIRED)
add_executable(c-shared program.c)
target_link_libraries(c-shared holdfast::holdfast)
add_executable(c-static program.c)
target_link_libraries(c-static holdfast::static)
add_executable(cxx-shared program.cc)
target_link_libraries(cxx-shared holdfast::holdfast)
add_executable(cxx-static program.cc)
target_link_libraries(cxx-static holdfast::static)
END
must "find_package finds it" cmake -S package -B package-build -DCMAKE_PREFIX_PATH="$root"
must "builds with find_package" cmake --build package-build
for program in c-shared c-static cxx-shared cxx-static; do
	prints_held "$program runs" package-build/$program
done
same "the static one does not load libholdfast.so" "" "$(needed package-build/c-static | grep holdfast)"
must "find_package refuses another minor version" sh -c 'sed -i "s/holdfast 0.1/holdfast 0.2/" package/CMakeLists.txt;
	! cmake -S package -B package-build-2 -DCMAKE_PREFIX_PATH="$1"' sh "$root"

# ---- the command ----
must "holdfast run -- true" "$root/bin/holdfast" run -- true
loaded=$("$root/bin/holdfast" run --budget 64M -- cat /proc/self/maps | grep -o '/[^ ]*libholdfast[^ ]*' | sort -u)
same "the installed drop-in is what is loaded" "$(realpath "$libdir/libholdfast-malloc.so" "$libdir/libholdfast.so" | sort)" "$loaded"
"$root/bin/holdfast" run --budget 64M -- sh -c 'exit 7' && fail "exit status 7 was lost" || status=$?
same "the exit status is the program's" 7 "${status:-0}"
must "man finds a page by each of its names" env MANPATH="$root/share/man" man -w 3 hf_zalloc

[ $failures -eq 0 ]
