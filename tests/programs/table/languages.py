"""Interpreters other than Python: perl, lua, awk as a language, and what of the system each reaches."""

from __future__ import annotations

from programs.row import Row

_PERL: dict[str, str] = {
    "basics": 'my %h; $h{length $_}++ for qw(a bb cc ddd); print "$_=$h{$_} " for sort keys %h; print "\\n"; printf "%.3f %s\\n", atan2(1, 1) * 4, "x" x 5; my @s = sort { $b <=> $a } (3, 10, 2); print "@s\\n"; $_ = "hello world"; s/(\\w+)/\\u$1/g; print "$_\\n"; print join(",", map { $_ * 2 } grep { $_ % 2 } 1 .. 9), "\\n"',
    "files": 'open my $f, ">", "f" or die; print $f "l$_\\n" for 1 .. 3; close $f; open $f, "<", "f"; my @l = <$f>; print scalar(@l), " $l[-1]"; print -s "f", " ", -d ".", "\\n"; rename "f", "g"; mkdir "d"; symlink "g", "d/l"; opendir my $d, "."; print join(" ", sort grep !/^\\./, readdir $d), "\\n"; unlink "g"; print readlink("d/l"), " ", (open($f, "<", "d/l") ? "open" : "$!"), "\\n"; my @s = stat "d"; printf "%o\\n", $s[2]',
    "processes": '$| = 1; my $p = fork; if (!$p) { print "child\\n"; exit 7 } waitpid $p, 0; print $? >> 8, "\\n"; print `echo back`; system "sh", "-c", "exit 3"; print $? >> 8, "\\n"; open my $o, "|-", "tr a-z A-Z" or die; print $o "piped\\n"; close $o; open my $i, "-|", "seq 3"; print <$i>; pipe my $r, my $w; if (!fork) { close $r; print $w "via pipe\\n"; exit } close $w; print <$r>; 1 while wait > 0; print wait, "\\n"; exec "echo", "last"',
    "signals": '$| = 1; $SIG{USR1} = sub { print "usr1\\n" }; kill USR1 => $$; $SIG{ALRM} = sub { die "alarm\\n" }; eval { alarm 1; select undef, undef, undef, 10; alarm 0 }; print $@; $SIG{CHLD} = sub { wait; print "chld ", $? >> 8, "\\n" }; if (!fork) { exit 4 } sleep 2; local $SIG{__WARN__} = sub { print "warned $_[0]" }; warn "x\\n"; use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGUSR1)); kill USR1 => $$; my $s = POSIX::SigSet->new; sigpending($s); print $s->ismember(SIGUSR1), "\\n"; sigprocmask(SIG_UNBLOCK, POSIX::SigSet->new(SIGUSR1)); die "end\\n"',
    "sockets": 'use Socket; use IO::Socket::UNIX; socketpair my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC; syswrite $a, "pair\\n"; print scalar <$b>; my $l = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => "s", Listen => 1); if (!fork) { my $c = IO::Socket::UNIX->new(Peer => "s"); print $c "unix\\n"; exit } my $c = $l->accept; print <$c>; wait; use IO::Socket::INET; $l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1"); my $p = $l->sockport; if (!fork) { my $c = IO::Socket::INET->new("127.0.0.1:$p"); print $c "inet\\n"; exit } $c = $l->accept; print <$c>; wait; print -S "s", "\\n"; unlink "s"',
    "modules": 'use strict; use warnings; use List::Util qw(sum max first shuffle); use POSIX qw(floor strftime); use Time::HiRes qw(time usleep); use Data::Dumper; use File::Temp; use Cwd; use Digest::SHA; use MIME::Base64; use Storable; $Data::Dumper::Sortkeys = 1; print sum(1 .. 10), max(3, 9), floor(-1.5), strftime("%F", gmtime 0), "\\n"; print Dumper({ a => [1, 2], b => undef }); my $t = time; usleep 1000; print time > $t, "\\n"; print Digest::SHA::sha256_hex("x"), encode_base64("abc"); store [1, 2], "st"; print scalar @{ retrieve "st" }, "\\n"; my ($h, $n) = File::Temp::tempfile(DIR => "."); unlink $n; print -e $n ? 1 : 0, "\\n"',
    "threads": 'use threads; use threads::shared; use Thread::Queue; my $n :shared = 0; my $q = Thread::Queue->new; my @t = map { my $i = $_; threads->create(sub { for (1 .. 100) { lock $n; $n++ } $q->enqueue($i); $i * 2 }) } 1 .. 4; my $s = 0; $s += $_->join for @t; print "$n $s ", $q->pending, "\\n"',
    "memory": 'my @a = map { "x" x 1000 } 1 .. 20000; print scalar(@a), "\\n"; undef @a; my %h = map { $_ => $_ } 1 .. 200000; print scalar(keys %h), "\\n"; my $s = "a" x 50_000_000; print length $s, "\\n"',
    "lock-tie": 'use Fcntl qw(:flock :seek); open my $f, "+>", "l"; flock $f, LOCK_EX | LOCK_NB or die; if (!fork) { open my $g, "<", "l"; print flock($g, LOCK_EX | LOCK_NB) ? "got\\n" : "busy\\n"; exit } wait; print $f "abc"; seek $f, 1, SEEK_SET; read $f, my $b, 1; print "$b\\n"; truncate $f, 2; print -s "l", "\\n"; use SDBM_File; tie my %d, "SDBM_File", "db", O_RDWR | O_CREAT, 0644; $d{k} = "v"; print $d{k}, "\\n"',
}  # fmt: skip
_LUA: dict[str, str] = {
    "basics": 'local t = {}; for i = 1, 10 do t[#t + 1] = i * i end; print(#t, table.concat(t, ",")); print(string.format("%5.2f %q %x", 3.14159, "a\\n", 255)); print(("hello"):upper():rep(2), ("a,b"):find(",")); for k, v in string.gmatch("a=1, b=2", "(%w+)=(%w+)") do io.write(k, v, " ") end print() print(pcall(error, "x")) print(10 // 3, 2 ^ 10, 7 & 3, 1 << 40, math.maxinteger, math.type(1.0))',
    "closures": "local function c() local n = 0 return function() n = n + 1 return n end end local a = c() a() print(a()) local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) print(co(), co(), co()) local m = setmetatable({}, { __index = function(_, k) return k .. '!' end }) print(m.x) goto done do print('never') end ::done:: print(select('#', 1, nil, nil), load('return 6 * 7')())",
    "files": 'local f = assert(io.open("f", "w")) f:write("a\\nb\\n", 42) f:close() for l in io.lines("f") do io.write("<", l, ">") end print() f = io.open("f") print(f:seek("end"), f:seek("set", 2), f:read("l", "n")) f:close() print(os.rename("f", "g"), os.remove("none")) print(io.open("none")) print(os.getenv("TZ"), os.date("!%Y", 0)) local p = io.popen("echo popen; exit 3") print(p:read("a"), p:close()) print(os.execute("exit 2")) io.stderr:write("err\\n") os.exit(5)',
    "memory": "local t = {} for i = 1, 300000 do t[i] = { i } end print(#t) t = nil collectgarbage() print(collectgarbage('count') < 10000) local s = string.rep('x', 1 << 24) print(#s) local function f(n) return n == 0 and 0 or 1 + f(n - 1) end print(f(10000)) print(pcall(function() local function g() return 1 + g() end return g() end) == false)",
}  # fmt: skip

