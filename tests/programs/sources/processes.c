/* Processes and threads as programs see them. One case an argument; what it prints must not depend on numbers or timing. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x) do { if (!(x)) { printf("failed: %s, errno %d\n", #x, errno); fflush(stdout); _exit(99); } } while (0)

static char self[PATH_MAX];

static void report(const char *what, int status)
{
	if (WIFEXITED(status))
		printf("%s: exited %d\n", what, WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		printf("%s: signal %d\n", what, WTERMSIG(status));
	else if (WIFSTOPPED(status))
		printf("%s: stopped %d\n", what, WSTOPSIG(status));
	else if (WIFCONTINUED(status))
		printf("%s: continued\n", what);
}

static pid_t spawn(void)
{
	fflush(stdout);
	return fork();
}

static void case_wait(void)
{
	int status;
	siginfo_t info;
	pid_t child = spawn();

	if (child == 0)
		_exit(7);
	CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
	printf("waitid %d %d %d %d\n", info.si_signo, info.si_code, info.si_status, info.si_pid == child);
	CHECK(waitpid(child, &status, 0) == child);
	report("exit", status);
	CHECK(waitpid(child, &status, 0) == -1 && errno == ECHILD);
	child = spawn();
	if (child == 0)
		for (;;)
			pause();
	CHECK(waitpid(-1, &status, WNOHANG) == 0);
	kill(child, SIGSTOP);
	CHECK(waitpid(child, &status, WUNTRACED) == child);
	report("stop", status);
	CHECK(waitpid(child, &status, WUNTRACED | WNOHANG) == 0);
	kill(child, SIGCONT);
	CHECK(waitpid(child, &status, WCONTINUED) == child);
	report("continue", status);
	kill(child, SIGTERM);
	CHECK(waitpid(child, &status, 0) == child);
	report("term", status);
	CHECK(waitpid(-1, &status, 0) == -1 && errno == ECHILD);
	CHECK(waitpid(child, &status, 0x1000) == -1 && errno == EINVAL);
	signal(SIGCHLD, SIG_IGN);
	child = spawn();
	if (child == 0)
		_exit(1);
	CHECK(waitpid(child, &status, 0) == -1 && errno == ECHILD);
	puts("ignored children leave no zombie");
}

static void case_memory(void)
{
	int status, *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *private = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t child;

	CHECK(shared != MAP_FAILED && private != MAP_FAILED);
	memset(private, 1, 1 << 20);
	child = spawn();
	if (child == 0) {
		*shared = 42;
		for (int i = 0; i < 1 << 20; i += 4096)
			CHECK(private[i] == 1);
		memset(private, 2, 1 << 20);
		_exit(private[5000]);
	}
	memset(private, 3, 1 << 20);
	CHECK(waitpid(child, &status, 0) == child);
	report("child", status);
	printf("shared %d private %d\n", *shared, private[9999]);
	child = spawn();
	if (child == 0) {
		pid_t grandchild = fork();
		if (grandchild == 0) {
			*shared += 1;
			_exit(0);
		}
		waitpid(grandchild, &status, 0);
		_exit(*shared);
	}
	waitpid(child, &status, 0);
	report("grandchild", status);
	char *moved = mremap(private, 1 << 20, 4 << 20, MREMAP_MAYMOVE);
	CHECK(moved != MAP_FAILED);
	printf("moved %d %d %d\n", moved[0], moved[(1 << 20) - 1], moved[2 << 20]);
}

static void case_orphans(void)
{
	int pair[2];
	char byte = 0;
	pid_t child, parent = getpid();

	CHECK(pipe(pair) == 0);
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	child = spawn();
	if (child == 0) {
		pid_t middle = getpid();
		if (fork() == 0) {
			while (getppid() == middle)
				usleep(1000);
			byte = getppid() == parent ? 'r' : 'x';
			CHECK(write(pair[1], &byte, 1) == 1);
			_exit(5);
		}
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(read(pair[0], &byte, 1) == 1);
	printf("reaper %c\n", byte);
	CHECK(waitpid(-1, &status, 0) > 0);
	report("orphan", status);
	child = spawn();
	if (child == 0) {
		if (fork() == 0) {
			CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0);
			sigset_t set;
			sigemptyset(&set);
			sigaddset(&set, SIGUSR1);
			sigprocmask(SIG_BLOCK, &set, NULL);
			CHECK(write(pair[1], "a", 1) == 1);
			int got;
			sigwait(&set, &got);
			_exit(got);
		}
		CHECK(read(pair[0], &byte, 1) == 1);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(waitpid(-1, &status, 0) > 0);
	report("death signal", status);
}

static void case_groups(void)
{
	int status;
	pid_t first = spawn();

	if (first == 0)
		for (;;)
			pause();
	CHECK(setpgid(first, first) == 0);
	CHECK(getpgid(first) == first);
	pid_t second = spawn();
	if (second == 0)
		for (;;)
			pause();
	CHECK(setpgid(second, first) == 0);
	CHECK(kill(-first, SIGTERM) == 0);
	CHECK(waitpid(-first, &status, 0) > 0);
	report("one", status);
	CHECK(waitpid(-first, &status, 0) > 0);
	report("other", status);
	CHECK(kill(-first, 0) == -1 && errno == ESRCH);
	CHECK(waitpid(-first, &status, 0) == -1 && errno == ECHILD);
	pid_t child = spawn();
	if (child == 0) {
		CHECK(setsid() == getpid());
		CHECK(getsid(0) == getpid() && getpgrp() == getpid());
		CHECK(setsid() == -1 && errno == EPERM);
		CHECK(setpgid(0, 0) == -1 && errno == EPERM);
		CHECK(kill(getppid(), 0) == 0);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	report("session", status);
	CHECK(setpgid(999999, 0) == -1 && errno == ESRCH);
	CHECK(setpgid(0, 999999) == -1 && errno == EPERM);
	CHECK(getpgid(999999) == -1 && errno == ESRCH);
}

static void case_exec(void)
{
	int status, fd = open("/dev/null", O_RDONLY | O_CLOEXEC), kept = open("/dev/null", O_RDONLY);
	char first[16], second[16], *argv[] = { self, "exec-child", first, second, NULL }, *env[] = { "A=b", NULL };
	const char *bad[] = { "/nonexistent", "/etc", "/etc/passwd", "/dev/null", "/etc/passwd/x", "" };
	pid_t child;

	snprintf(first, sizeof first, "%d", fd);
	snprintf(second, sizeof second, "%d", kept);
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		execve(bad[i], argv, env);
		printf("execve %s: %s\n", bad[i], strerrorname_np(errno));
	}
	execve(self, (char **)8, env);
	printf("bad argv: %s\n", strerrorname_np(errno));
	int text = memfd_create("text", 0);
	CHECK(write(text, "nothing to run\n", 15) == 15);
	fexecve(text, argv, env);
	printf("no format: %s\n", strerrorname_np(errno));
	char *huge = malloc(200000);
	memset(huge, 'x', 199999);
	huge[199999] = 0;
	char *long_argv[] = { self, huge, NULL };
	execve(self, long_argv, env);
	printf("long: %s\n", strerrorname_np(errno));
	signal(SIGUSR1, SIG_IGN);
	signal(SIGUSR2, exit);
	child = spawn();
	if (child == 0) {
		execve(self, argv, env);
		_exit(98);
	}
	CHECK(waitpid(child, &status, 0) == child);
	report("exec", status);
	child = vfork();
	if (child == 0) {
		execve("/nonexistent", argv, env);
		_exit(errno);
	}
	CHECK(waitpid(child, &status, 0) == child);
	report("vfork", status);
}

static int exec_child(char **argv)
{
	struct sigaction action;

	printf("closed %d kept %d env %s\n", fcntl(atoi(argv[2]), F_GETFD) == -1, fcntl(atoi(argv[3]), F_GETFD) != -1, getenv("A"));
	sigaction(SIGUSR1, NULL, &action);
	printf("ignored %d ", action.sa_handler == SIG_IGN);
	sigaction(SIGUSR2, NULL, &action);
	printf("default %d\n", action.sa_handler == SIG_DFL);
	return 11;
}

static void *execute(void *unused)
{
	char *argv[] = { self, "exec-thread", NULL }, pid[16], *env[] = { pid, NULL };

	(void)unused;
	snprintf(pid, sizeof pid, "P=%d", getpid());
	execve(self, argv, env);
	return NULL;
}

static void *sleep_for_ever(void *unused)
{
	(void)unused;
	for (;;)
		pause();
}

static void *spin_for_ever(void *unused)
{
	(void)unused;
	for (;;)
		__asm__ volatile("pause");
}

static void case_exec_thread(void)
{
	int status;
	pid_t child = spawn();

	if (child == 0) {
		pthread_t thread;
		for (int i = 0; i < 3; i++)
			pthread_create(&thread, NULL, i == 1 ? spin_for_ever : sleep_for_ever, NULL);
		pthread_create(&thread, NULL, execute, NULL);
		sleep_for_ever(NULL);
	}
	CHECK(waitpid(child, &status, 0) == child);
	report("executed by a thread", status);
}

static void *quit(void *unused)
{
	(void)unused;
	exit(23);
}

static void case_exit(void)
{
	int status;
	pid_t child = spawn();
	pthread_t thread;

	if (child == 0) {
		pthread_create(&thread, NULL, spin_for_ever, NULL);
		pthread_create(&thread, NULL, sleep_for_ever, NULL);
		pthread_create(&thread, NULL, quit, NULL);
		sleep_for_ever(NULL);
	}
	CHECK(waitpid(child, &status, 0) == child);
	report("exit by a thread", status);
	child = spawn();
	if (child == 0) {
		pthread_create(&thread, NULL, spin_for_ever, NULL);
		syscall(SYS_exit, 3);
	}
	usleep(20000);
	CHECK(waitpid(child, &status, WNOHANG) == 0);
	kill(child, SIGKILL);
	CHECK(waitpid(child, &status, 0) == child);
	report("leader gone, killed", status);
}

static pthread_mutex_t robust;

static void *die_holding(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&robust);
	return NULL;
}

static int counter;
static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER, *mutex = &plain;

static void *count(void *unused)
{
	(void)unused;
	for (int i = 0; i < 2000; i++) {
		pthread_mutex_lock(mutex);
		counter++;
		pthread_mutex_unlock(mutex);
	}
	return NULL;
}

static void count_with(const char *name, pthread_mutex_t *which)
{
	pthread_t threads[4];

	mutex = which;
	counter = 0;
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, count, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	printf("%s %d\n", name, counter);
}

static void case_mutexes(void)
{
	pthread_mutexattr_t attributes;
	pthread_mutex_t inheriting, *shared;
	pthread_t thread;
	struct timespec soon = { 0, 0 };
	int status;

	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attributes);
	pthread_create(&thread, NULL, die_holding, NULL);
	pthread_join(thread, NULL);
	printf("owner died: %s\n", strerrorname_np(pthread_mutex_lock(&robust)));
	CHECK(pthread_mutex_consistent(&robust) == 0);
	pthread_mutex_unlock(&robust);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutex_init(shared, &attributes);
	pid_t child = spawn();
	if (child == 0) {
		pthread_mutex_lock(shared);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	printf("process died: %s\n", strerrorname_np(pthread_mutex_lock(shared)));
	count_with("plain", &plain);
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&inheriting, &attributes);
	count_with("inheriting", &inheriting);
	pthread_mutex_lock(&plain);
	printf("timed: %s\n", strerrorname_np(pthread_mutex_timedlock(&plain, &soon)));
}

static void case_clone(void)
{
	struct clone_args args = { .exit_signal = SIGCHLD };
	int status, pidfd = -1;
	long child;
	const unsigned long flags[] = { CLONE_THREAD, CLONE_SIGHAND, CLONE_SIGHAND | CLONE_THREAD, 1ull << 63 };

	for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
		struct clone_args bad = { .flags = flags[i] };
		long got = syscall(SYS_clone3, &bad, sizeof bad);
		if (got == 0)
			_exit(0);
		printf("flags %lx: %s\n", flags[i], got < 0 ? strerrorname_np(errno) : "made");
	}
	CHECK(syscall(SYS_clone3, &args, 8) == -1);
	printf("size 8: %s\n", strerrorname_np(errno));
	fflush(stdout);
	args.flags = CLONE_PIDFD | CLONE_PARENT_SETTID;
	pid_t number = 0;
	args.pidfd = (unsigned long)&pidfd;
	args.parent_tid = (unsigned long)&number;
	child = syscall(SYS_clone3, &args, sizeof args);
	if (child == 0)
		_exit(44);
	CHECK(child > 0 && number == child && pidfd >= 0);
	siginfo_t info = { 0 };
	CHECK(waitid(P_PIDFD, pidfd, &info, WEXITED) == 0);
	printf("pidfd %d %d\n", info.si_status, fcntl(pidfd, F_GETFD));
	child = syscall(SYS_clone, 0, 0, 0, 0, 0);
	if (child == 0)
		_exit(0);
	CHECK(waitpid(child, &status, 0) == -1 && errno == ECHILD);
	CHECK(waitpid(child, &status, __WCLONE) == child);
	report("clone child", status);
}

static void case_limits(void)
{
	struct rlimit limit;
	int status;

	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = 10;
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	int fd, last = -1;
	while ((fd = dup(0)) >= 0)
		last = fd;
	printf("last %d %s\n", last, strerrorname_np(errno));
	pid_t child = spawn();
	if (child == 0) {
		limit.rlim_cur = limit.rlim_max = 1 << 20;
		CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
		close(9);
		fd = memfd_create("x", 0);
		CHECK(lseek(fd, (1 << 20) - 1, SEEK_SET) > 0);
		CHECK(write(fd, "ab", 2) == 1);
		CHECK(write(fd, "c", 1) == -1);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	report("file size", status);
	child = spawn();
	if (child == 0) {
		limit.rlim_cur = limit.rlim_max = 64 << 20;
		CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
		CHECK(mmap(NULL, 128 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	report("address space", status);
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*run)(void); } cases[] = {
		{ "wait", case_wait }, { "memory", case_memory }, { "orphans", case_orphans }, { "groups", case_groups },
		{ "exec", case_exec }, { "exec-threads", case_exec_thread }, { "exit", case_exit }, { "mutexes", case_mutexes },
		{ "clone", case_clone }, { "limits", case_limits },
	};

	CHECK(argc > 1 && readlink("/proc/self/exe", self, sizeof self - 1) > 0);
	if (strcmp(argv[1], "exec-child") == 0)
		return exec_child(argv);
	if (strcmp(argv[1], "exec-thread") == 0) {
		printf("same process %d, one thread %d\n", atoi(getenv("P")) == getpid(), getpid() == gettid());
		return 12;
	}
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
		if (strcmp(argv[1], cases[i].name) == 0) {
			cases[i].run();
			puts("done");
			return 0;
		}
	return 97;
}
