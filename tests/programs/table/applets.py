"""Applets of busybox, each on input of its own, found by its shell in itself or started as programs."""

from __future__ import annotations

from programs.row import Row, busybox

_TEXT = "the quick brown fox\njumps over\nthe lazy dog\n\n  indented line\tand a tab\nÄpfel und Öl\n"
_TABLE = "carol 30 x\nalice 25 y\nbob 30 z\nalice 7 w\n"
_COMMANDS: dict[str, str] = {
    "ar": "ar -t text; echo $?; printf '!<arch>\\n%-16s%-12s%-6s%-6s%-8s%-10s`\\nhello\\n' a/ 0 0 0 100644 6 >x.a; ar -t x.a; ar -p x.a a; ar -x x.a; cat a",
    "ash": "ash -c 'echo $((6*7))'",
    "awk": "awk '{ s[$1] += $2 } END { for (k in s) print k, s[k] }' table | sort; awk -F: 'BEGIN { OFS=\"-\"; $3=\"c\"; print; print substr(\"hello\", 2, 3), toupper(\"x\"),"
    " length(\"four\"), index(\"abc\", \"c\"), sprintf(\"%05.2f|%x|%c\", 3.14159, 255, 65) }'; echo a b c | awk '{ gsub(/b/, \"[&]\"); print; print NF; system(\"echo sys\");"
    " \"echo piped\" | getline l; print l; print \"x\" | \"cat\" }'",
    "base64": "base64 text; base64 text | base64 -d | cmp - text && echo same; base32 table | head -n 1",
    "basename": "basename /a/b.c .c; basename /; dirname /a/b/c; dirname x",
    "bc": "echo 'scale=10; 4*a(1); 2^100; define f(n) { if (n<2) return n; return f(n-1)+f(n-2); }\nf(15)' | bc -l",
    "bzip2": "bzip2 -k text; bunzip2 -c text.bz2 | cmp - text && echo same; bzcat text.bz2 | head -n 1",
    "cal": "cal 2 2024",
    "cat": "cat text - table </dev/null; cat -n text; cat -A text; cat missing; echo $?",
    "chmod": "touch f; for m in 644 u+x g-r,o=w a=rwx +t; do chmod $m f; stat -c %a f; done; g=$(mktemp); chmod 4755 $g; stat -c %a $g; chmod 600 missing; echo $?",
    "cksum": "cksum text table; crc32 text; sum text",
    "cmp": "cmp text text; echo $?; cmp text table; echo $?; cmp -l text table | head -n 3",
    "comm": "sort text >a; sort table >b; comm a b; comm -12 a a | head -n 2",
    "cp": "mkdir d; cp text d; cp -r d e; cp -p text f; cp -l text g; cp -s text h; cp -a h i; ls -R; cp missing x; echo $?; stat -c %h text",
    "cpio": "find text table | sort | cpio -o -H newc 2>/dev/null >a.cpio; mkdir o; cd o; cpio -i <../a.cpio 2>/dev/null; ls; cmp text ../text && echo same",
    "cut": "cut -c 2-4 text; cut -d ' ' -f 1,3 table; cut -d ' ' -f 2- -s text; printf 'a:b:c\\n' | cut -d: -f3",
    "date": "date -u -d @86400; date -u -d '2024-02-29 12:00:00' +%s; date -u -d @0 '+%Y %j %a %H:%M:%S'",
    "dc": "echo '2 3 + p 10 k 2 v p 16 o 255 p' | dc",
    "dd": "dd if=text of=o bs=5 skip=1 count=3 2>/dev/null; cat o; echo; dd if=/dev/zero bs=1k count=64 2>/dev/null | wc -c; dd if=text of=text2 conv=notrunc seek=2 bs=1 2>/dev/null;"
    " dd if=missing; echo $?; printf abc | dd bs=2 conv=swab 2>/dev/null; echo",
    "df": "df . | wc -l",
    "diff": "diff text text; sed 's/fox/cat/' text >t; diff -u text t | tail -n +3; diff -q text table; mkdir a b; echo 1 >a/x; echo 2 >b/x; touch a/only; diff -r a b; echo $?",
    "du": "mkdir d; head -c 10000 /dev/zero >d/f; du -k d | wc -l; du -s d | cut -f 2; du -b d/f 2>/dev/null | cut -f 1",
    "echo": "echo -e 'a\\tb\\x41\\0101'; echo -n x; echo; echo a b",
    "env": "env A=b env | grep ^A=; env -u HOME sh -c 'echo ${HOME-none}'; env -i /bin/busybox env",
    "expand": "printf 'a\\tb\\n' | expand -t 4; printf 'a       b\\n' | unexpand -a",
    "expr": "expr 1 + 2 \\* 3; expr abc : 'a\\(.\\)'; expr length hello; expr 5 '>' 3; expr 0; echo $?; expr 1 / 0; echo $?",
    "factor": "factor 1 2 97 360360 1844674407370955153",
    "find": "mkdir -p d/e; touch d/a.c d/e/b.c d/e/c.h; find d | sort; find d -name '*.c' -type f | sort; find d -type d -exec echo dir {} \\; | sort; find d -empty | sort;"
    " find d -name '*.h' -delete; find d -newer text | wc -l; find d -maxdepth 1 | sort; find d -type f -print0 | xargs -0 ls; find missing; echo $?",
    "fold": "fold -w 10 text; fold -s -w 12 text",
    "grep": "grep -n the text; grep -v -c the text; grep -i THE text; grep -E '(fox|dog)$' text; grep -o 'o[a-z]' text; grep -l the text table; grep -q nothing text; echo $?;"
    " grep -r fox .; grep -w over text; grep -A 1 -B 1 jumps text; grep x missing; echo $?; grep -f pat text",
    "gzip": "gzip -k text; gunzip -c text.gz | cmp - text && echo same; zcat text.gz | head -n 1; gzip -t text.gz; echo $?; gzip -l text.gz | wc -l",
    "head": "head -n 2 text; head -c 5 text; head -n -2 text; tail -n 2 text; tail -n +4 text; tail -c 6 text; head -q -n 1 text table",
    "hexdump": "hexdump -C text | head -n 3; hd table | head -n 1; xxd text | head -n 2; od -c table | head -n 2; od -An -tx1 table | head -n 1; hexdump -e '4/1 \"%02x \" \"\\n\"' table | head -n 2",
    "hostid": "hostid | wc -c; hostname | wc -l; whoami; id -u; id -un; logname >/dev/null 2>&1; groups | wc -l",
    "install": "install -m 600 text t; stat -c %a t; install -d x/y/z; ls x/y; install -D text q/r/s; cmp text q/r/s && echo same",
    "kill": "sleep 30 & kill -l 9; kill $!; wait $! 2>/dev/null; echo $?; kill -0 99999; echo $?; sleep 30 & kill -USR1 $!; wait $! 2>/dev/null; echo $?",
    "ln": "ln text hard; ln -s text soft; ln -s nowhere dangling; ls -l | awk '{ print $1, $2, $9, $10, $11 }'; cat soft; readlink dangling; readlink -f soft | xargs basename; ln text hard; echo $?",
    "ls": "mkdir d; ln -s text l; touch -d @0 old; chmod 600 old; ls; ls -a; ls -F; ls -1r; ls -l old | tr -s ' '; ls -d d; ls -S; ls -p; ls missing; echo $?",
    "lzma": "lzcat text.lzma 2>&1 | wc -l; lzop -c text 2>/dev/null | lzop -dc | cmp - text; xz -dc missing; echo $?",
    "md5sum": "for s in md5sum sha1sum sha256sum sha512sum sha3sum; do $s text | tee sums; $s -c sums; done; echo bad | md5sum -c; echo $?",
    "mkdir": "mkdir a; mkdir a; echo $?; mkdir -p a/b/c; mkdir -m 700 m; stat -c %a m; rmdir a; echo $?; rmdir -p a/b/c; ls",
    "mktemp": "f=$(mktemp -p .); test -f $f && stat -c %a $f; d=$(mktemp -d -p .); stat -c %a $d; rm -r $f $d",
    "mv": "cp text a; mv a b; ls; mkdir d; mv b d; ls d; cp text c; echo old >e; mv -f c e; cmp e text && echo same; mv -n e text; mv missing x; echo $?; mv d dd; ls",
    "nl": "nl text; nl -ba text; tac text; rev text",
    "od": "od text | head -n 3; od -t x2 -A d text | head -n 2; strings text; printf 'ab\\000cdefg\\001hi' | strings -n 3",
    "paste": "paste text table; paste -s -d, table; paste - - <table",
    "patch": "sed 's/fox/cat/' text >t; diff -u text t >p; patch text <p; cmp text t && echo same; patch -R text <p >/dev/null; head -n 1 text",
    "pidof": "sleep 20 & sleep 0.1; kill $!; ps | wc -l | awk '{ print ($1 > 0) }'; pgrep nosuchthing; echo $?",
    "printf": "printf '%s-%d-%05.1f-%x-%o-%c-%%-%b\\n' str 42 3.14159 255 8 c 'a\\tb'; printf '%s ' a b c; echo; printf '%d\\n' 0x10 010 x; echo $?",
    "readlink": "ln -s a b; ln -s b a; readlink a; readlink -f a; echo $?; realpath text | xargs basename; realpath missing/x; echo $?",
    "rm": "touch a b; rm a; ls; rm missing; echo $?; rm -f missing; echo $?; mkdir -p d/e; touch d/e/f; rm d; echo $?; rm -r d; ls; touch ro; chmod 400 ro; rm -f ro; ls",
    "sed": "sed -n '2,3p' text; sed 's/o/0/g;s/the/THE/' text; sed -e '/fox/d' -e '$a\\end' text; sed -E 's/(\\w+) (\\w+)/\\2 \\1/' text; sed -i.bak 's/lazy/busy/' text; diff text text.bak;"
    " sed = table; sed 'N;s/\\n/+/' table; sed '1!G;h;$!d' table; sed y/abc/xyz/ table; sed -n '/jumps/,/dog/{=;p}' text; echo hi | sed 's/h/\\n/'; sed q text; sed 'x' table",
    "seq": "seq 3; seq 2 2 8; seq 5 -2 1; seq -w 8 11; seq -s , 4; seq 1 0.5 2",
    "shuf": "seq 10 | shuf | sort -n | tr '\\n' ' '; shuf -i 1-5 -n 2 | wc -l; shred -u -n 1 text; ls text; echo $?",
    "sort": "sort table; sort -k 2n table; sort -r table; sort -u -k 1,1 table; sort -t ' ' -k 3 table; sort -c table; echo $?; sort -n -o o table; cat o; printf 'b\\na\\nb\\n' | sort | uniq -c",
    "split": "seq 1 100 | split -l 30 - part; wc -l part*; split -b 10 text b; ls b*; cat baa",
    "stat": "touch -d @1000 f; stat -c '%n %s %F %h %a %Y' f text; stat -c '%F %h %a' .; stat -c %N missing; echo $?; stat -t f | wc -w; stat -f . | wc -l | awk '{ print ($1 > 3) }'",
    "tail": "(sleep 0.2; echo more >>text; sleep 0.5) & timeout 1.2 tail -n 1 -f text; echo $?; wait",
    "tar": "mkdir d; cp text d; ln -s text d/l; tar cf a.tar d; tar tf a.tar; tar czf a.tgz d; tar cjf a.tbz d; mkdir x; tar xf a.tgz -C x; find x | sort; tar xOf a.tar d/text | cmp - text && echo same;"
    " tar tf missing; echo $?; tar cf - d | tar tf - | wc -l",
    "tee": "echo a | tee f g; echo b | tee -a f; cat f g; echo c | tee /dev/full; echo $?",
    "test": "test 1 -lt 2 && echo lt; [ a = a ] && echo eq; [ -z '' ] && echo z; [ -d . -a ! -f . ] && echo d; test a b; echo $?; [ text -nt missing ]; echo $?",
    "time": "timeout 0.3 sleep 10; echo $?; timeout -s KILL 0.3 sleep 10; echo $?; timeout 5 true; echo $?; usleep 1000; time true 2>&1 | wc -l; nice -n 5 nice",
    "touch": "touch a; touch -d '2020-01-02 03:04:05' a; stat -c %Y a; touch -r a b; stat -c %Y b; touch -c none; ls none; echo $?; touch missing/x; echo $?",
    "tr": "tr a-z A-Z <text; tr -d aeiou <text; tr -s ' ' <text; tr -c 'a-z\\n' . <table; echo abc | tr abc '\\n\\t '",
    "truncate": "truncate -s 100 f; wc -c <f; truncate -s 10 f; stat -c %s f; truncate -s +5 f; stat -c %s f; fallocate -l 4096 g; stat -c %s g; sync; echo $?; fsync f; echo $?",
    "tty": "tty; echo $?; tty -s; echo $?; stty; echo $?",
    "uname": "uname -s -m; uname -o; nproc | wc -l; arch; uptime | wc -l; free | wc -l; cat /proc/uptime | wc -w",
    "uniq": "sort table | cut -d ' ' -f 1 | uniq -c; printf 'a\\na\\nb\\n' | uniq -d; printf 'a\\na\\nb\\n' | uniq -u",
    "unzip": "unzip -l missing.zip; echo $?",
    "uuencode": "uuencode text name > u; head -n 2 u; uudecode -o o u; cmp o text && echo same",
    "vi": "vi -c ':%s/fox/cat/' -c ':wq' text >/dev/null 2>&1 </dev/null; printf '1s/quick/slow/\\n1p\\nw\\nq\\n' | ed text",
    "wc": "wc text table; wc -l <text; wc -c text; wc -w text; wc -L text; cat text | wc; wc missing; echo $?",
    "which": "which sh cat nothing; echo $?; type cd; command -v ls | wc -l",
    "xargs": "echo a b c | xargs -n 1 echo x; printf 'a b\\0c\\0' | xargs -0 -n 1 echo; seq 5 | xargs; echo 1 2 | xargs -I{} echo '<{}>'; echo x | xargs false; echo $?; seq 1000 | xargs -n 100 echo | wc -l;"
    " seq 4 | xargs -P 4 -n 1 echo | sort",
    "yes": "yes | head -n 3; yes ab cd | head -n 1; yes | head -c 1000000 | md5sum; sleep 0.01; true; false; echo $?",
    "dos2unix": "printf 'a\\r\\nb\\r\\n' | dos2unix; printf 'a\\n' | unix2dos | od -c; ts </dev/null; printf 'x\\n' | nl; tsort <<E\na b\nb c\nE\n",
    "flock": "(flock 9; echo locked) 9>lock; flock lock -c 'echo again'; (flock 9; flock -n lock echo no; echo $?) 9>lock; setsid echo s; chroot / true; echo $?",
    "nohup": "nohup echo out </dev/null 2>/dev/null; ls nohup.out 2>/dev/null; ionice -c 3 true; chrt -p $$ >/dev/null; echo $?; renice -n 1 $$; taskset -p $$ | wc -l",
    "mkfifo": "mkfifo p; stat -c %F p; (echo x >p &) ; cat p; mknod q p; stat -c %F q; mountpoint -q /; echo $?; link text hard; unlink hard; ls hard; echo $?",
    "links": "for i in 1 2 3 4 5; do ln -s l$((i - 1)) l$i; done; ln -s text l0; cat l5 | head -n 1; mkdir -p a/b; ln -s ../../text a/b/up; cat a/b/up | head -n 1; cat a/../a/b/./up | wc -l; cat text/; echo $?;"
    " cat text/x; echo $?; ln -s loop loop; cat loop; echo $?",
}  # fmt: skip
_STATUS = {"vi": 0}

ROWS: tuple[Row, ...] = tuple(
    busybox(
        f"busybox-{name}",
        script,
        files={"text": _TEXT, "table": _TABLE, "pat": "fox\nlazy\n"},
        status=_STATUS.get(name, 0),
        unlike=("*.gz", "*.tgz", "*.tar", "*.tbz", "*.cpio", "*.a", "p", "part*"),
    )
    for name, script in _COMMANDS.items()
)
