"""Python, Debian's and the project's own: subprocess, os.fork, multiprocessing by fork and by spawn."""

from __future__ import annotations

from programs.row import Row, interpreters

_MAIN = "import multiprocessing as mp, os, sys, time\n"
_SCRIPTS: dict[str, str] = {
    "subprocess": "import subprocess, sys, os, signal\nprint(subprocess.run(['echo', 'hi'], capture_output=True)); print(subprocess.check_output('echo $0; exit 0', shell=True), subprocess.call(['false'])); p = subprocess.Popen(['cat'], stdin=-1, stdout=-1); print(p.communicate(b'x' * 200000)[0] == b'x' * 200000)\n"
    "try: subprocess.run(['sleep', '9'], timeout=0.2)\nexcept subprocess.TimeoutExpired as e: print(round(e.timeout, 1))\ntry: subprocess.run(['nosuch'])\nexcept FileNotFoundError as e: print(e)\ntry: subprocess.run(['/etc/passwd'])\nexcept PermissionError as e: print(e)\ntry: subprocess.run(['sh', '-c', 'echo bad >&2; exit 3'], check=True, stderr=-1)\nexcept subprocess.CalledProcessError as e: print(e, e.stderr)\n"
    "print(subprocess.run(['pwd'], cwd='/', stdout=-1).stdout, subprocess.run(['sh', '-c', 'echo $A'], env={'A': 'b'}, stdout=-1).stdout, subprocess.run(['sh', '-c', 'kill -9 $$']).returncode); p = subprocess.Popen(['sleep', '9']); print(p.poll()); p.terminate(); print(p.wait()); a = subprocess.Popen(['seq', '5'], stdout=-1); b = subprocess.Popen(['sort', '-r'], stdin=a.stdout, stdout=-1); a.stdout.close(); print(b.communicate()[0], a.wait())\n"
    "r, w = os.pipe(); p = subprocess.Popen(['sh', '-c', f'echo inherited >&{w}'], pass_fds=[w]); p.wait(); os.close(w); print(os.read(r, 99)); p = subprocess.Popen(['sh', '-c', 'test $(ps -o pgid= -p $$) = $$; echo $?'], start_new_session=True, stdout=-1); print(p.communicate()[0]); print(subprocess.getstatusoutput('exit 4'), subprocess.run(['cat'], stdin=open('/dev/null')).returncode, subprocess.run('echo out; echo err >&2', shell=True, stdout=-1, stderr=-2).stdout, subprocess.run(['sh', '-c', 'umask'], umask=0o77, stdout=-1).stdout, subprocess.run(['sh'], input='echo text', text=True, stdout=-1).stdout)\n"
    "print(subprocess.run([sys.executable, '-c', 'import sys; sys.exit(6)']).returncode, [q.wait() for q in [subprocess.Popen(['sh', '-c', f'exit {i}']) for i in range(12)]]); p = subprocess.Popen(['sh', '-c', 'trap \"exit 5\" TERM; echo up; while :; do sleep 0.1; done'], stdout=-1); p.stdout.readline(); p.send_signal(signal.SIGTERM); print(p.wait())\n",
    "fork": "import os, sys, time, signal\nfor i in range(5):\n    pid = os.fork()\n    if pid == 0: os._exit(i)\n    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\nx = [0]\nr, w = os.pipe(); pid = os.fork()\nif pid == 0: x[0] = 5; os.write(w, b'from child %d' % x[0]); os.kill(os.getpid(), 9)\nos.close(w); print(os.read(r, 99), x, os.WTERMSIG(os.wait()[1]))\ntry: os.wait()\nexcept ChildProcessError as e: print(e.errno)\npid = os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 8'], {}); print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])); print(os.spawnlp(os.P_WAIT, 'sh', 'sh', '-c', 'exit 9'), os.system('exit 2') >> 8, os.popen('echo p').read())\n"
    "pid = os.fork()\nif pid == 0: time.sleep(30)\nprint(os.waitpid(pid, os.WNOHANG)); os.kill(pid, signal.SIGSTOP); p, s = os.waitpid(pid, os.WUNTRACED); print(os.WIFSTOPPED(s), os.WSTOPSIG(s) == signal.SIGSTOP); os.kill(pid, signal.SIGCONT); p, s = os.waitpid(pid, os.WCONTINUED); print(os.WIFCONTINUED(s)); os.kill(pid, 15); i = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT); print(i.si_status, i.si_code == os.CLD_KILLED); print(os.wait4(pid, 0)[1])\n"
    "pid = os.fork()\nif pid == 0: os.setsid(); print(os.getsid(0) == os.getpid() == os.getpgrp(), os.getppid() > 0); sys.stdout.flush(); os._exit(0)\nos.waitpid(pid, 0); fd = os.pidfd_open(os.getpid()); print(fd > 2); big = bytearray(100 << 20); big[::4096] = b'z' * (100 << 8); pid = os.fork()\nif pid == 0: big[0] = 1; os._exit(big.count(b'z') == (100 << 8) - 1)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), big[0]); sys.stdout.flush(); os.execlp('sh', 'sh', '-c', 'echo replaced; exit 0')\n",
    "fork-threads": "import os, threading, time\nlock = threading.Lock(); stop = threading.Event(); ts = [threading.Thread(target=stop.wait, args=(30,)) for _ in range(8)]; [t.start() for t in ts]\nfor i in range(20):\n    pid = os.fork()\n    if pid == 0: os._exit(threading.active_count())\n    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1\nimport subprocess; print(subprocess.run(['echo', 'from thread'], stdout=-1).stdout); out = []; t = threading.Thread(target=lambda: out.append(os.waitstatus_to_exitcode(os.system('exit 3')))); t.start(); t.join(); print(out); stop.set(); [t.join() for t in ts]; t = threading.Thread(target=os._exit, args=(0,)); t.start(); time.sleep(20)\n",
    "exec-threads": "import os, threading, time\n[threading.Thread(target=time.sleep, args=(30,), daemon=True).start() for _ in range(5)]\nthreading.Thread(target=lambda: os.execlp('sh', 'sh', '-c', 'echo executed $PPID | wc -w; ls /proc/$$/task | wc -l; exit 0')).start(); time.sleep(30)\n",
}  # fmt: skip
_METHODS: dict[str, str] = {
    "pool": "def square(n): return n * n\nif __name__ == '__main__':\n    with mp.get_context(METHOD).Pool(3) as pool: print(pool.map(square, range(30)), pool.apply(square, (9,)), sorted(pool.imap_unordered(square, range(5))), pool.starmap(pow, [(2, 3)]))\n",
    "queue": "def work(q, r):\n    for n in iter(q.get, None): r.put(n * 2)\n    r.put(None)\nif __name__ == '__main__':\n    c = mp.get_context(METHOD); q, r = c.Queue(), c.Queue(); ps = [c.Process(target=work, args=(q, r)) for _ in range(3)]; [p.start() for p in ps]; [q.put(i) for i in range(50)]; [q.put(None) for _ in ps]; out = []; ends = 0\n    while ends < 3:\n        x = r.get(timeout=30)\n        if x is None: ends += 1\n        else: out.append(x)\n    [p.join() for p in ps]; print(sorted(out), [p.exitcode for p in ps])\n",
    "shared": "from multiprocessing import shared_memory\ndef add(v, a, l, name):\n    for _ in range(200):\n        with v.get_lock(): v.value += 1\n    with l: a[0] += 1\n    s = shared_memory.SharedMemory(name=name); s.buf[1] = 7; s.close()\nif __name__ == '__main__':\n    c = mp.get_context(METHOD); v, a, l = c.Value('i', 0), c.Array('d', 3), c.Lock(); s = shared_memory.SharedMemory(create=True, size=100); ps = [c.Process(target=add, args=(v, a, l, s.name)) for _ in range(3)]; [p.start() for p in ps]; [p.join() for p in ps]; print(v.value, list(a), s.buf[1], [p.exitcode for p in ps]); s.close(); s.unlink()\n",
    "pipe-event": "def child(conn, e, b, s):\n    b.wait(20); conn.send({'k': [1, 2]}); print(conn.recv_bytes(), e.wait(20)); s.release(); sys.exit(3)\nif __name__ == '__main__':\n    c = mp.get_context(METHOD); a, b = c.Pipe(); e, bar, s = c.Event(), c.Barrier(2), c.Semaphore(0); p = c.Process(target=child, args=(b, e, bar, s)); p.start(); bar.wait(20); print(a.recv(), a.poll(0)); a.send_bytes(b'raw'); e.set(); print(s.acquire(timeout=20)); p.join(); print(p.exitcode); p = c.Process(target=time.sleep, args=(60,)); p.start(); p.terminate(); p.join(); print(p.exitcode, mp.active_children())\n    with c.Manager() as m: d = m.dict(); d['x'] = 1; print(dict(d))\n",
    "executor": "from concurrent.futures import ProcessPoolExecutor\ndef dig(n): return sum(range(n))\nif __name__ == '__main__':\n    with ProcessPoolExecutor(3, mp_context=mp.get_context(METHOD)) as pool: print(list(pool.map(dig, range(0, 1000, 100))), pool.submit(os.getpid).result() != os.getpid())\n",
}  # fmt: skip


def _rows(interpreter: str, python: str) -> tuple[Row, ...]:
    return (
        *(
            Row(f"python-{interpreter}-{name}", (python, "-c", code), needs=("ps",) if name == "subprocess" else ())
            for name, code in _SCRIPTS.items()
        ),
        *(
            Row(
                f"python-{interpreter}-{name}-{method}",
                (python, "main.py"),
                files={"main.py": _MAIN + code.replace("METHOD", repr(method))},
            )
            for name, code in _METHODS.items()
            for method in ("fork", "spawn", "forkserver")
            # One of them tells that the fork server works.
            if method != "forkserver" or name == "pool"
        ),
    )


ROWS: tuple[Row, ...] = tuple(row for name, python in interpreters().items() for row in _rows(name, str(python)))
