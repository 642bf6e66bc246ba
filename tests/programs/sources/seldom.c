/*
 * System calls that few programs make, and what they look at first: each case prints what they answer, which must be the same
 * everywhere. Numbers that differ from run to run are never printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *what, long result)
{
	if (result < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, result);
	fflush(stdout);
}

static void collect(pid_t child)
{
	int status = 0;
	if (waitpid(child, &status, 0) != child)
		abort();
	say("child", WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
}

static void memory(void)
{
	static char theirs[] = "of the parent";
	char here[6] = "", there[9] = "";
	struct iovec local[2] = { { here, 5 }, { there, 8 } };
	struct iovec remote[2] = { { theirs, 3 }, { theirs + 3, 10 } };
	struct iovec bad[2] = { { theirs, 4 }, { (void *)8, 4 } };
	int gate[2];

	if (pipe(gate) < 0)
		abort();
	pid_t child = fork();
	if (child == 0) {
		char byte;
		memcpy(theirs, "of the child.", 13);
		_exit(read(gate[0], &byte, 1) == 1 ? theirs[0] : 1);
	}
	while (process_vm_readv(child, local, 2, remote, 2, 0) == 13 && there[7] != '.')
		usleep(1000);
	printf("%s|%s\n", here, there);
	say("flags", process_vm_readv(child, local, 2, remote, 2, 1));
	say("as far as it goes", process_vm_readv(child, local, 2, bad, 2, 0));
	say("nothing", process_vm_readv(child, local, 2, bad + 1, 1, 0));
	say("empty", process_vm_readv(child, local, 0, remote, 2, 0));
	say("nobody", process_vm_readv(0x3fffffff, local, 2, remote, 2, 0));
	here[0] = 'X';
	say("write", process_vm_writev(child, local, 1, remote, 2, 0));
	say("go on", write(gate[1], "", 1));
	collect(child);
}

static void settings(void)
{
	say("slack", prctl(PR_SET_TIMERSLACK, 70000, 0, 0, 0));
	pid_t child = fork();
	if (child == 0) {
		say("inherited", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
		prctl(PR_SET_TIMERSLACK, 90000, 0, 0, 0);
		prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0);
		say("its default", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
		_exit(0);
	}
	collect(child);
	say("huge pages", prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	say("huge pages", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	say("arguments", prctl(PR_GET_THP_DISABLE, 1, 1, 0, 0));
	say("ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 0, 0, 0));
	say("cleared", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	say("no capability", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 99, 0, 0));
	say("no command", prctl(PR_CAP_AMBIENT, 9, 0, 0, 0));
	say("not inherited", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 0, 0, 0));

	struct timeval time = { 0, 3000 };
	personality(PER_LINUX | STICKY_TIMEOUTS);
	say("select", select(0, NULL, NULL, NULL, &time));
	printf("left: %ld\n", (long)time.tv_usec);
	personality(PER_LINUX);
	say("select", select(0, NULL, NULL, NULL, &time));
	printf("left: %ld\n", (long)time.tv_usec);

	say("no parameter", sched_getparam(0, NULL));
	say("no parameter", sched_setscheduler(0, SCHED_OTHER, NULL));
	say("no policy", sched_setscheduler(0, -1, &(struct sched_param){ 0 }));
}

static void files(void)
{
	static _Alignas(4096) char buffer[1 << 17];
	struct iovec all = { buffer, sizeof buffer };
	int ends[2], path = open("/", O_PATH), events = eventfd(1, 0), raw[2] = { 0 };
	struct {
		struct file_handle head;
		unsigned char content[128];
	} handle = { 0 };

	if (pipe(ends) < 0)
		abort();
	say("position in a pipe", pwrite(ends[0], "", 1, 0));
	say("position in a pipe", pread(ends[1], buffer, 1, 0));
	say("O_PATH", (long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, path, 0));
	say("events", splice(events, NULL, ends[1], NULL, 8, 0));
	say("a directory", splice(open("/", O_RDONLY), NULL, ends[1], NULL, 8, 0));
	say("some room", vmsplice(ends[1], &all, 1, 0));
	say("no room", vmsplice(ends[1], &all, 1, SPLICE_F_NONBLOCK));
	say("events", splice(ends[0], NULL, events, NULL, 8, 0));

	say("no room", name_to_handle_at(AT_FDCWD, "/", &handle.head, raw, 0));
	say("length", handle.head.handle_bytes > 0);
	handle.head.handle_bytes = 129;
	say("too long", name_to_handle_at(AT_FDCWD, "/", &handle.head, raw, 0));
	say("flags", name_to_handle_at(AT_FDCWD, "/", &handle.head, raw, 1));
	say("no directory", name_to_handle_at(-1, "x", &handle.head, raw, 0));
	say("device", syscall(SYS_ustat, 0xffffffff, buffer));
}

static void over(int number)
{
	(void)number;
	say("over", 1);
}

static void processor(void)
{
	pid_t child = fork();
	if (child == 0) {
		signal(SIGXCPU, over);
		setrlimit(RLIMIT_CPU, &(struct rlimit){ 1, 2 });
		for (;;)
			__asm__ volatile("pause");
	}
	collect(child);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = { { "memory", memory }, { "settings", settings }, { "files", files }, { "processor", processor } };

	for (unsigned i = 0; argc > 1 && i < sizeof cases / sizeof cases[0]; i++) {
		if (strcmp(cases[i].name, argv[1]) == 0) {
			cases[i].run();
			return 0;
		}
	}
	return 2;
}