ROWS: tuple[Row, ...] = (
    *(
        Row(f"perl-{name}", ("/usr/bin/perl", "-e", code), status=4 if name == "signals" else 0, unlike=("st", "db.*"))
        for name, code in _PERL.items()
    ),
    *(Row(f"lua-{name}", ("/usr/bin/lua5.4", "-e", code), status=5 if name == "files" else 0) for name, code in _LUA.items()),
    Row("lua-script", "lua5.4 s.lua a b; echo 'print(1 + 1)' | lua5.4 -; lua5.4 -v; lua5.4 none; echo $?; luac5.4 -o c s.lua; lua5.4 c z",
        files={"s.lua": 'print(#arg, arg[0], arg[1])\nlocal m = require("m")\nprint(m.f(20))\n', "m.lua": "local function f(n) return n < 2 and n or f(n - 1) + f(n - 2) end return { f = f }"},
        needs=("lua5.4",), unlike=("c",)),
    Row("perl-script", "./s.pl one two <text; perl -ne 'print if /b/' text; perl -pi -e s/b/B/ text; cat text; perl -c s.pl; perl -MO=Deparse -e 'print 1' 2>/dev/null; perl -v | grep -c 'This is perl'; perl none; echo $?; perldoc -l perl 2>/dev/null | wc -l; prove -q t.pl | tail -n 1 | cut -c 1-12",
        files={"s.pl": "#!/usr/bin/perl -w\nuse strict;\nprint scalar(@ARGV), qq( $ARGV[0]\\n);\n$ENV{X} = 1;\nprint while <STDIN>;\n", "text": "a\nb\nc\n", "t.pl": "use Test::More tests => 2; ok 1; is 2, 2;"}),
)  # fmt: skip
