# For the scripts that run inside the VM (busybox sh): checks, a program to talk to, and groups of either version.
# Called as SCRIPT HOLDFAST HOG. A check that fails is said, counted, and does not end the script.
holdfast=$1
hog=$2
trap "" PIPE # the program that we talk to may be gone
passed=0
failed=0

# check WHAT TEST...: TEST is a command
check() {
	what=$1
	shift
	if "$@"; then
		passed=$((passed + 1))
		echo "ok    $what"
	else
		failed=$((failed + 1))
		echo "FAIL  $what: $*"
	fi
}

done_checking() {
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
	exit
}

# number WORD ANSWER: the number in an answer like "held 12", or -1 if it does not begin with WORD
number() {
	case $2 in
	"$1 "*) echo "${2#* }" ;;
	*) echo -1 ;;
	esac
}

# between LOW NUMBER HIGH
between() {
	[ "$1" -le "$2" ] && [ "$2" -le "$3" ]
}

# start COMMAND...: a hog to talk to, in the group that $in_group names (empty: none)
start() {
	rm -f /tmp/to /tmp/from
	mkfifo /tmp/to /tmp/from
	enter "$in_group" "$@" </tmp/to >/tmp/from 2>/tmp/errors &
	pid=$!
	exec 3>/tmp/to 4</tmp/from
}

# say COMMAND: sets $answer; empty if the program is gone, or says nothing for 30 s
say() {
	answer=
	echo "$1" >&3 2>/dev/null
	read -r -t 30 answer <&4
}

# finish: sets $status
finish() {
	exec 3>&- 4<&-
	wait "$pid"
	status=$?
	cat /tmp/errors
}

# ---- groups ----

groups=/sys/fs/cgroup
if [ -e $groups/cgroup.controllers ]; then
	limit_file=memory.max
	usage_file=memory.current
else
	groups=$groups/memory
	limit_file=memory.limit_in_bytes
	usage_file=memory.usage_in_bytes
fi

# group PATH MIB: make it, or set its limit
group() {
	mkdir -p "$groups/$1"
	if [ $limit_file = memory.max ]; then
		above=$(dirname "$groups/$1")
		[ "$above" = $groups ] || echo +memory >"$above/cgroup.subtree_control"
	fi
	echo $(($2 << 20)) >"$groups/$1/$limit_file"
}

# enter PATH COMMAND...: run it there
enter() {
	sh -c '[ -z "$1" ] || echo $$ >"$0/$1/cgroup.procs"; shift; exec "$@"' "$groups" "$@"
}

# kills PATH: how many the kernel has killed there
kills() {
	sed -n 's/^oom_kill //p' "$groups/$1/memory.events" "$groups/$1/memory.oom_control" 2>/dev/null
}

# usage_mib PATH
usage_mib() {
	echo $(($(cat "$groups/$1/$usage_file") >> 20))
}

# cache_mib PATH: clean and dirty file pages charged there
cache_mib() {
	echo $(($(sed -n 's/^\(file\|cache\) //p' "$groups/$1/memory.stat" | head -n 1) >> 20))
}
