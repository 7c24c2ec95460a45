# The SQLite half of scripts/demo (bash, sourced).

sqlite_limit_mib=64

# Fills an in-memory database with 240,000 notes (more than 75 MiB), deletes all but 20,000, and goes on with work whose
# results are the same however many of the first notes found room. Deleting needs a little memory too, for the way back:
# so it begins with small steps, as a program does that has just been told no.
sqlite_script() {
	local i
	echo "pragma auto_vacuum = full;"
	echo "create table note(id integer primary key, kind integer, body text);"
	echo "create index note_by_kind on note(kind, body);"
	for ((i = 0; i < 60; i++)); do
		sqlite_insert $i
	done
	echo ".print deleting"
	for ((i = 239800; i >= 20000; i -= 200)); do
		echo "delete from note where id between $i and $i + 199;"
	done
	for ((i = 238000; i >= 20000; i -= 2000)); do
		echo "delete from note where id >= $i;"
	done
	echo ".print the rest"
	echo "select 'kept', count(*), sum(id) from note;"
	for ((i = 5; i < 25; i++)); do
		sqlite_insert $i
	done
	cat <<-'EOF'
		select 'went on', count(*), sum(id), sum(length(body)) from note;
		select 'wrong notes', count(*) from note
		 where body is not printf('note %d, %d', id, id * id % 1000003) || printf('%.100c', 'x');
		select 'of kind 42', count(*), min(body), max(body) from note where kind = 42;
		pragma integrity_check;
	EOF
}

sqlite_insert() { # BATCH
	cat <<-EOF
		insert into note with recursive n(i) as (select $1 * 4000 union all select i + 1 from n where i < $1 * 4000 + 3999)
		 select i, i / 1000, printf('note %d, %d', i, i * i % 1000003) || printf('%.100c', 'x') from n;
	EOF
}

# What sqlite3 says with the time before each line, so that the picture knows when it was told no.
sqlite_listen() { # START
	local line
	while IFS= read -r line; do
		echo "$(seconds_since "$1") $line"
	done
}

# One run in a group of its own; COMMAND (may be empty) starts sqlite3. Leaves sqlite-NAME.csv, .out, .events, .errors
# in $results; sets sqlite_status, sqlite_kills, sqlite_fate, sqlite_refused.
sqlite_run() { # NAME COMMAND...
	local name=$results/sqlite-$1 start end sampler program talk listener
	shift
	group_make $sqlite_limit_mib
	start=$(microseconds)
	group_sample "$name.csv" "$start" &
	sampler=$!
	# Opened here, so that the listener is our child and not one of the program that is listened to.
	exec {talk}> >(sqlite_listen "$start" >"$name.out")
	listener=$!
	group_run "$@" sh -c 'exec sqlite3 -batch :memory: 2>&1' <"$results/notes.sql" >&"$talk" {talk}>&- 2>"$name.errors" &
	program=$!
	exec {talk}>&-
	await "$program" && sqlite_status=0 || sqlite_status=$?
	end=$(seconds_since "$start")
	await "$listener" || true
	sleep 0.1
	end_process "$sampler"
	sqlite_kills=$(group_kills)
	group_drop
	sqlite_refused=$(grep -c 'out of memory' "$name.out" || true)
	sqlite_fate=ended
	((sqlite_status <= 128)) || sqlite_fate="killed (signal $((sqlite_status - 128))), its data is gone"
	{
		sed -n '/out of memory/{s/ .*/ refused/p;q}' "$name.out"
		echo "$end ${sqlite_fate%% *}"
	} >"$name.events"
}

# What came after the line "the rest", without times.
sqlite_rest() {
	sed -n '/ the rest$/,$s/^[0-9.]* //p' "$1"
}

sqlite_demo() {
	local verdict=wrong
	sqlite_script >"$results/notes.sql"
	sqlite3 -batch :memory: <"$results/notes.sql" 2>&1 | sed 's/^/0 /' >"$results/sqlite-unlimited.out"

	sqlite_run system
	row sqlite3 "the system's" "$sqlite_status" "$sqlite_fate" "$sqlite_kills"

	sqlite_run holdfast "$holdfast" run --budget auto --stats --
	if cmp -s <(sqlite_rest "$results/sqlite-unlimited.out") <(sqlite_rest "$results/sqlite-holdfast.out"); then
		verdict=correct
	fi
	row sqlite3 holdfast "$sqlite_status" "$sqlite_fate; told no $sqlite_refused times, the rest is $verdict" "$sqlite_kills"
	demand "the kernel kills nobody (sqlite3)" [ "$sqlite_kills" = 0 ]
	demand "sqlite3 ends by itself" [ "$sqlite_status" -le 1 ]
	demand "sqlite3 is told \"out of memory\"" [ "$sqlite_refused" -gt 0 ]
	demand "the rest of sqlite3's work is correct" [ "$verdict" = correct ]
}
