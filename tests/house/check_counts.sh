#!/bin/bash
# Does scripts/check count right, and fail when it must? Run on a small project with tests of our choosing.
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/scripts" "$work/tests"
cp "$source_dir/scripts/check" "$work/scripts/"
cp "$source_dir/CMakePresets.json" "$work/"
cd "$work"
failures=0

# project TESTS: a project whose tests are the given commands, named unit/1, unit/2, ...
project() {
	local number=0 command
	{
		echo 'cmake_minimum_required(VERSION 3.25)'
		echo 'project(counts NONE)'
		echo 'enable_testing()'
		for command; do
			number=$((number + 1))
			echo "add_test(NAME unit/$number COMMAND sh -c [==[$command]==])"
			echo "set_tests_properties(unit/$number PROPERTIES LABELS unit SKIP_RETURN_CODE 77)"
		done
	} >CMakeLists.txt
	: >tests/expected-skips
}

# expect NAME STATUS LAST_LINE BUILD...
expect() {
	local name=$1 wanted=$2 line=$3 status=0 last
	shift 3
	env -u CI scripts/check "$@" >out 2>&1 </dev/null || status=$?
	last=$(tail -n 1 out)
	if [ "$status" != "$wanted" ] || [ "$last" != "$line" ]; then
		echo "FAIL: $name: status $status and \"$last\", wanted $wanted and \"$line\"; the output was:"
		sed 's/^/  /' out
		failures=$((failures + 1))
	else
		echo "ok: $name"
	fi
}

project true true
expect "two that pass" 0 "2 passed, 0 failed" release
expect "the sum of two builds" 0 "4 passed, 0 failed" release debug
project true false
expect "one that fails" 1 "1 passed, 1 failed" release
project true 'exit 77'
expect "a skip that nobody expects is a failure" 1 "1 passed, 1 failed" release
echo 'rel* unit/2 there is no such hardware' >tests/expected-skips
expect "a skip that is expected" 0 "1 passed, 0 failed, 1 skipped" release
expect "expected in another build only" 1 "1 passed, 1 failed" debug
echo 'release unit/2' >tests/expected-skips
expect "an expected skip without a reason" 1 "1 passed, 1 failed" release
project 'echo "[  SKIPPED ] needs_a_thing"; echo "[  SKIPPED ] 1 test(s), listed below:"; echo "[  SKIPPED ] needs_a_thing"'
expect "a skip inside a cmocka program" 1 "1 passed, 1 failed" release
echo '* unit/1:needs_a_thing it has no thing' >tests/expected-skips
expect "an expected skip inside a cmocka program" 0 "1 passed, 0 failed, 1 skipped" release
project
expect "no tests at all" 1 "0 passed, 1 failed" release
project true
echo 'message(FATAL_ERROR "broken")' >>CMakeLists.txt
expect "a configuration that fails" 1 "0 passed, 1 failed" release
project true
echo 'add_custom_target(broken ALL COMMAND false)' >>CMakeLists.txt
expect "a build that fails; what was built is tested" 1 "1 passed, 1 failed" release
project true
echo 'add_test(NAME unit/gone COMMAND /nonexistent/program)' >>CMakeLists.txt
expect "a test whose program is missing" 1 "1 passed, 1 failed" release

[ $failures -eq 0 ]
