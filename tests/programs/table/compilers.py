"""Compilers: gcc, g++ and make build programs, which then run in the same place."""

from __future__ import annotations

from programs.row import SHELL_PIDS, Normal, Row, bash, source

_HELLO = '#include <stdio.h>\nint main(int argc, char **argv) { printf("hello %d %s\\n", argc, argv[1]); return 3; }\n'
_LIBRARY = {
    "add.c": '#include "add.h"\nint add(int a, int b) { return a + b; }\n',
    "add.h": "int add(int a, int b);\n",
    "main.c": '#include <stdio.h>\n#include <math.h>\n#include "add.h"\nint main(void) { printf("%d %.3f\\n", add(2, 3), sqrt(2.0 + add(0, 0))); return 0; }\n',
    "Makefile": "CFLAGS = -O2 -Wall\nmain: main.o add.o\n\t$(CC) $^ -lm -o $@\n%.o: %.c add.h\n\t$(CC) $(CFLAGS) -c $<\n",
}
_PLUGIN = {
    "plugin.c": '#include <stdio.h>\n__attribute__((constructor)) static void up(void) { puts("up"); }\n__attribute__((destructor)) static void down(void) { puts("down"); }\n__thread int own = 7;\nint value(int n) { return n * own; }\n',
    "load.c": '#include <dlfcn.h>\n#include <stdio.h>\nint main(void) { void *h = dlopen("./plugin.so", RTLD_NOW); if (!h) { puts(dlerror()); return 1; } int (*f)(int) = (int (*)(int))dlsym(h, "value"); printf("%d\\n", f(6)); printf("%d\\n", dlsym(h, "none") == NULL); dlclose(h); puts(dlopen("./none.so", RTLD_NOW) ? "" : dlerror()); return 0; }\n',
}
_HEAVY = '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint main(void) { size_t n = 64 << 20; char *p = malloc(n); memset(p, 1, n); long s = 0; for (size_t i = 0; i < n; i += 64) s += p[i]; p = realloc(p, n * 2); printf("%ld %d\\n", s, p[n - 1]); free(p); double x = 0; for (int i = 1; i < 20000000; i++) x += 1.0 / i / i; printf("%.9f\\n", x); return 0; }\n'


def _source(name: str, flags: str, argument: str = "", status: str = "echo $?", compiler: str = "gcc") -> str:
    return f"{compiler} {flags} {name} -o program && ./program {argument}; {status}"


