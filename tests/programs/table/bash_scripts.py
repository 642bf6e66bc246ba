"""Scripts for bash: what it adds to the POSIX shell, and its job control."""

from __future__ import annotations

from programs.row import JOB_PIDS, SHELL_PIDS, Row, bash

ROWS: tuple[Row, ...] = (
    bash("bash-arrays", 'a=(x "y z" w); echo ${#a[@]} "${a[1]}" "${a[@]:1}" ${!a[@]}; a+=(v); unset "a[0]"; declare -p a; declare -A m=([k]=1 [l]=2);'
         ' for k in k l; do echo $k=${m[$k]}; done'),
    bash("bash-process-substitution", "diff <(seq 1 5) <(seq 2 6); cat <(echo a) <(echo b); echo in > >(cat); wait; paste <(echo 1) <(echo 2)"),
    bash("bash-here-string", 'cat <<<"one $((1 + 1))"; read -r a b <<<"x y z"; echo "$b|$a"; while read -r l; do echo "<$l>"; done <<<$\'a\\nb\''),
    bash("bash-globs", "shopt -s extglob globstar nullglob dotglob\nmkdir -p a/b/c; touch a/1.txt a/b/2.txt a/b/c/3.txt .h x.c x.h; echo **/*.txt;"
         " echo !(*.c); echo @(x|y).*; echo none*; echo *; echo {a,b}{1..3}"),
    bash("bash-conditions", '[[ abc == a* ]] && echo glob; [[ abc =~ ^a(.)c$ ]] && echo "${BASH_REMATCH[1]}"; [[ 2 -lt 10 && b > a ]] && echo less;'
         ' [[ -f f || ! -e f ]] && echo either; ((3 > 2)) && echo $((2**10))'),
    bash("bash-expansions", 'v="Hello World"; echo ${v,,} ${v^^} ${v/o/0} ${v//o/0} ${v:6:3} ${v: -3} "${v@Q}"; n=v; echo ${!n};'
         ' printf "%q %05d %x %s\\n" "a b" 42 255 s; printf -v x "%s" y; echo $x'),
    bash("bash-pipefail", "set -o pipefail; false | true; echo $? ${PIPESTATUS[@]}; true | true; echo $? ; exit 3 | cat; echo ${PIPESTATUS[*]}"),
    bash("bash-traps", "trap 'echo ERR $?' ERR; false; trap 'echo DEBUG' DEBUG; :; trap - DEBUG; f() { trap 'echo RETURN' RETURN; }; f; trap 'echo EXIT $?' EXIT;"
         " trap -p EXIT; exit 4", status=4),
    bash("bash-job-control", "set -m; sleep 30 & jobs; kill -STOP %1; sleep 0.2; jobs; kill -CONT %1; sleep 0.2; jobs; kill %1; wait %1; echo $?; jobs",
         normal=(JOB_PIDS, SHELL_PIDS)),
    bash("bash-foreground", "set -m; (sleep 0.3; exit 7) & fg %1; echo $?; sleep 0.1 & wait -n; echo $?; (exit 3) & wait %%; echo $?", normal=(JOB_PIDS,)),
    bash("bash-process-groups", "set -m; sleep 20 & p=$!; g=$(ps -o pgid= -p $p | tr -d ' '); [ $g = $p ] && echo own group; kill -- -$p; wait $p; echo $?",
         normal=(JOB_PIDS, SHELL_PIDS), needs=("ps",)),
    bash("bash-no-job-control", "sleep 20 & p=$!; kill $p; wait $p; echo $?; (kill -9 $BASHPID); echo $?; sh -c 'kill -SEGV $$'; echo $?",
         normal=(SHELL_PIDS,)),
    bash("bash-coproc", 'coproc cat; echo through >&${COPROC[1]}; read -r l <&${COPROC[0]}; echo "got $l"; exec {COPROC[1]}>&-; wait; echo $?'),
    bash("bash-read-timeout", "read -t 0.2 -r x < <(sleep 2); [ $? -gt 128 ] && echo timeout; read -n 3 y <<<abcdef; echo $y; mapfile -t l < <(seq 3); echo ${l[*]}"),
    bash("bash-descriptors", "exec {fd}>out; echo data >&$fd; exec {fd}>&-; cat out; exec 5<>rw; echo abc >&5; exec 5<&-; cat rw; ls missing &>all; wc -l <all;"
         " echo x |& cat"),
    bash("bash-tcp-refused", "(exec 3<>/dev/tcp/127.0.0.1/1) 2>&1 | grep -c refused"),
    bash("bash-signals-list", "kill -l | head -n 4; kill -l 9 15 TERM; kill -0 $$; echo $?; kill -0 999999; echo $?"),
    bash("bash-wait-many", "for i in {1..30}; do (sleep 0.0$((i % 5)); exit $((i % 3))) & p[i]=$!; done; n=0; for i in {1..30}; do wait ${p[i]}; n=$((n + $?)); done; echo $n; sleep 0.1 & wait -n; echo $?; wait -n; echo $?"),
    bash("bash-subshell-signals", "trap 'echo parent' USR1; (trap 'echo child; exit 0' USR1; kill -USR1 $BASHPID; echo never); kill -USR1 $$; echo end"),
    bash("bash-interrupt", "bash -c 'trap \"echo int; exit 9\" INT; kill -INT $$; sleep 1'; echo $?; bash -c 'kill -INT $$; sleep 1; echo no'; echo $?"),
    bash("bash-hangup", "trap 'echo hup' HUP; kill -HUP $$; trap '' PIPE; seq 1 100000 2>err | head -n 1; wc -l <err"),
    bash("bash-select", "PS3='? '; select x in a b; do echo $x; break; done <<<2"),
    bash("bash-printf-time", "printf '%(%Y-%m-%d)T\\n' 86400; TIMEFORMAT=; time sleep 0.1; [ $SECONDS -lt 5 ] && echo quick; [ -n \"$EPOCHREALTIME\" ] && echo $?"),
    bash("bash-random", "RANDOM=42; [ $RANDOM != $RANDOM ] && echo differs; echo ${#UID} $EUID ${#HOSTNAME} | wc -w; echo $SHLVL $BASH_SUBSHELL; (echo $BASH_SUBSHELL)"),
    bash("bash-script-file", "./main.sh 5; echo $?", files={
        "main.sh": "#!/bin/bash\nset -euo pipefail\nsource ./lib.sh\nfor ((i = 0; i < $1; i++)); do square $i; done | tee out\nexit 2\n",
        "lib.sh": "square() { echo $(($1 * $1)); }\n",
    }),
    bash("bash-big-loop", "s=0; for ((i = 0; i < 60000; i++)); do ((s += i)); done; echo $s"),
    bash("bash-forks", "for i in {1..150}; do x=$(echo $i); done; echo $x"),
    bash("bash-long-script", "source ./long.sh; echo $n", files={"long.sh": "n=0\n" + "((++n))\n" * 5000}),
)  # fmt: skip
