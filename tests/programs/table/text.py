"""Programs that turn text into text: the rest of coreutils, grep, sed, gawk, diff."""

from __future__ import annotations

from programs.row import SHELL_PIDS, Row

_WORDS = "alpha 10 x\nbeta 9 y\ngamma 100 x\ndelta 1 z\nalpha 2 y\n"
_PROSE = "The quick brown fox\njumps over the lazy dog.\n\nÜber allen Gipfeln\nist Ruh,\n\tin allen Wipfeln\n"
_FILES = {
    "words": _WORDS,
    "prose": _PROSE,
    "csv": 'id,name\n1,"a, b"\n2,c\n',
    "prog.awk": '{ n[$3]++ } END { for (k in n) print k, n[k] | "sort"; close("sort"); print NR }\n',
}

_COMMANDS: dict[str, str] = {
    "cat-head-tail": "cat -A prose; head -n -2 words; tail -n +3 words; head -c 7 prose; tail -c 5 prose; cat words - prose <words | wc; tac words; nl -ba prose; rev prose",
    "tail-follow": "(sleep 0.3; echo new >>words; sleep 1) & timeout 1 tail -n 1 -f words; echo $?; wait; tail --pid=$$ -n 1 words; timeout 0.5 tail -F -n 1 none 2>/dev/null; echo $?",
    "sort": "sort words; sort -k2,2n words; sort -k3,3 -k1,1r words; sort -u -k1,1 words; sort -R words | wc -l; sort -c words; echo $?; sort -o s words; cat s; sort -m s s | uniq -c; seq 200000 | sort -n -r -S 1M | head -n 2; sort --parallel=4 -n <(seq 50000) | md5sum; printf '1K\\n2M\\n3\\n' | sort -h",
    "uniq-comm-join": "cut -d' ' -f1 words | sort | uniq -c; cut -d' ' -f3 words | sort | uniq -d; sort words >a; head -n 3 a >b; comm a b; comm -13 a b; join a b; join -a 1 -o 1.1,2.2 a b; tsort <<<'a b b c'; ptx -G prose | wc -l",
    "cut-paste-tr": "cut -c1-3 words; cut -d' ' -f2- words; cut -d, -f2 csv; paste words words | head -n 2; paste -sd+ <(seq 5); tr a-z A-Z <prose; tr -dc 0-9 <words; tr -s '\\n' <prose; column -t words 2>/dev/null | wc -l; expand prose | od -c | head -n 2; fold -w 8 -s prose; fmt -w 30 prose; pr -t -2 words",
    "wc-sums": "wc words prose; wc -m prose; wc -L prose; md5sum words prose | tee m; md5sum -c m; sha1sum words; sha256sum words; sha512sum words; b2sum words; cksum words; sum words; base64 prose | base64 -d | cmp - prose; basenc --base16 words | head -n 1",
    "numbers": "seq 1 5 | paste -sd ' '; seq -f %03g 3; numfmt --to=iec 1048576 1500; numfmt --from=si 2K; factor 1234567890 18446744073709551615; expr 3 \\* 4; printf '%d %s %x %e\\n' 10 s 255 3.5; bc <<<2^64 2>/dev/null; shuf -i 1-10 | sort -n | tail -n 1; shuf --random-source=words -e a b c",
    "date": "date -u -d @0; date -d '2024-02-29 +1 year' +%F; TZ=Europe/Berlin date -d '2024-07-01 12:00 UTC'; date -r words -u +%FT%T; date -d bad; echo $?; date +%s | wc -c; date --rfc-3339=seconds -u -d @1e9; [ $(date +%s) -gt 1600000000 ]; echo $?",
    "grep": "grep -n the prose; grep -i THE prose; grep -c x words; grep -E '(alpha|beta) [0-9]+' words; grep -o '[0-9]*' words; grep -P '\\d{3}' words; grep -rl alpha . | sort; grep -v x words; grep -w 1 words; grep -A1 -B1 gamma words; grep -F . prose; grep -z x words | wc -c; grep -q alpha words; echo $?; grep zzz words; echo $?; grep x none; echo $?;"
    " grep -f words words | wc -l; grep --color=always fox prose; grep -m1 -b alpha words; grep 'Ü\\|ü' prose; seq 100000 | grep -c 7; printf 'a\\0b' | grep a; grep -L fox words prose; grep '[[:upper:]]' prose; grep -x 'beta 9 y' words; grep '\\(l\\).*\\1' prose",
    "sed": "sed 's/a/A/2' words; sed -n '/beta/,/delta/p' words; sed -E 's/(\\w+) ([0-9]+)/\\2 \\1/' words; sed '1~2d' words; sed '$!N;P;D' words; sed -n '$=' words; sed 's/.*/\\U&/;s/X/\\L&/' words; sed -i.orig 's/x/Q/' words; cat words words.orig; sed 'y/abc/xyz/' prose; sed '/^$/d' prose; sed '2i\\ins\n2a\\app\n3c\\chg' words;"
    " sed -n 'l' prose; sed 'w out' words >/dev/null; cat out; sed '1r csv' words | head -n 3; sed -s -n '1p' words prose; sed ':a;N;$!ba;s/\\n/,/g' words; sed 5q words; sed 's/\\x41/B/;s/l\\{1,\\}/L/' words; sed --posix q3 none; echo $?; sed '/beta/{n;d}' words; echo abc | sed 's/b*/-/g'; sed -z 's/\\n/;/g' words; sed '1!G;h;$!d' words; sed e words 2>&1 | wc -l",
    "gawk": "gawk '{ s += $2 } END { print s, NR, s / NR }' words; gawk -F, '{ print $2 }' csv; gawk -f prog.awk words; gawk 'BEGIN { printf \"%5.2f|%-5s|%05d|%c|%x\\n\", 3.14159, \"ab\", 42, 65, 255 }'; gawk '{ a[$1] = a[$1] \" \" $2 } END { n = asorti(a, k); for (i = 1; i <= n; i++) print k[i] a[k[i]] }' words;"
    " gawk 'BEGIN { while ((\"seq 3\" | getline x) > 0) print \"got\", x; print strftime(\"%F\", 0, 1); print length(\"\\303\\234\"), toupper(\"abc\"), substr(\"hello\", 2, 3), index(\"foobar\", \"bar\") }'; gawk '{ print > $3 }' words; cat x y z; gawk 'BEGIN { RS = \"\" } { print NR \": \" $1 }' prose;"
    " gawk -v n=3 'NR == n' words; gawk 'BEGIN { print ENVIRON[\"TZ\"]; system(\"echo sub; exit 3\"); print match(\"xaab\", /a+/), RSTART, RLENGTH; print gensub(/(a)(b)/, \"\\\\2\\\\1\", 1, \"ab\"); exit 4 }'; echo $?; gawk 'BEGIN { cmd = \"cat\"; print \"co\" |& cmd; close(cmd, \"to\"); cmd |& getline r; print r }';"
    " gawk 'BEGIN { srand(1); print (rand() != rand()); print 2 ^ 0.5, log(10), int(-3.7), 1e300 * 1e10; print and(12, 10), strtonum(\"0x1F\") }'; seq 100000 | gawk '{ s += $1 * $1 } END { print s }'; gawk 'BEGIN { print 1 / 0 }'; echo $?; gawk '{' words; echo $?",
    "diff": "sed 's/beta/BETA/;$d' words >w2; diff words w2; echo $?; diff -u --label a --label b words w2; diff -y -W 40 words w2; diff -q words prose; diff words words; echo $?; mkdir d1 d2; cp words d1; cp w2 d2/words; touch d1/only; diff -r d1 d2; diff -c words w2 | tail -n +3; cmp words w2; cmp -l words w2 | wc -l; diff3 words w2 words | wc -l;"
    " diff -u --label words --label w2 words w2 >p; patch -o w3 words p; cmp w3 w2 && echo patched; diff none words; echo $?; sdiff -s words w2; diff -i -w -B words w2 | head -n 1; echo; seq 20000 >n1; sed 5000d n1 >n2; diff n1 n2; echo $?",
    "tee-yes": "seq 3 | tee a b >/dev/null; cat a b; yes abc | head -n 100000 | md5sum; echo x | tee -a a | cat - a; echo y | tee /dev/full; echo $?; seq 10 | tee >(wc -l >n) >/dev/null; sleep 0.3; cat n; stdbuf -o0 echo u; unbuffer true 2>/dev/null; echo z | iconv -f utf-8 -t utf-16le | od -c",
    "env-misc": "env -i A=1 env; env -u TZ printenv TZ; printenv HOME | wc -l; nproc --all | wc -l; arch; uname -m; uname -s; hostname | wc -l; tty; test -t 0; echo $?; logname 2>/dev/null | wc -l; true --version | head -n 1; false; echo $?; basename a/b.c .c; dirname a/b; realpath . | wc -l; getconf PAGE_SIZE; getconf NPROCESSORS_ONLN | wc -l; locale -a | grep -c C; getent passwd root | cut -d: -f 1-4; getent hosts localhost | wc -l",
    "timeout-sleep": "timeout 0.2 sleep 5; echo $?; timeout -s INT 0.2 sleep 5; echo $?; timeout -k 0.2 0.2 sh -c 'trap \"\" TERM; sleep 3; sleep 3'; echo $?; timeout 5 sh -c 'exit 3'; echo $?; sleep 0.01 0.01; sleep x; echo $?; timeout --foreground 20 cat; echo $?; nohup true 2>&1; nice -n 3 nice; timeout 1 nosuch; echo $?",
}  # fmt: skip

ROWS: tuple[Row, ...] = tuple(
    Row(
        f"text-{name}",
        script,
        files=_FILES,
        shell=("/bin/bash", "-c"),
        normal=(SHELL_PIDS,),
        needs=("gawk",) if name == "gawk" else (),
    )
    for name, script in _COMMANDS.items()
)
