/* Signals that end a wait, of timers, and between threads and processes: `signal_waits CASE`, the same natively and as a guest. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, last_code, last_value, order[64];
static volatile uintptr_t last_address, last_stack;
static char *stack_memory;

static void on(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	if (sigaction(number, &action, NULL))
		perror("sigaction");
}

static void note(int number, siginfo_t *info, void *context)
{
	char here;

	(void)context;
	order[count % 64] = number;
	count++;
	last_code = info->si_code;
	last_value = info->si_value.sival_int;
	last_address = (uintptr_t)info->si_addr;
	last_stack = (uintptr_t)&here;
}

/* The result of a call, and what it set errno to. */
static void tell(const char *what, long result)
{
	printf("%s: %ld", what, result);
	printf(" %s\n", result < 0 ? strerror(errno) : "");
}

static sigset_t set_of(int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	return set;
}

/* ---- system calls that are interrupted */

static void write_later(int number, siginfo_t *info, void *context)
{
	int fd = *(int *)stack_memory;

	note(number, info, context);
	if (write(fd, "x", 1) != 1)
		_exit(9);
}

static void set_alarm(int milliseconds)
{
	setitimer(ITIMER_REAL, &(struct itimerval){ .it_value.tv_usec = milliseconds * 1000 }, NULL);
}

static void restart_case(void)
{
	int ends[2];
	char byte = 0;
	ssize_t got;

	if (pipe(ends))
		return;
	stack_memory = (char *)&ends[1];
	on(SIGALRM, note, 0);
	set_alarm(20);
	got = read(ends[0], &byte, 1);
	printf("without: %zd %d\n", got, errno);
	on(SIGALRM, write_later, SA_RESTART);
	set_alarm(20);
	got = read(ends[0], &byte, 1);
	printf("with SA_RESTART: %zd %c\n", got, byte);
	set_alarm(20);
	got = poll(&(struct pollfd){ .fd = ends[1] + 0, .events = POLLPRI }, 1, 10000);
	printf("poll: %zd %d\n", got, errno);
	set_alarm(20);
	got = pause();
	printf("pause: %zd %d\n", got, errno);
}

static void sleep_case(void)
{
	struct timespec left = { 0 };
	int result;

	on(SIGALRM, note, SA_RESTART);
	set_alarm(20);
	result = nanosleep(&(struct timespec){ .tv_sec = 50 }, &left);
	printf("nanosleep: %d %d left %d\n", result, errno, left.tv_sec == 49);
	set_alarm(20);
	result = clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ .tv_sec = 50 }, &left);
	printf("clock_nanosleep: %d left %d\n", result, left.tv_sec == 49);
}

static void suspend_case(void)
{
	sigset_t mask = set_of(SIGALRM), empty, now;
	int result;

	on(SIGALRM, note, 0);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	sigemptyset(&empty);
	set_alarm(20);
	result = sigsuspend(&empty);
	sigprocmask(SIG_BLOCK, NULL, &now);
	printf("sigsuspend: %d %d ran %d blocked %d\n", result, errno, (int)count, sigismember(&now, SIGALRM));
	set_alarm(20);
	result = ppoll(NULL, 0, NULL, &empty);
	sigprocmask(SIG_BLOCK, NULL, &now);
	printf("ppoll: %d %d ran %d blocked %d\n", result, errno, (int)count, sigismember(&now, SIGALRM));
}

static void timedwait_case(void)
{
	sigset_t mask = set_of(SIGUSR1);
	siginfo_t info;
	int result;

	sigaddset(&mask, SIGALRM);
	sigaddset(&mask, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	result = sigtimedwait(&mask, &info, &(struct timespec){ .tv_nsec = 1000000 });
	printf("nothing: %d %d\n", result, errno);
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 42 });
	result = sigwaitinfo(&mask, &info);
	printf("queued: %d code %d value %d\n", result == SIGRTMIN, info.si_code, info.si_value.sival_int);
	set_alarm(20);
	result = sigwaitinfo(&mask, &info);
	printf("alarm: %d code %d\n", result, info.si_code);
	on(SIGUSR2, note, SA_RESTART);
	timer_t timer;
	timer_create(CLOCK_MONOTONIC, &(struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 }, &timer);
	timer_settime(timer, 0, &(struct itimerspec){ .it_value.tv_nsec = 20000000 }, NULL);
	/* A C library may begin again after EINTR. */
	result = (int)syscall(SYS_rt_sigtimedwait, &mask, &info, NULL, 8);
	printf("another: %d %d ran %d\n", result, errno, (int)count);
}

/* ---- timers */

