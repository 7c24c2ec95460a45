# The PostgreSQL half of scripts/demo (bash, sourced): a server in a group, sessions at work, and one that asks for
# 900 MB. The sessions are outside the group, as clients are.

postgres_limit_mib=128
postgres_sessions=4
postgres_watch=0 # for how long a run is watched after the greedy request, in microseconds
postgres_greed="select length(repeat('x', 900000000))"

# Debian keeps each version's programs in a place of its own.
postgres_find() {
	local server
	server=$(find /usr/lib/postgresql/15/bin/postgres /usr/lib/postgresql/*/bin/postgres -maxdepth 0 2>/dev/null | head -n 1)
	[[ -n $server ]] || fail "PostgreSQL 15 is missing: scripts/deps installs it"
	postgres_bin=${server%/postgres}
}

# The server refuses to be root: somebody else then, who can read only what we put into $scratch.
postgres_user() {
	as_user=()
	[[ $(id -u) == 0 ]] || return 0
	local user=nobody
	id postgres >/dev/null 2>&1 && user=postgres
	as_user=("$(type -P setpriv)" --reuid="$(id -u $user)" --regid="$(id -g $user)" --clear-groups)
	chown "$(id -u $user):$(id -g $user)" "$scratch/postgres"
}

postgres_prepare() {
	postgres_find
	mkdir "$scratch/postgres"
	postgres_user
	(cd "$scratch/postgres" && "${as_user[@]}" "$postgres_bin/initdb" -D "$scratch/postgres/fresh" -U demo -A trust \
		--no-sync --locale=C --encoding=UTF8 >"$results/initdb.log" 2>&1) || {
		cat "$results/initdb.log" >&2
		fail "initdb failed"
	}
	cat >>"$scratch/postgres/fresh/postgresql.conf" <<-EOF
		listen_addresses = ''
		unix_socket_directories = '$scratch/postgres'
		shared_buffers = 16MB
		huge_pages = off
		max_connections = 20
		max_wal_size = 64MB
		min_wal_size = 32MB
		fsync = off
		jit = off
		log_line_prefix = '%m [%p] '
		log_timezone = 'UTC'
	EOF
}

client() {
	"$postgres_bin/psql" -X -q -A -t -h "$scratch/postgres" -U demo "$@" postgres
}

# postgres_start NAME COMMAND...
postgres_start() {
	local log=$results/postgres-$1.log errors=$results/postgres-$1.errors tries
	shift
	rm -rf "$scratch/postgres/data"
	cp -a "$scratch/postgres/fresh" "$scratch/postgres/data"
	# The server's log is what it says on its standard error; what COMMAND says there is kept apart.
	(cd "$scratch/postgres" && group_run "${as_user[@]}" "$@" sh -c 'exec "$0" "$@" 2>&3 3>&-' \
		"$postgres_bin/postgres" -D "$scratch/postgres/data") >/dev/null 2>"$errors" 3>"$log" </dev/null &
	server=$!
	children+=("$server")
	for ((tries = 0; tries < 600; tries++)); do
		client -c 'select 1' >/dev/null 2>&1 && return 0
		kill -0 "$server" 2>/dev/null || break
		sleep 0.1
	done
	cat "$log" "$errors" >&2
	return 1
}

# A fast shutdown, by the postmaster's own pid (the holdfast command stands between). Sets server_status.
postgres_stop() {
	local pid
	if read -r pid <"$scratch/postgres/data/postmaster.pid"; then
		kill -INT "$pid" 2>/dev/null || true
	fi 2>/dev/null
	await "$server" && server_status=0 || server_status=$?
}

# One session's work: transfers between accounts, whose sum stays, and a sort; each round is checked. Goes on until the
# file "stop" is there; says in its own file how many rounds it made before and after the file "greed" appeared (some of
# each, if nothing happens to it), and how it ended.
postgres_session() { # NUMBER
	local before=0 after=0 end=fine answer
	local work="with x as (update account set money = money + case id when 1 then -1 else 1 end
		where owner = $1 and id <= 2 returning 1) select count(*) from x;
		select sum(money) || ' ' || (select count(*) from (select md5(i::text) from generate_series(1, 5000) i order by 1) s)
		from account where owner = $1;"
	coproc PSQL { client -v ON_ERROR_STOP=1 2>&1; }
	local from=${PSQL[0]} to=${PSQL[1]} pid=$PSQL_PID
	while [[ ! -e $scratch/stop || $after -lt 5 ]]; do
		{ echo "${work//$'\n'/ }" >&"$to"; } 2>/dev/null || true
		read -r -t 60 answer <&"$from" || { end="no answer"; break; }
		[[ $answer == 2 ]] && read -r -t 60 answer <&"$from"
		[[ $answer == '10000 5000' ]] || { end=$answer; break; }
		: >"$scratch/ready-$1"
		[[ -e $scratch/greed ]] && after=$((after + 1)) || before=$((before + 1))
	done
	kill "$pid" 2>/dev/null || true
	echo "$before $after $end" >"$scratch/session-$1"
}

# Sets greed_status and greed_answer, and greed_then: does the same session answer afterwards?
postgres_be_greedy() { # START EVENTS_FILE
	local asked
	printf '%s;\nselect 6 * 7;\n' "$postgres_greed" >"$scratch/greed.sql"
	asked=$(seconds_since "$1")
	: >"$scratch/greed"
	greed_answer=$(client -f "$scratch/greed.sql" 2>&1) && greed_status=0 || greed_status=$?
	greed_then=no
	[[ $greed_answer != *42 ]] || greed_then=yes
	echo "$asked asked" >"$2"
	case $greed_answer in
	*'out of memory'*) echo "$(seconds_since "$1") refused" >>"$2" ;;
	*'connection to server was lost'*) echo "$(seconds_since "$1") killed" >>"$2" ;;
	esac
}

# One run. Leaves postgres-NAME.log, .errors, .csv, .events, .client; sets postgres_kills, sessions_fine, rounds_after, greed_*, server_status, recovered.
postgres_run() { # NAME COMMAND...
	local name=$1 start sampler i workers=() ready before after end greed_since deadline=$((SECONDS + 120))
	group_make $postgres_limit_mib
	start=$(microseconds)
	group_sample "$results/postgres-$name.csv" "$start" &
	sampler=$!
	children+=("$sampler")
	rm -f "$scratch"/{greed,stop} "$scratch"/{session,ready}-*
	postgres_start "$@" || { end_process "$sampler"; group_drop; fail "PostgreSQL did not start ($name)"; }
	client -c "create table account as select o as owner, i as id, 100 as money
		from generate_series(1, $postgres_sessions) o, generate_series(1, 100) i"
	for ((i = 1; i <= postgres_sessions; i++)); do
		postgres_session $i &
		workers+=($!)
	done
	children+=("${workers[@]}")
	until ready=("$scratch"/ready-*) && ((${#ready[@]} == postgres_sessions)); do
		((SECONDS < deadline)) || fail "PostgreSQL's sessions do not get to work ($name)"
		sleep 0.1
	done
	sleep 1
	greed_since=$(microseconds)
	postgres_be_greedy "$start" "$results/postgres-$name.events"
	# It goes on for three seconds more, and the second run as long as the first.
	(($(microseconds) - greed_since + 3000000 < postgres_watch)) || postgres_watch=$(($(microseconds) - greed_since + 3000000))
	until (($(microseconds) - greed_since >= postgres_watch)); do
		sleep 0.1
	done
	: >"$scratch/stop"
	for i in "${workers[@]}"; do
		await "$i" || true
	done
	postgres_stop
	end_process "$sampler"
	postgres_kills=$(group_kills)
	group_drop
	echo "$greed_answer" >"$results/postgres-$name.client"
	sessions_fine=0 rounds_after=0
	for ((i = 1; i <= postgres_sessions; i++)); do
		read -r before after end <"$scratch/session-$i"
		echo "session $i: $before rounds before, $after after, $end" >>"$results/postgres-$name.client"
		[[ $end != fine || $after == 0 ]] || sessions_fine=$((sessions_fine + 1))
		rounds_after=$((rounds_after + after))
	done
	recovered=$(grep -c 'automatic recovery in progress' "$results/postgres-$name.log" || true)
}

postgres_demo() {
	local happened
	postgres_prepare
	postgres_run system
	happened="$((postgres_sessions - sessions_fine)) of $postgres_sessions other sessions thrown out"
	((recovered == 0)) || happened+="; crash recovery of the cluster"
	row PostgreSQL "the system's" "$greed_status" "$happened" "$postgres_kills"

	postgres_run holdfast "$holdfast" run --budget auto --stats --
	happened="no error"
	[[ $greed_answer != *'out of memory'* ]] || happened='SQL error "out of memory"'
	row PostgreSQL holdfast "$greed_status" "$happened; $sessions_fine of $postgres_sessions other sessions undisturbed" \
		"$postgres_kills"
	demand "the kernel kills nobody (PostgreSQL)" [ "$postgres_kills" = 0 ]
	demand "the greedy session gets an SQL error, out of memory" [ "$happened" != "no error" ]
	demand "and goes on" [ "$greed_then" = yes ]
	demand "the other sessions are undisturbed" [ "$sessions_fine" = "$postgres_sessions" ]
	demand "PostgreSQL never crashes" [ "$recovered" = 0 ]
	demand "PostgreSQL shuts down as it should" [ "$server_status" = 0 ]
}
