"""Programs about processes: ps, signals from outside, sessions, limits, strace-like views of themselves."""

from __future__ import annotations

from programs.row import ADDRESSES, JOB_PIDS, SHELL_PIDS, Row, bash

ROWS: tuple[Row, ...] = (
    bash("process-ps", "sleep 20 & p=$!; ps -o comm= -p $p; ps -o stat= -p $p | cut -c 1; ps -o ppid= -p $p | grep -cw $$; kill $p; wait $p; ps -p $p >/dev/null; echo $?; ps -e | wc -l | awk '{ print ($1 > 1) }'",
         normal=(SHELL_PIDS,), needs=("ps",)),
    bash("process-pgrep", "cp /bin/sleep napper; ./napper 20 & pgrep -x napper | grep -cw $!; pkill -x napper; wait $!; echo $?; pgrep -x napper; echo $?; pidof nosuchprogram; echo $?",
         normal=(SHELL_PIDS,), needs=("pgrep",)),
    bash("process-zombie", "sh -c 'exit 3' & p=$!; sleep 0.2; wait $p; echo $?; (sleep 0.1 & exec sleep 0.3); echo reaped; sh -c '(sleep 0.2; echo orphan spoke) & exit'; sleep 0.5"),
    bash("process-setsid", "setsid sh -c 'ps -o sid= -p $$ | grep -cw $$'; setsid -w sh -c 'exit 5'; echo $?; python3 -c 'import os; print(os.getpgrp() == os.getpgid(0))'", needs=("ps",)),
    bash("process-proc", "sleep 20 & p=$!; until grep -q '^State:.S' /proc/$p/status && grep -qx sleep /proc/$p/comm; do :; done; tr '\\0' ' ' </proc/$p/cmdline; cat /proc/$p/comm; grep ^State /proc/$p/status; readlink /proc/$p/cwd | xargs basename; ls /proc/$p/task | grep -cw $p; grep -c . /proc/$p/maps | awk '{ print ($1 > 5) }';"
         " tr '\\0' '\\n' </proc/$p/environ | grep ^TZ; readlink /proc/$p/fd/0 | sed 's/[0-9]//g'; kill $p; wait $p; ls /proc/$p 2>&1 | wc -l; cut -d' ' -f 2 /proc/self/stat; head -n 1 /proc/self/limits | wc -w; cat /proc/self/oom_score_adj",
         normal=(SHELL_PIDS,)),
    bash("process-limits", "ulimit -Sn 20; (exec 3<>a; for i in {4..40}; do eval \"exec $i<>a\" 2>/dev/null || { echo stopped at $i; break; }; done); ulimit -t 1; bash -c 'while :; do :; done'; echo $?", normal=(SHELL_PIDS,)),
    bash("process-memory-limit", "ulimit -v 300000; python3 -c 'x = bytearray(1 << 30)' 2>&1 | tail -n 1; python3 -c 'x = bytearray(1 << 20); print(len(x))'"),
    bash("process-file-limit", "ulimit -f 10; python3 -c 'import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); f = open(\"x\", \"wb\", 0); n = f.write(b\"a\" * 20000); print(n); f.write(b\"a\")' 2>&1 | tail -n 2; bash -c 'printf %20000s >y'; echo $?; wc -c <y", normal=(SHELL_PIDS,)),
    bash("process-stack-limit", "ulimit -s 256; perl -e 'sub f { my $n = shift; $n ? f($n - 1) : 0 } print f(100), \"\\n\"'; ulimit -s; bash -c 'f() { f; }; f' 2>/dev/null; echo $?", normal=(SHELL_PIDS,)),
    bash("process-prlimit", "prlimit --nofile=100:200 sh -c 'ulimit -n; ulimit -H -n'; prlimit -n -o SOFT --noheadings --pid $$ | wc -l; taskset -c 0 nproc; nice -n 7 sh -c nice; ionice -c 3 true; echo $?; chrt -m | wc -l; renice -n 3 -p $$ >/dev/null; nice"),
    bash("process-flock", "exec 9>lock; flock 9; (flock -n 8 || echo busy) 8>lock; flock -u 9; (flock -n 8 && echo free) 8>lock; (flock 8; sleep 0.3; echo first >>order) 8>lock & sleep 0.1; (flock 8; echo second >>order) 8>lock; wait; cat order; flock -w 0.1 -s lock true; echo $?; flock -o lock sh -c 'exit 7'; echo $?"),
    bash("process-deaths", 'for s in HUP INT QUIT ILL ABRT FPE KILL SEGV PIPE ALRM TERM USR1 BUS SYS; do sh -c "kill -$s \\$\\$" 2>/dev/null; echo $s $?; done', normal=(SHELL_PIDS,)),
    bash("process-stop", "sh -c 'kill -STOP $$; echo resumed' & p=$!; for i in {1..50}; do [ \"$(ps -o stat= -p $p | cut -c 1)\" = T ] && break; sleep 0.05; done; ps -o stat= -p $p | cut -c 1; kill -CONT $p; wait $p; echo $?", needs=("ps",), normal=(JOB_PIDS,)),
    bash("process-faults", "python3 -c 'import ctypes; ctypes.string_at(0)'; echo $?; python3 -X faulthandler -c 'import ctypes; ctypes.string_at(0)' 2>&1 | head -n 1; python3 -c 'import os; os.abort()'; echo $?; perl -e 'kill 8, $$'; echo $?", normal=(SHELL_PIDS, ADDRESSES)),
    bash("process-unshare-refused", "chroot /nowhere true 2>&1 | wc -l; mount 2>/dev/null | wc -l | awk '{ print ($1 > 0) }'; reboot --help >/dev/null 2>&1; dmesg 2>/dev/null | head -c 0; echo end"),
    Row("process-killed", ("/usr/bin/perl", "-e", "$| = 1; print qq(out\\n); kill 9, $$; sleep 9"), status=-9),
    Row("process-segv", ("/usr/bin/perl", "-e", "$| = 1; print qq(out\\n); kill 11, $$; sleep 9"), status=-11),
    Row("process-false", ("/bin/false",), status=1),
    Row("process-stdin", ("/bin/cat",), stdin=b"given \0 bytes\n" * 20_000),
    Row("process-stdin-unread", ("/bin/true",), stdin=b"never read\n" * 50_000),
    Row("process-empty-argument", ("/usr/bin/printf", "[%s]", "", "a b", "\u00fc")),
)  # fmt: skip
