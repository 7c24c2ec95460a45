#!/bin/bash
# Does scripts/vm keep its word? Called as SCRIPT VM, on the host.
set -u
vm=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

expect() { # WHAT WANTED GOT
	if [ "$2" = "$3" ]; then
		echo "ok    $1"
	else
		echo "FAIL  $1: wanted '$2', got '$3'"
		failed=1
	fi
}

cat >"$scratch/script" <<'EOF'
#!/bin/sh
printf '%s|' "$@" "$(id -u)" "$(cat /given/file)"
echo left >/output/behind
exit 42
EOF
echo content >"$scratch/file"
output=$("$vm" run --file "$scratch/file:/given/file" --output "$scratch/out" -- "$scratch/script" "it's" 'two words' '')
expect "the exit status is the script's" 42 $?
expect "arguments and files arrive, and the output comes back" "it's|two words||0|content|" "$output"
expect "so does what is left in /output" left "$(cat "$scratch/out/behind")"

"$vm" run --timeout 1 -- "$scratch/script" >/dev/null 2>"$scratch/errors"
expect "time is limited" 124 $?

"$vm" run --append "init=/no-such-program rdinit=/no-such-program" -- "$scratch/script" >/dev/null 2>"$scratch/errors"
expect "a VM without a result is not a success" 125 $?
exit $failed