static void timer_case(void)
{
	sigset_t mask = set_of(SIGRTMIN);
	struct itimerspec value = { .it_value.tv_nsec = 5000000, .it_interval.tv_nsec = 5000000 }, now;
	struct timespec pause_ = { .tv_nsec = 50000000 };
	siginfo_t info;
	timer_t timer;

	sigprocmask(SIG_BLOCK, &mask, NULL);
	timer_create(CLOCK_MONOTONIC,
		     &(struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 99 },
		     &timer);
	timer_settime(timer, 0, &value, NULL);
	nanosleep(&pause_, NULL);
	sigwaitinfo(&mask, &info);
	printf("code %d value %d overrun %d %d\n", info.si_code, info.si_value.sival_int, info.si_overrun > 3,
	       timer_getoverrun(timer) == info.si_overrun);
	timer_gettime(timer, &now);
	printf("interval %ld left %d\n", now.it_interval.tv_nsec, now.it_value.tv_nsec > 0 && now.it_value.tv_nsec <= 5000000);
	tell("delete", timer_delete(timer));
	tell("wrong clock", timer_create(77, NULL, &timer));
	tell("alarm", alarm(100));
	tell("alarm", alarm(0));
}

static void cpu_timer_case(void)
{
	struct timespec before, after;

	on(SIGVTALRM, note, 0);
	on(SIGPROF, note, 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	setitimer(ITIMER_VIRTUAL, &(struct itimerval){ .it_value.tv_usec = 30000 }, NULL);
	while (count < 1)
		;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	/* Linux counts user time by ticks for this timer, so it may come early. */
	printf("virtual: %d\n", (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec > 1000000);
	setitimer(ITIMER_PROF, &(struct itimerval){ .it_value.tv_usec = 10000, .it_interval.tv_usec = 10000 }, NULL);
	while (count < 4)
		;
	printf("prof: signals %d %d\n", (int)order[1], (int)order[3]);
}

/* ---- several processes and threads */

static void *waiter(void *argument)
{
	sigset_t mask = set_of(SIGUSR1);
	int got = 0;

	pthread_sigmask(SIG_UNBLOCK, &mask, NULL);
	while (!count)
		pause();
	*(int *)argument = 1 + got;
	return NULL;
}

static void thread_case(void)
{
	sigset_t mask = set_of(SIGUSR1);
	pthread_t thread;
	int ran = 0;

	on(SIGUSR1, note, 0);
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
	pthread_create(&thread, NULL, waiter, &ran);
	kill(getpid(), SIGUSR1);
	while (!ran)
		usleep(1000);
	pthread_join(thread, NULL);
	printf("ran in the other thread: %d\n", (int)count);
}

static void job_case(void)
{
	siginfo_t info = { 0 };
	int status, ends[2];
	pid_t child;
	char byte;

	if (pipe(ends))
		return;
	child = fork();
	if (!child) {
		setpgid(0, 0);
		byte = 1;
		if (write(ends[1], &byte, 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	if (read(ends[0], &byte, 1) != 1)
		return;
	kill(child, SIGTSTP);
	printf("wait: %d", waitpid(child, &status, WUNTRACED) == child);
	printf(" stopped %d by %d\n", WIFSTOPPED(status), WSTOPSIG(status));
	kill(child, SIGCONT);
	printf("wait: %d", waitpid(child, &status, WCONTINUED) == child);
	printf(" continued %d\n", WIFCONTINUED(status));
	kill(child, SIGSTOP);
	printf("waitid: %d", waitid(P_PID, child, &info, WSTOPPED));
	printf(" code %d status %d\n", info.si_code, info.si_status);
	kill(child, SIGTERM);
	printf("still there: %d\n", waitpid(child, &status, WNOHANG));
	kill(child, SIGCONT);
	printf("wait: %d", waitpid(child, &status, 0) == child);
	printf(" killed %d by %d\n", WIFSIGNALED(status), WTERMSIG(status));
}

static void child_case(void)
{
	sigset_t mask = set_of(SIGCHLD), empty;
	int status;
	pid_t child;

	on(SIGCHLD, note, 0);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	sigemptyset(&empty);
	child = fork();
	if (!child)
		_exit(7);
	sigsuspend(&empty);
	printf("code %d count %d wait %d", (int)last_code, (int)count, waitpid(child, &status, 0) == child);
	printf(" status %d\n", WEXITSTATUS(status));
	signal(SIGCHLD, SIG_IGN);
	child = fork();
	if (!child)
		_exit(7);
	printf("ignored: %d", waitpid(child, &status, 0));
	printf(" %d\n", errno == ECHILD);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "restart", restart_case },     { "sleep", sleep_case }, { "suspend", suspend_case },
	{ "timedwait", timedwait_case }, { "timer", timer_case }, { "cpu-timer", cpu_timer_case },
	{ "thread", thread_case },       { "job", job_case },     { "child", child_case },
};

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	for (unsigned i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++)
		if (!strcmp(argv[1], cases[i].name))
			cases[i].run();
	return 0;
}