ROWS: tuple[Row, ...] = (
    bash("gcc-hello", "gcc hello.c && ./a.out world; echo $?", files={"hello.c": _HELLO}, needs=("gcc",)),
    bash("gcc-kinds", 'for f in -O3 -static -static-pie -no-pie; do gcc $f hello.c -o h && ./h "$f"; echo $?; done', files={"hello.c": _HELLO}, unlike=("h",), needs=("gcc",)),
    bash("gcc-stages", "gcc -E hello.c | tail -n 1; gcc -S -O1 hello.c; grep -c printf hello.s; as hello.s -o hello.o; gcc hello.o -o h; ./h x; echo 'int main(void) { return 4; }' | gcc -x c - -o r; ./r; echo $?; gcc -v 2>&1 | tail -n 1; gcc -print-file-name=libc.so; gcc -M hello.c | wc -l; nm h | grep -c ' T main'; objdump -d h | grep -c '<main>:'; readelf -h h | grep Type; strip h; ./h y; size h | wc -l; strings h | grep hello; ldd h | wc -l; gcc -pipe hello.c -o p; ./p z; echo $?",
         files={"hello.c": _HELLO}, needs=("gcc",)),
    bash("gcc-errors", "gcc bad.c; echo $?; gcc none.c; echo $?; gcc -Wall warn.c -o w; echo $?; gcc link.c; echo $?; gcc; echo $?", normal=(Normal(rb"/tmp/cc\w+", b"/tmp/ccX", "names of temporary files"),), files={
        "bad.c": "int main(void) { return x; \n", "warn.c": "int main(void) { int unused; return 0; }\n", "link.c": "int missing(void);\nint main(void) { return missing(); }\n",
    }, needs=("gcc",), unlike=("w",)),
    bash("gcc-make", "make 2>&1; ./main; make; touch -d @1900000000 add.h; make -j4 2>&1 | sort; ./main; gcc -c add.c; ar rcs libadd.a add.o; ranlib libadd.a; gcc main.c -L. -ladd -lm -o m2; ./m2; gcc -shared -fPIC add.c -o libadd.so; gcc main.c -L. -ladd -lm -o m3; LD_LIBRARY_PATH=. ./m3; ./m3; echo $?; LD_PRELOAD=./libadd.so ./m3; echo $?", files=_LIBRARY, normal=(Normal(rb"modification time .* in the future", b"FUTURE", "how far in the future"),), needs=("gcc", "make")),
    bash("gcc-dlopen", "gcc -shared -fPIC plugin.c -o plugin.so && gcc load.c -o l && ./l; LD_DEBUG=statistics ./l 2>&1 | grep -c relocations | awk '{ print ($1 > 0) }'; LD_BIND_NOW=1 ./l; /lib64/ld-linux-x86-64.so.2 ./l; /lib64/ld-linux-x86-64.so.2 --list ./l | wc -l", files=_PLUGIN, needs=("gcc",)),
    bash("gcc-threads", _source("threads64.c", "-O2 -pthread -Wall"), files={"threads64.c": source("threads64.c")}, needs=("gcc",)),
    bash("gcc-threads-static", _source("threads64.c", "-O2 -pthread -static"), files={"threads64.c": source("threads64.c")}, needs=("gcc",)),
    bash("gcc-robust", _source("robust.c", "-O2 -pthread -Wall"), files={"robust.c": source("robust.c")}, needs=("gcc",)),
    bash("gcc-exec-release", _source("exec_release.c", "-O2 -Wall"), files={"exec_release.c": source("exec_release.c")}, needs=("gcc",)),
    bash("gcc-memory-rights", _source("memory_rights.c", "-O2 -Wall", "words"), files={"memory_rights.c": source("memory_rights.c"), "words": "\0" * 8192}, needs=("gcc",)),
    bash("gcc-signals", _source("signals.c", "-O1 -Wall"), files={"signals.c": source("signals.c")}, needs=("gcc",), normal=(SHELL_PIDS,)),
    bash("gcc-heavy", _source("heavy.c", "-O2"), files={"heavy.c": _HEAVY}, needs=("gcc",)),
    bash("gcc-openmp", "gcc -O2 -fopenmp omp.c -o omp && OMP_NUM_THREADS=8 ./omp", files={"omp.c": '#include <stdio.h>\nint main(void) { long s = 0;\n#pragma omp parallel for reduction(+ : s)\n for (int i = 0; i < 1000000; i++) s += i % 7;\n printf("%ld\\n", s); return 0; }\n'}, needs=("gcc",)),
    bash("gcc-sanitizers", "gcc -g -fsanitize=address over.c -o over 2>&1 && ./over 2>&1 | grep -c 'heap-buffer-overflow' | awk '{ print ($1 > 0) }'", files={"over.c": "#include <stdlib.h>\nint main(int argc, char **argv) { char *p = malloc(8); return p[8 + argc - 1]; }\n"}, needs=("gcc",)),
    bash("g++-modern", _source("modern.cc", "-std=c++17 -pthread", compiler="g++"), files={"modern.cc": source("modern.cc")}, needs=("g++",), normal=(SHELL_PIDS,)),
    bash("g++-hello", "g++ h.cc && ./a.out", files={"h.cc": '#include <iostream>\nint main() { std::cout << "hello" << std::endl; int n; std::cin >> n; std::cerr << std::cin.fail() << std::endl; }\n'}, needs=("g++",)),
    bash("gcc-profile", "gcc -pg hello.c -o h && ./h x; ls gmon.out; gcc --coverage hello.c -o c && ./c y; ls *.gcda | wc -l; gcov -n *.gcda 2>&1 | head -n 2", files={"hello.c": _HELLO}, unlike=("c", "gmon.out", "*.gcda", "*.gcno"), needs=("gcc",)),
    Row("gcc-pie-argument", "echo 'int main(int c, char **v) { return c; }' >r.c; cc r.c -o r; ./r a b c; echo $?; chmod -x r; ./r; echo $?; cp r copy; chmod 755 copy; ./copy; echo $?; head -c 40 copy >cut; chmod 755 cut; ./cut; echo $?", unlike=("r", "copy", "cut"), needs=("cc",)),
)  # fmt: skip
