"""GNU programs that work on files and folders: coreutils, find, xargs."""

from __future__ import annotations

from programs.row import Normal, Row

_TREE = {
    "a/one.txt": "one\n",
    "a/two.c": "int two;\n",
    "a/b/three.txt": "three\nlines\nhere\n",
    "a/b/c/empty": "",
    "run.sh": "#!/bin/sh\n",
}
_DISK = Normal(rb"(?m)^\d+\s", b"N ", "block counts depend on the file system")
_INODES = Normal(rb"(?m)^ *\d+ +\d+ ", b"I B ", "inode numbers and block counts depend on the file system")

_COMMANDS: dict[str, str] = {
    "ls-long": "ls -l a run.sh; ls -laR a | sed 's/^total.*//;s/^\\(d.........\\) .*:[0-9][0-9] /\\1 /'; ls -1S a/b; ls -l --time-style=full-iso run.sh; ls --color=always -d a run.sh",
    "ls-many": "mkdir many; cd many; seq 1 1500 | xargs touch; ls | wc -l; ls -U | sort -n | tail -n 1; rm -r ../many; ls .. ",
    "stat": "stat -c '%n %s %F %h %a %A %u %g %Y %y' a/one.txt run.sh; stat -c %F /dev/null a; stat -L -c %F /dev/stdin; stat missing; echo $?",
    "cp": "cp -r a d; cp -a a e; diff -r a e; cp -p run.sh r; stat -c '%a %Y' r; cp -n r a/one.txt; cp --reflink=auto a/one.txt x; cp -u x a; ln x y; cp -l y z; stat -c %h x; cp -s /etc/passwd p;"
    " cp --sparse=always x s; cp -t d x y; cp missing a; echo $?; cp a x; echo $?; head -c 3000000 /dev/zero >big; cp big big2; cmp big big2; echo $?; truncate -s 5M hole; cp hole hole2; cmp hole hole2",
    "mv": "mv a/one.txt o; mv -v o a/o2; mkdir d; mv a d; ls -R d; mv -n run.sh d; mv -b d/run.sh d/a; ls d; mv missing x; echo $?; mv d d/a; echo $?; mv -T d t; ls",
    "rm": "rm -r a/b; ls a; rm a; echo $?; rm -rf a nothing; ls; mkdir x; touch x/y; rmdir x; echo $?; rm -d x; echo $?; yes | rm -ri x >/dev/null 2>&1; ls; rm /; echo $?",
    "ln": "ln run.sh h; ln -s run.sh s; ln -sf a s2; ln -sfn b s2; readlink s s2; ls -l h | cut -c 1-12; ln -sr a/b/three.txt a/rel; cat a/rel; readlink a/rel; ln a d; echo $?; ln -s x x; cat x; echo $?",
    "mkdir": "mkdir -p -m 750 x/y; stat -c %a x x/y; mkdir x; echo $?; mkdir no/where; echo $?; rmdir -p x/y; ls; mkdir -v 'n w'; mktemp -d tmpXXXXXX | wc -c; rmdir tmp*",
    "chmod": "chmod 751 run.sh; stat -c %A run.sh; chmod -R go-rwx a; stat -c %a a a/b a/one.txt; chmod o+t run.sh; stat -c %A run.sh; f=$(mktemp); chmod u+s,g+s,o+t $f; stat -c %A $f; chmod --reference=a run.sh; stat -c %a run.sh; chmod 644 none; echo $?",
    "chown": "chown $(id -u):$(id -g) run.sh; echo $?; stat -c '%u %g' run.sh | wc -w; chgrp $(id -g) a; echo $?; id | wc -l; id -un; groups | wc -l",
    "touch": "touch -d '2021-03-04 05:06:07.123456789 UTC' t; stat -c '%y' t; touch -r t u; stat -c %y u; touch -a -d @5 u; stat -c '%X' u; touch -m -d @7 u; stat -c '%Y' u; touch -c no; touch no/no; echo $?; [ t -nt run.sh ] && echo newer",
    "truncate": "truncate -s 10 f; od -c f; printf abcdefgh >g; truncate -s 3 g; cat g; echo; truncate -s 1G h; stat -c '%s' h; du -k h | cut -f 1 | awk '{ print ($1 < 1000) }'; fallocate -l 100000 i; stat -c %s i; fallocate -p -o 0 -l 4096 i; echo $?",
    "dd": "dd if=/dev/zero of=f bs=4k count=3 2>&1 | head -n 2; printf abcdefghij >g; dd if=g bs=1 skip=2 count=4 status=none; echo; printf XY | dd of=g bs=1 seek=4 conv=notrunc status=none; cat g; echo; dd if=g of=h conv=swab,ucase status=none; cat h;"
    " dd if=/dev/urandom bs=1M count=2 status=none | wc -c; dd if=g iflag=fullblock oflag=append conv=notrunc of=h status=none; wc -c h; dd if=no; echo $?; dd if=/dev/zero of=j bs=1M count=8 oflag=sync status=none; wc -c j",
    "split": "seq 1000 | split -l 300 -d - p; wc -l p*; split -n 3 p00 q; cat q* | cmp - p00; seq 10 | csplit -s - 4 8; head -n 1 xx*; cat p* | sha256sum",
    "find": "find a -type f | sort; find a -name '*.txt' -printf '%p %s %m %d\\n' | sort; find a -empty; find . -path './a/b*' | sort; find a -size +5c -type f | sort; find a -newer run.sh; find a -mindepth 2 -maxdepth 2 | sort; find a \\( -name '*.c' -o -name 'emp*' \\) | sort;"
    " find a -regex '.*/t[wh].*' | sort; find -L a -xtype l; find a -perm -644 -type f | wc -l; find missing; echo $?",
    "find-exec": "find a -type f -exec wc -c {} + | tail -n 1; find a -name '*.txt' -exec sh -c 'echo $1 | tr a-z A-Z' _ {} \\; | sort; find a -type f -ok rm {} \\; </dev/null 2>/dev/null; find a -depth | tail -n 1; find a -delete; ls; find . -name run.sh -execdir pwd \\;",
    "xargs": "find a -print0 | sort -z | xargs -0 -n 2; seq 10 | xargs -n 3; seq 6 | xargs -P 3 -I{} sh -c 'echo job {}' | sort; printf 'a b\\n' | xargs -d '\\n' -I{} echo '[{}]'; seq 3 | xargs -t -n 1 echo; echo | xargs -r echo no; echo 1 | xargs sh -c 'exit 255'; echo $?;"
    " seq 20000 | xargs | wc; echo a | xargs nosuch; echo $?; seq 100000 | xargs -n 5000 echo | wc -l",
    "links": "ln -s a/b l; cat l/three.txt; ls l/; ls -l l | awk '{print $9, $10, $11}'; cd l; pwd; pwd -P | xargs basename; cd ..; ls -d a; cat l/../one.txt; realpath --relative-to=. l/three.txt; readlink -e l/none; echo $?; readlink -m l/none | xargs basename",
    "du-df": "du -a --apparent-size -b a | sort -k 2; du -sb a; du -sh --apparent-size a; df -P . | head -n 1; df -P --output=target / | tail -n 1; stat -f -c %l .",
    "names": "touch -- -dash 'sp ace' $'new' 'uml\u00e4ut' \"quo'te\"; ls; ls -b; ls -Q; ls -q; rm -- -dash; find . -name 'uml*'; n=$(printf 'x%.0s' $(seq 255)); touch $n; ls | grep -c xxx; touch x$n; echo $?; rm $n",
    "long-path": "d=ddddddddddddddddddddddddddddddddddddddddd; i=0; while [ $i -lt 60 ]; do mkdir $d; cd $d; i=$((i + 1)); done; touch f; pwd -P | wc -c | awk '{ print ($1 > 2400) }'; cd -P ..; ls | wc -l; cd /; rm -rf \"$HOME\"/ddd*; ls $HOME; cat $HOME/$(printf 'x/%.0s' $(seq 3000)) 2>&1 | sed 's/.*: //'",
    "permissions": "chmod 000 a/one.txt; stat -c %a a/one.txt; chmod 555 a; chmod 755 a; mkdir -m 1777 sticky; stat -c %A sticky; mkdir -m 2755 g; touch g/x; stat -c %a g; umask 022; sh -c 'umask 077; touch p'; stat -c %a p; test -x run.sh; echo $?; test -x a/one.txt; echo $?",
    "sync-install": "sync; sync run.sh; echo $?; install -m 711 run.sh i; stat -c %a i; install -d p/q; ls p; shred -u run.sh; ls; install -b i run.sh; ls; mkfifo f; stat -c %F f; unlink f; link i j; stat -c %h j; pathchk a; echo $?; dir a; vdir -g a/b | wc -l",
    "open-while-deleted": "exec 3<a/b/three.txt; rm a/b/three.txt; cat <&3; exec 4>w; rm w; echo x >&4; ls; readlink /proc/$$/fd/4 | sed 's/.*\\///'; exec 5<>rw; echo data >&5; cat /proc/self/fd/5; cat <&5",
    "proc-view": "cat /proc/self/comm; tr '\\0' ' ' </proc/self/cmdline; echo; readlink /proc/self/exe; readlink /proc/self/cwd | xargs basename; ls /proc/self/fd | wc -l; grep -c ^Name /proc/self/status; wc -w </proc/self/stat; grep -c stack /proc/self/maps; test -d /proc/$$/task; echo $?;"
    " cat /proc/sys/kernel/ostype; grep -c processor /proc/cpuinfo | wc -l; grep MemTotal /proc/meminfo | wc -l; wc -w </proc/loadavg; ls -d /proc/sys/kernel; cat /proc/sys/kernel/pid_max | wc -l; cat /proc/filesystems | grep -c tmpfs; test -r /proc/mounts; echo $?",
    "dev-view": "ls -l /dev/null | cut -c 1-10; ls -d /dev/zero /dev/full /dev/urandom /dev/random /dev/tty /dev/shm /dev/pts /dev/fd /dev/stdin; readlink /dev/fd; echo x >/dev/null; head -c 4 /dev/zero | od -An -tx1; echo y >/dev/shm/row-file && cat /dev/shm/row-file; rm /dev/shm/row-file; cat /dev/tty; echo $?",
    "tmp": "t=$(mktemp); echo x >$t; cat $t; mv $t there; cat there; d=$(mktemp -d); touch $d/a; cp $d/a .; rm -r $d; ls; test -w /tmp; echo $?; stat -c %A /tmp",
}  # fmt: skip
ROWS: tuple[Row, ...] = tuple(
    Row(f"files-{name}", script, files=_TREE, shell=("/bin/bash", "-c"), normal=(_DISK, _INODES) if name == "du-df" else ())
    for name, script in _COMMANDS.items()
)
