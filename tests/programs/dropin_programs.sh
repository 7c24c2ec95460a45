#!/bin/sh
# dropin_programs.sh NAME: a real, unmodified program over the drop-in does what it does without.
# shellcheck source=tests/programs/dropin_lib.sh
. "$(dirname "$0")/dropin_lib.sh"

case $1 in
bash)
	skip_without bash
	same bash -c 'for i in {1..20000}; do a[i]="$i-$i"; done; echo "${a[@]}" | tr " " "\n" | sort -n | tail -3; s=x
		for i in {1..18}; do s=$s$s; done; echo ${#s}; f() { local x=$1; ((x > 0)) && (f $((x - 1)); echo $x); }; f 20
		for i in {1..100}; do (:) & done; wait; [[ abcdef =~ c(d)e ]] && echo ${BASH_REMATCH[1]}; exit 3'
	;;
dash)
	skip_without dash
	same dash -c 'i=0; while [ $i -lt 300 ]; do x=$(echo $i | cat); i=$((i + 1)); done; echo $x'
	;;
python)
	skip_without python3
	cat >"$work/t.py" <<-'P'
		import concurrent.futures, json, multiprocessing, re, subprocess, sys, threading, zlib
		def work(n):
		    d = {str(i): [i] * (i % 50) for i in range(n)}
		    s = json.dumps(d)
		    return len(zlib.compress(s.encode())) and len(json.loads(s)) + len(re.findall(r'\d+', s))
		if __name__ == '__main__':
		    out = []
		    ts = [threading.Thread(target=lambda i=i: out.append(work(2000 + i))) for i in range(8)]
		    [t.start() for t in ts]; [t.join() for t in ts]
		    print(sorted(out))
		    with multiprocessing.Pool(4) as pool: print(pool.map(work, range(500, 1500, 100)))
		    with multiprocessing.get_context('spawn').Pool(2) as pool: print(pool.map(work, range(500, 700, 100)))
		    with concurrent.futures.ThreadPoolExecutor(8) as pool: print(sum(pool.map(work, range(300))))
		    print(subprocess.run([sys.executable, '-c', 'print(6*7)'], capture_output=True, text=True).stdout)
		    b = bytearray(1)
		    for i in range(24): b += b
		    print(len(b))
	P
	same env PYTHONMALLOC=malloc python3 "$work/t.py"
	same python3 "$work/t.py"
	;;
perl)
	skip_without perl
	same perl -e 'my %h; $h{$_ % 5000} .= "x$_," for 1..200000; print length($h{42}), "\n"; my @s = sort { $b cmp $a } keys %h; print "@s[0..5]\n";
		my $s = "ab" x 500000; $s =~ s/a(b)/$1$1/g; print length $s, "\n"; for (1..50) { my $p = fork; if (!$p) { my @x = (1) x 10000; exit 0 } waitpid $p, 0; print $? }
		open my $f, "-|", "echo piped" or die; print <$f>'
	;;
git)
	skip_without git
	cat >"$work/t.sh" <<-'S'
		set -e
		export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z' GIT_CONFIG_GLOBAL=/dev/null
		d=$(mktemp -d); cd "$d"
		git init -q -b main .; git config user.name a; git config user.email a@b
		for i in 1 2 3 4 5 6 7 8; do seq 1 $((i * 1000)) >file$i; git add .; git commit -qm "c$i"; done
		git repack -adq; git gc -q; git fsck --full; git log --oneline; git diff HEAD~3 | sha256sum
		git clone -q . clone; git -C clone log -1 --format=%H; git branch x HEAD~2; git merge -q x; git blame -s file8 | sha256sum
		cd /; rm -rf "$d"
	S
	same sh "$work/t.sh"
	;;
gcc)
	skip_without gcc
	cat >"$work/t.c" <<-'C'
		#include <stdio.h>
		#include <stdlib.h>
		#define A(n) int f##n(int x) { int s = 0; for (int i = 0; i < x; i++) s += i * n % (x + 1); return s; }
		#define B(n) A(n##0) A(n##1) A(n##2) A(n##3) A(n##4) A(n##5) A(n##6) A(n##7) A(n##8) A(n##9)
		B(1) B(2) B(3) B(4) B(5)
		int main(void) { printf("%d %d\n", f10(1000), f59(77)); return 0; }
	C
	same gcc -O2 -S -o - "$work/t.c"
	same sh -c "gcc -O2 -g -flto -o '$work/t' '$work/t.c' && '$work/t'"
	;;
sqlite)
	skip_without sqlite3
	same sqlite3 :memory: "create table t(a integer primary key, b text, c blob);
		with recursive n(i) as (select 1 union all select i+1 from n where i<50000) insert into t select i, 'row ' || i, zeroblob(i % 300) from n;
		create index i on t(b); select count(*), sum(length(c)) from t; select b from t order by b desc limit 3;
		delete from t where a % 3; vacuum; select count(*) from t; pragma integrity_check;"
	;;
tools)
	skip_without sort awk sed tar gzip xz find
	seq 1 200000 | rev >"$work/numbers"
	same sort --parallel=4 -S 20M "$work/numbers"
	same awk '{ a[$1 % 1000] = a[$1 % 1000] "," $1 } END { for (i = 0; i < 1000; i++) s += length(a[i]); print s }' "$work/numbers"
	same sh -c "tar -C '$work' -cf - numbers | gzip -9 | gzip -d | tar -tf -; xz -T2 -c '$work/numbers' | xz -dc | sha256sum"
	same sed -n 's/\(1\)\(2\)/\2\1/p' "$work/numbers"
	same sh -c 'find /usr/lib -name "*.so*" | sort | head -100 | xargs ls -1d | wc -l'
	same sh -c 'getent passwd root; id -un; date -u -d @0; ls -l / | wc -l'
	;;
*)
	fail "no such program: $1"
	;;
esac
echo "as without Holdfast"
