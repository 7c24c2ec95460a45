#!/bin/sh
# The drop-in exports the C library's names and nothing else; libholdfast.so exports hf_* and nothing else.
# shellcheck source=tests/programs/dropin_lib.sh
. "$(dirname "$0")/dropin_lib.sh"
skip_without nm

nm -D --defined-only "$preload" | awk '{ print $3 }' | sort >"$work/names"
cat >"$work/expected" <<'N'
aligned_alloc
calloc
cfree
free
free_aligned_sized
free_sized
mallinfo
mallinfo2
malloc
malloc_info
malloc_stats
malloc_trim
malloc_usable_size
memalign
mlockall
posix_memalign
pvalloc
realloc
reallocarray
valloc
N
diff "$work/expected" "$work/names" || fail "the drop-in's names"
nm -D --defined-only "$build/libholdfast.so" | awk '{ print $3 }' | grep -v '^hf_' | grep -v '^HOLDFAST_' && fail "libholdfast.so exports more than hf_*"
# No library that would have to be loaded besides the C library: start-up must not depend on others.
readelf -d "$build/libholdfast.so" "$preload" | grep NEEDED | grep -v -e 'libc\.so' -e 'libholdfast\.so' -e 'ld-linux' && fail "needs another library"
echo "only the expected names"
