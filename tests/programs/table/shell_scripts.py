"""Scripts for a POSIX shell: each runs in dash and in busybox's shell."""

from __future__ import annotations

from collections.abc import Mapping

from programs.row import JOB_PIDS, Row

_SCRIPTS: dict[str, str] = {
    "pipes": "echo one two three | tr ' ' '\\n' | sort | while read word; do echo \"<$word>\"; done | cat -n",
    "long-pipe": "seq 1 3000 | cat | cat | cat | cat | cat | cat | cat | tail -n 1",
    "pipe-status": "false | true; echo $?; true | false; echo $?; ! true; echo $?",
    "sigpipe": "(yes; echo yes ended $? >&2) | head -n 2; echo $?",
    "here-document": "name=world; cat <<END\nhello $name $(echo sub) `echo tick` $((6 * 7))\nEND\ncat <<'END'\nraw $name\nEND\n"
    "cat <<-END\n\t\ttabs gone\n\tEND\n",
    "here-document-long": "cat <<END | wc\n" + "x" * 70_000 + "\nEND\n",
    "redirections": "exec 3>out; echo three >&3; echo err >&2; ls missing 2>&1 | wc -l; exec 3>&-; cat out; echo more >>out; cat <out;"
    " { echo a; echo b >&2; } >both 2>&1; cat both; echo x 3>&1 >&3 || echo failed $?",
    "noclobber": "set -C; echo a >f; echo b >f; echo $?; echo c >|f; cat f",
    "descriptor-swap": "{ echo out; echo err >&2; } 3>&1 1>&2 2>&3 | sed 's/^/pipe: /'",
    "substitution": 'x=$(printf \'a\\n\\n\\n\'); echo "[$x]"; echo $(echo $(echo $(echo deep))); echo "$(cat missing 2>&1)" | wc -l',
    "expansion": 'v=file.tar.gz; echo ${v%.*} ${v%%.*} ${v#*.} ${v##*.} ${#v} ${u:-default} ${u:=set} $u ${v:+yes} "${w-}"',
    "expansion-error": 'echo before; (: ${missing:?is not set}); echo "status $?"',
    "arithmetic": "echo $((2 + 3 * 4)) $((7 / 2)) $((7 % 3)) $((1 << 10)) $((0x1f)) $((010)) $((5 > 3 && 2 > 1)); i=0;"
    " while [ $i -lt 5 ]; do i=$((i + 1)); printf '%d ' $i; done; echo",
    "division-by-zero": "echo before; (echo $((1 / 0))) 2>/dev/null; echo $?",
    "globbing": "mkdir -p d/e; touch a1 a2 b1 .hidden d/x d/e/y 'with space' '[x]'; echo *; echo a*; echo [ab]1; echo ?1; echo */*;"
    " echo d/*/y; echo .h*; echo nothing*; echo '*' \\*; echo [!a]*; for f in *; do echo \"-$f-\"; done; set -f; echo *",
    "case": 'for w in apple b1 "" "x y" -z; do case "$w" in a*) echo starts;; [b-d][0-9]) echo range;; "") echo empty;; *\\ *) echo space;;'
    " *) echo other;; esac; done",
    "functions": 'f() { echo "$# $1"; return 3; }; f a b; echo $?; g() { [ $1 -le 1 ] && echo 1 && return; echo $(($1 * $(g $(($1 - 1))))); };'
    " g 10; h() { local x=in; echo $x; }; x=out; h; echo $x",
    "quoting": 'set -- \'a b\' c "d\'e"; echo "$@"; printf \'[%s]\' "$@"; echo; printf \'[%s]\' $*; echo; IFS=:; echo "$*"',
    "read-fields": 'printf \'a:b:c d\\nlast\' | { IFS=: read x y z; echo "$z/$y/$x"; read l || echo "end <$l>"; }',
    "trap-exit": "trap 'echo bye $?' EXIT; echo hi; (trap 'echo sub' EXIT; exit 4); echo $?; exit 7",
    "trap-signal": "trap 'echo got TERM' TERM; trap 'echo got USR1' USR1; kill -TERM $$; kill -USR1 $$; echo after; trap - USR1;"
    " trap '' TERM; kill -TERM $$; echo ignored",
    "trap-in-wait": "trap 'echo alarm' USR1; (sleep 0.3; kill -USR1 $$) & sleep 5 & p=$!; wait $p; echo \"$? over 128\" | sed 's/1[0-9][0-9]/1xx/';"
    " kill $p; wait $p 2>/dev/null; echo $?",
    "killed-child": "sh -c 'kill -KILL $$'; echo $?; sh -c 'kill -TERM $$'; echo $?; (sleep 60) & kill -9 $!; wait $! 2>/dev/null; echo $?",
    "killed-itself": "echo before; kill -9 $$; echo never",
    "terminated-itself": "echo before; kill $$; sleep 1; echo never",
    "background": "(sleep 0.2; echo late) & echo early; wait; echo all; sh -c 'exit 5' & wait $!; echo $?",
    "many-children": "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do (exit $i) & pids=\"$pids $!\"; done; for p in $pids; do wait $p; printf '%d ' $?; done;"
    " echo",
    "subshells": "x=1; (x=2; (x=3; echo $x); echo $x); echo $x; { x=9; }; echo $x; echo a | x=5; echo $x",
    "exec": "exec echo replaced; echo never",
    "exec-missing": "exec ./missing; echo never",
    "not-found": "nosuchcommand; echo $?; ./noexec; echo $?; . ./lib; echo $var; mkdir d; ./d; echo $?",
    "scripts": "./hello.sh a 'b c'; ./interp.sh x; ./bare.sh y; ./badinterp.sh; echo $?",
    "errexit": "set -e; false || echo survived; if false; then :; fi; (false; echo no) || echo sub; false; echo never",
    "nounset": "set -u; echo ${a-ok}; echo $nope; echo never",
    "xtrace": "set -x; a=1; echo $a; [ $a = 1 ] && echo yes",
    "getopts": 'set -- -a -b value -c rest; while getopts ab:c o; do echo "$o ${OPTARG-}"; done; shift $((OPTIND - 1)); echo "$@"',
    "umask": "umask; umask 077; touch f; mkdir d; umask 000; touch g; umask 027; umask",
    "cd": "mkdir -p a/b; ln -s a/b l; cd l; basename $(pwd); basename $(pwd -P); cd ..; cd -; cd missing; echo $?; cd /; pwd",
    "ulimit": "ulimit -n 64; ulimit -n; ulimit -c; ulimit -f 1; (dd if=/dev/zero of=big bs=1024 count=100 2>/dev/null; echo $?); wc -c <big",
    "environment": "A=1 sh -c 'echo $A'; export B=2; sh -c 'echo $B'; env -i C=3 /usr/bin/env; unset B; echo ${B-unset}",
    "special": 'echo "$#" "$0" "$-" | wc -w; test -n "$$"; echo $?; true & test -n "$!"; echo $?; wait',
    "fifo": "mkfifo p; (echo through >p) & cat p; wait; (cat p >got) & seq 1 20000 >p; wait; wc got",
    "deep-recursion": "f() { [ $1 = 0 ] || f $(($1 - 1)); }; f 200; echo deep",
    "test-files": "touch f; ln -s f l; mkdir d; mkfifo p; for e in '-e f' '-f d' '-d d' '-L l' '-p p' '-s f' '-r f' '-x f' 'f -ef l' '-c /dev/null'"
    " '-S f' '-O f'; do test $e; echo \"$e: $?\"; done",
    "dev-fd": "echo in | cat /dev/stdin; echo out >/dev/stdout; echo null >/dev/null; cat /dev/fd/3 3<f; head -c 8 /dev/zero | od -c;"
    " head -c 16 /dev/urandom | wc -c; echo x >/dev/full",
    "times": "times | wc -l; type cd ls test | sed 's/ is .*//'; command -v cd; hash -r; echo $?",
    "dollar-dollar": "a=$$; b=$(sh -c 'echo $PPID'); [ $a = $b ]; echo $?; (c=$$; [ $a = $c ]; echo $?)",
    "nested-loops": "for i in 1 2 3; do for j in a b c; do [ $j = b ] && continue 2; [ $i = 3 ] && break 2; echo $i$j; done; done; echo end",
    "eval": "a='echo $b'; b=deep; eval $a; eval 'x=1; y=2'; echo $x$y; eval 'exit 6'",
    "stdin-script": "echo 'read line; echo \"got $line\"\nsecond' | sh; printf 'echo a\\nexit 3\\necho b\\n' | sh; echo $?",
    "big-environment": "v=$(head -c 100000 /dev/zero | tr '\\0' x); export v; sh -c 'echo ${#v}'; echo \"$v$v\" | wc -c",
    "arguments-too-long": "v=$(head -c 200000 /dev/zero | tr '\\0' x); /bin/echo \"$v\" 2>&1 >/dev/null | sed 's/.*: //'; echo done",
}
_STATUS = {
    "trap-exit": 7, "killed-itself": -9, "terminated-itself": -15, "exec-missing": 127, "errexit": 1, "nounset": 2, "eval": 6,
    "dev-fd": 1,
}  # fmt: skip
_FILES: dict[str, Mapping[str, str]] = {
    "not-found": {"noexec": "echo no\n", "lib": "var=sourced\n"},
    "scripts": {
        "hello.sh": '#!/bin/sh\necho "$0 has $#: $1, $2"\n',
        "interp.sh": "#!/usr/bin/env -S sh -e\necho env $1\nfalse\necho never\n",
        "bare.sh": "echo bare $1\n",
        "badinterp.sh": "#!/no/such/interpreter\n",
    },
    "dev-fd": {"f": "content\n"},
}  # fmt: skip
# busybox's shell has other statuses and words in these, natively too.
_DASH_ONLY = frozenset(("nounset", "special", "times", "xtrace", "cd", "expansion-error"))


def _row(name: str, script: str, shell: str, command: tuple[str, ...]) -> Row:
    return Row(
        f"{shell}-{name}",
        script,
        shell=command,
        files=_FILES.get(name, {}),
        status=_STATUS.get(name, 0),
        normal=(JOB_PIDS,),
    )


ROWS: tuple[Row, ...] = (
    *(_row(name, script, "dash", ("/bin/dash", "-c")) for name, script in _SCRIPTS.items()),
    *(_row(name, script, "ash", ("busybox", "sh", "-c")) for name, script in _SCRIPTS.items() if name not in _DASH_ONLY),
)
