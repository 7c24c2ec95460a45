# Memory cgroups of either version, for scripts/demo (bash, sourced). One group at a time.
# group_find first; then group_make, group_run ..., group_drop.

group='' # the directory of the group, empty: none

# The mount points of memory cgroups and what of them this process is in: "VERSION MOUNT PATH" a line.
group_homes() {
	local id root mount rest type
	while read -r id _ _ root mount rest; do
		type=${rest##* - }
		case $type in
		cgroup2\ *) sed -n "s|^0::|2 $mount |p" /proc/self/cgroup ;;
		cgroup\ *)
			[[ ,${type##* }, == *,memory,* ]] &&
				sed -n "s|^[0-9]*:\(.*,\)\?memory\(,.*\)\?:|1 $mount |p" /proc/self/cgroup
			;;
		esac
	done </proc/self/mountinfo
}

# try VERSION DIRECTORY: can a process of ours be put under a limit in a child of it?
group_try() {
	local child=$2/holdfast-demo-$$
	if [[ $1 == 2 ]]; then
		grep -qw memory "$2/cgroup.subtree_control" 2>/dev/null ||
			{ echo +memory >"$2/cgroup.subtree_control"; } 2>/dev/null || return 1
	fi
	mkdir "$child" 2>/dev/null || return 1
	local limit=memory.limit_in_bytes fine=1
	[[ $1 == 1 ]] || limit=memory.max
	{ echo $((64 << 20)) >"$child/$limit" && sh -c 'echo $$ >"$0/cgroup.procs"' "$child"; } 2>/dev/null || fine=0
	rmdir "$child"
	((fine))
}

# Sets group_version and group_parent: our own group, or the nearest above it that will have a child. Fails: there is none.
group_find() {
	local version mount path
	while read -r version mount path; do
		[[ -d $mount$path ]] || path=/
		while :; do
			if group_try "$version" "$mount${path%/}"; then
				group_version=$version
				group_parent=$mount${path%/}
				return 0
			fi
			[[ $path != / ]] || break
			path=$(dirname "$path")
		done
	done < <(group_homes)
	return 1
}

group_make() { # MIB
	group=$group_parent/holdfast-demo-$$
	mkdir "$group"
	if [[ $group_version == 2 ]]; then
		group_usage_file=$group/memory.current
		echo $(($1 << 20)) >"$group/memory.max"
		# Swap would only put the end off.
		{ echo 0 >"$group/memory.swap.max"; } 2>/dev/null || true
	else
		group_usage_file=$group/memory.usage_in_bytes
		echo $(($1 << 20)) >"$group/memory.limit_in_bytes"
		{ echo $(($1 << 20)) >"$group/memory.memsw.limit_in_bytes"; } 2>/dev/null || true
	fi
}

# In the group from its first instruction on.
group_run() { # COMMAND...
	exec sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@"
}

# How many processes the kernel has killed in it for lack of memory.
group_kills() {
	sed -n 's/^oom_kill //p' "$group/memory.events" "$group/memory.oom_control" 2>/dev/null || true
}

group_evidence() {
	[[ $group_version == 2 ]] && echo "memory.events: oom_kill" || echo "memory.oom_control: oom_kill"
}

# Ends what is still in it, and removes it.
group_drop() {
	local pid tries
	[[ -n $group && -d $group ]] || return 0
	for ((tries = 0; tries < 100; tries++)); do
		while read -r pid; do
			kill -KILL "$pid" 2>/dev/null || true
		done <"$group/cgroup.procs"
		rmdir "$group" 2>/dev/null && break
		sleep 0.05
	done
	group=''
}

# ---- memory over time ----

microseconds() {
	echo "${EPOCHREALTIME/./}"
}

# Writes seconds,usage_bytes to a file, about 100 times a second, until it is ended.
group_sample() { # FILE START
	local usage idle
	exec {idle}<> <(:)
	echo seconds,usage_bytes >"$1"
	while read -r usage <"$group_usage_file"; do
		echo "$(seconds_since "$2"),$usage" >>"$1"
		read -r -t 0.008 -u "$idle" || true
	done 2>/dev/null
}

# seconds_since START [NOW]
seconds_since() {
	local since=$((${2:-${EPOCHREALTIME/./}} - $1))
	printf '%d.%06d\n' $((since / 1000000)) $((since % 1000000))
}
