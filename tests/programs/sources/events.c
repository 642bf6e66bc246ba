/*
 * Pipes, poll and select, epoll, eventfd, timerfd, signalfd, pidfd and pseudoterminals as a program meets them: each case prints
 * what the calls answer, which must be the same everywhere. Numbers that differ from run to run are never printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 21];

static void say(const char *what, long result)
{
	if (result < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, result);
}

static int ready(int fd, int events)
{
	struct pollfd asked = {.fd = fd, .events = events};

	return poll(&asked, 1, 0) < 0 ? -1 : asked.revents;
}

static void on_signal(int number)
{
	(void)number;
}

static void alarm_in(int milliseconds, int flags)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
	struct itimerspec time = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000000}};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	timer_t timer;

	sigaction(SIGALRM, &action, NULL);
	timer_create(CLOCK_MONOTONIC, &event, &timer);
	timer_settime(timer, 0, &time, NULL);
}

static void pipes(void)
{
	int ends[2], queued;
	struct stat status;

	say("pipe2", pipe2(ends, O_NONBLOCK));
	say("read empty", read(ends[0], buffer, 1));
	say("poll r", ready(ends[0], POLLIN));
	say("poll w", ready(ends[1], POLLOUT));
	say("size", fcntl(ends[1], F_GETPIPE_SZ));
	say("fill", write(ends[1], buffer, sizeof(buffer)));
	say("full", write(ends[1], buffer, 1));
	say("poll full", ready(ends[1], POLLOUT));
	ioctl(ends[0], FIONREAD, &queued);
	say("queued", queued);
	say("shrink", fcntl(ends[1], F_SETPIPE_SZ, 4096));
	say("read", read(ends[0], buffer, 4096));
	say("room", write(ends[1], buffer, 5000));
	say("drain", read(ends[0], buffer, sizeof(buffer)));
	say("grow", fcntl(ends[1], F_SETPIPE_SZ, 100000));
	say("fill", write(ends[1], buffer, sizeof(buffer)));
	fstat(ends[0], &status);
	say("fifo", S_ISFIFO(status.st_mode));
	say("seek", lseek(ends[0], 0, SEEK_SET));
	close(ends[1]);
	say("hup and data", ready(ends[0], POLLIN));
	read(ends[0], buffer, sizeof(buffer));
	say("hup", ready(ends[0], POLLIN));
	say("eof", read(ends[0], buffer, 1));
	close(ends[0]);
	pipe2(ends, O_DIRECT);
	write(ends[1], buffer, 100);
	write(ends[1], buffer, 5000);
	say("packet", read(ends[0], buffer, 10));
	say("packet", read(ends[0], buffer, sizeof(buffer)));
	say("packet", read(ends[0], buffer, sizeof(buffer)));
	signal(SIGPIPE, SIG_IGN);
	close(ends[0]);
	say("err", ready(ends[1], POLLOUT));
	say("broken", write(ends[1], buffer, 1));
	say("broken empty", write(ends[1], buffer, 0));
	say("bad", pipe((int *)16));
	say("flags", pipe2(ends, O_APPEND));
}

static void fifos(void)
{
	char name[64];
	int fd, reader;

	snprintf(name, sizeof(name), "/tmp/fifo-%d", getpid());
	say("mkfifo", mkfifo(name, 0600));
	say("no reader", open(name, O_WRONLY | O_NONBLOCK));
	reader = open(name, O_RDONLY | O_NONBLOCK);
	say("quiet", ready(reader, POLLIN));
	say("eof", read(reader, buffer, 1));
	fd = open(name, O_WRONLY);
	say("write", write(fd, "abc", 3));
	close(fd);
	say("hup", ready(reader, POLLIN));
	say("read", read(reader, buffer, 10));
	close(reader);
	if (fork() == 0) {
		fd = open(name, O_WRONLY);
		write(fd, "hello", 5);
		_exit(0);
	}
	reader = open(name, O_RDONLY);
	say("read", read(reader, buffer, 10));
	say("eof", read(reader, buffer, 10));
	wait(NULL);
	alarm_in(50, 0);
	say("interrupted", open(name, O_WRONLY) == -1 ? -1 : 0);
	unlink(name);
}

static void polls(void)
{
	int ends[2], closed = dup(0);
	struct pollfd asked[4];
	struct timespec time = {0, 20000000}, long_time = {5, 0};
	struct timeval val = {0, 20000};
	sigset_t none;
	fd_set r, w;

	close(closed);
	pipe(ends);
	asked[0] = (struct pollfd){ends[0], POLLIN, -1};
	asked[1] = (struct pollfd){ends[1], POLLOUT | POLLWRNORM, -1};
	asked[2] = (struct pollfd){closed, POLLIN, -1};
	asked[3] = (struct pollfd){-5, POLLIN, -1};
	say("poll", poll(asked, 4, -1));
	for (int i = 0; i < 4; i++)
		say("revents", asked[i].revents);
	say("timeout", poll(asked, 1, 10));
	say("too many", poll(asked, 1 << 30, 0));
	say("fault", poll((struct pollfd *)16, 1, 0));
	say("ppoll", syscall(SYS_ppoll, asked, 1, &time, NULL, 0));
	say("left", time.tv_sec * 1000000000 + time.tv_nsec);
	say("invalid", ppoll(asked, 1, &(struct timespec){0, 1000000000}, NULL));
	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_SET(ends[0], &r), FD_SET(ends[1], &w), FD_SET(ends[1], &r);
	say("select", select(ends[1] + 1, &r, &w, NULL, &val));
	say("sets", FD_ISSET(ends[0], &r) * 4 + FD_ISSET(ends[1], &r) * 2 + FD_ISSET(ends[1], &w));
	FD_ZERO(&r);
	FD_SET(ends[0], &r);
	say("select timeout", select(ends[0] + 1, &r, NULL, NULL, &val));
	say("left", val.tv_sec * 1000000 + val.tv_usec);
	FD_ZERO(&r);
	FD_SET(closed, &r);
	say("select closed", select(closed + 1, &r, NULL, NULL, &val));
	say("select negative", select(-1, NULL, NULL, NULL, NULL));
	sigemptyset(&none);
	alarm_in(50, SA_RESTART);
	say("poll interrupted", poll(asked, 1, -1));
	alarm_in(50, SA_RESTART);
	say("ppoll interrupted", syscall(SYS_ppoll, asked, 1, &long_time, &none, 8));
	say("time left", long_time.tv_sec == 4);
	raise(SIGALRM);
	sigaddset(&none, SIGALRM);
	sigprocmask(SIG_BLOCK, &none, NULL);
	raise(SIGALRM);
	sigemptyset(&none);
	say("pending", pselect(0, NULL, NULL, NULL, &long_time, &none));
	sigprocmask(SIG_BLOCK, NULL, &none);
	say("blocked again", sigismember(&none, SIGALRM));
}

static void show(int epfd, int count, int timeout)
{
	struct epoll_event events[8];
	int found = epoll_wait(epfd, events, count, timeout);

	say("wait", found);
	for (int i = 0; i < found; i++)
		printf("  %#x %llu\n", events[i].events, (unsigned long long)events[i].data.u64);
}

static long control(int epfd, int operation, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};

	return epoll_ctl(epfd, operation, fd, &event);
}

static void epolls(void)
{
	int ends[2], other[2], epfd = epoll_create1(EPOLL_CLOEXEC), outer, copy, file;
	int chain[6];

	pipe(ends), pipe(other);
	say("add", control(epfd, EPOLL_CTL_ADD, ends[0], EPOLLIN, 1));
	say("again", control(epfd, EPOLL_CTL_ADD, ends[0], EPOLLIN, 1));
	say("mod absent", control(epfd, EPOLL_CTL_MOD, ends[1], EPOLLIN, 1));
	say("del absent", control(epfd, EPOLL_CTL_DEL, ends[1], 0, 0));
	say("itself", control(epfd, EPOLL_CTL_ADD, epfd, EPOLLIN, 1));
	say("operation", control(epfd, 9, ends[0], EPOLLIN, 1));
	say("closed", control(epfd, EPOLL_CTL_ADD, 999, EPOLLIN, 1));
	say("no epoll", control(ends[0], EPOLL_CTL_ADD, ends[1], EPOLLIN, 1));
	file = open("/proc/self/exe", O_RDONLY);
	say("file", control(epfd, EPOLL_CTL_ADD, file, EPOLLIN, 1));
	say("count", epoll_wait(epfd, NULL, 0, 0));
	show(epfd, 8, 0);
	write(ends[1], "ab", 2);
	show(epfd, 8, -1), show(epfd, 8, -1);
	say("edge", control(epfd, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLET, 2));
	show(epfd, 8, 0), show(epfd, 8, 10);
	write(ends[1], "c", 1);
	show(epfd, 8, 0);
	say("once", control(epfd, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLONESHOT, 3));
	show(epfd, 8, 0);
	write(ends[1], "c", 1);
	show(epfd, 8, 0);
	say("exclusive mod", control(epfd, EPOLL_CTL_MOD, ends[0], EPOLLIN | EPOLLEXCLUSIVE, 3));
	control(epfd, EPOLL_CTL_MOD, ends[0], EPOLLIN, 4);
	control(epfd, EPOLL_CTL_ADD, other[1], EPOLLOUT, 5);
	show(epfd, 1, 0), show(epfd, 1, 0), show(epfd, 8, 0);
	copy = dup(ends[0]);
	close(ends[0]);
	show(epfd, 8, 0);
	close(copy);
	show(epfd, 8, 0);
	close(other[0]);
	show(epfd, 8, 0);
	outer = epoll_create(1);
	say("nested", control(outer, EPOLL_CTL_ADD, epfd, EPOLLIN, 6));
	say("circle", control(epfd, EPOLL_CTL_ADD, outer, EPOLLIN, 6));
	show(outer, 8, 0);
	say("poll", ready(outer, POLLIN));
	for (int i = 0; i < 6; i++) {
		chain[i] = epoll_create(1);
		if (i > 0 && i < 5)
			say("chain", control(chain[i], EPOLL_CTL_ADD, chain[i - 1], EPOLLIN, 0));
	}
	say("size", epoll_create(0));
	alarm_in(50, SA_RESTART);
	say("interrupted", epoll_wait(chain[0], &(struct epoll_event){0}, 1, -1));
}

static void counters(void)
{
	int fd = eventfd(3, EFD_NONBLOCK), semaphore = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
	uint64_t value = UINT64_MAX;

	say("write max", write(fd, &value, 8));
	value--;
	say("write over", write(fd, &value, 8));
	say("short", write(fd, &value, 4));
	say("short", read(fd, &value, 4));
	say("read", read(fd, &value, 8));
	say("value", value);
	say("empty", read(fd, &value, 8));
	say("poll", ready(fd, POLLIN | POLLOUT));
	value = UINT64_MAX - 1;
	say("fill", write(fd, &value, 8));
	say("poll", ready(fd, POLLIN | POLLOUT));
	say("semaphore", read(semaphore, &value, 8) * 10 + value);
	say("semaphore", read(semaphore, &value, 8) * 10 + value);
	say("semaphore", read(semaphore, &value, 8));
	say("flags", eventfd(0, 2));
	say("seek", lseek(fd, 0, SEEK_SET));
}

static void timers(void)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	struct itimerspec setting = {{0, 10000000}, {0, 10000000}}, old;
	uint64_t count = 0;

	say("unarmed", read(fd, &count, 8));
	say("get", timerfd_gettime(fd, &old) + old.it_value.tv_nsec);
	say("set", timerfd_settime(fd, 0, &setting, NULL));
	say("early", read(fd, &count, 8));
	say("poll", poll(&(struct pollfd){fd, POLLIN, 0}, 1, -1));
	usleep(35000);
	say("read", read(fd, &count, 8));
	say("several", count >= 3);
	setting = (struct itimerspec){{0, 0}, {0, 1}};
	say("absolute past", timerfd_settime(fd, TFD_TIMER_ABSTIME, &setting, &old));
	say("interval", old.it_interval.tv_nsec);
	say("read", read(fd, &count, 8));
	say("once", count);
	say("expired", timerfd_gettime(fd, &old) + old.it_value.tv_sec + old.it_value.tv_nsec);
	setting.it_value.tv_nsec = 1000000000;
	say("invalid", timerfd_settime(fd, 0, &setting, NULL));
	say("flags", timerfd_settime(fd, 8, &setting, NULL));
	say("clock", timerfd_create(CLOCK_THREAD_CPUTIME_ID, 0));
	say("write", write(fd, &count, 8));
	say("not a timer", timerfd_gettime(0, &old));
}

static void signals(void)
{
	struct signalfd_siginfo info[3];
	sigset_t set;
	int fd;
	pid_t child;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1), sigaddset(&set, SIGRTMIN), sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	say("empty", read(fd, info, sizeof(info)));
	say("short", read(fd, info, 100));
	raise(SIGUSR1);
	sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = -7});
	say("poll", ready(fd, POLLIN));
	say("read", read(fd, info, sizeof(info)));
	for (int i = 0; i < 2; i++)
		printf("%u %d %d %d %d %d\n", info[i].ssi_signo, info[i].ssi_code, info[i].ssi_pid == (uint32_t)getpid(),
			info[i].ssi_uid == getuid(), info[i].ssi_int, info[i].ssi_fd);
	child = fork();
	if (child == 0)
		_exit(5);
	say("wait", poll(&(struct pollfd){fd, POLLIN, 0}, 1, -1));
	say("read", read(fd, info, sizeof(info)));
	printf("%u %d %d %d\n", info[0].ssi_signo, info[0].ssi_code, info[0].ssi_pid == (uint32_t)child, info[0].ssi_status);
	say("no longer", ready(fd, POLLIN));
	waitpid(child, NULL, 0);
	say("not one", signalfd(0, &set, 0));
	say("seek", lseek(fd, 5, SEEK_SET));
}

static void processes(void)
{
	int ends[2], fd;
	char c;
	pid_t child;

	pipe(ends);
	child = fork();
	if (child == 0) {
		close(ends[1]);
		read(ends[0], &c, 1);
		_exit(3);
	}
	fd = syscall(SYS_pidfd_open, child, 0);
	say("cloexec", fcntl(fd, F_GETFD));
	say("alive", ready(fd, POLLIN));
	say("nothing", syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
	close(ends[1]);
	say("end", poll(&(struct pollfd){fd, POLLIN, 0}, 1, -1));
	say("zombie", syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
	waitpid(child, NULL, 0);
	say("gone", syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
	say("open gone", syscall(SYS_pidfd_open, child, 0));
	say("invalid", syscall(SYS_pidfd_open, -1, 0));
	say("read", read(fd, &c, 1));
	say("seek", lseek(fd, 0, SEEK_SET));
}

static void drain(int fd)
{
	ssize_t length = 0, more;

	/* Whatever is on its way has arrived when nothing has come for a while. */
	while (poll(&(struct pollfd){fd, POLLIN, 0}, 1, 200) > 0 && (more = read(fd, buffer + length, 1000)) > 0)
		length += more;
	printf("  ");
	for (ssize_t i = 0; i < length; i++)
		printf(buffer[i] < ' ' || buffer[i] > '~' ? "\\%03o" : "%c", buffer[i] & 0xff);
	printf("\n");
}

static void terminals(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave, status;
	struct winsize size = {24, 80, 0, 0};
	struct termios termios;
	pid_t child;

	say("locked", open(ptsname(master), O_RDWR | O_NOCTTY));
	grantpt(master), unlockpt(master);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	say("tty", isatty(slave) && isatty(master) && strcmp(ttyname(slave), ptsname(master)) == 0);
	tcgetattr(slave, &termios);
	printf("%#x %#x %#x %#x\n", termios.c_iflag, termios.c_oflag, termios.c_cflag, termios.c_lflag);
	say("size", ioctl(slave, TIOCSWINSZ, &size));
	size.ws_col = 0;
	ioctl(master, TIOCGWINSZ, &size);
	say("columns", size.ws_col);
	write(master, "ab\177c\rnext\r\004", 11);
	drain(master), drain(slave);
	say("foreign", tcgetpgrp(slave));
	termios.c_lflag &= ~(ICANON | ECHO);
	termios.c_cc[VMIN] = 0, termios.c_cc[VTIME] = 1;
	tcsetattr(slave, TCSANOW, &termios);
	say("timed", read(slave, buffer, 10));
	write(master, "xyz", 3);
	say("raw", read(slave, buffer, 2));
	say("flush", tcflush(slave, TCIOFLUSH));
	say("flushed", read(slave, buffer, 2));
	termios.c_lflag |= ICANON | ECHO | ISIG;
	tcsetattr(slave, TCSANOW, &termios);
	child = fork();
	if (child == 0) {
		setsid();
		say("control", ioctl(slave, TIOCSCTTY, 0));
		say("foreground", tcgetpgrp(slave) == getpid() && tcgetsid(slave) == getpid());
		say("again", close(open("/dev/tty", O_RDWR)));
		fflush(stdout);
		write(slave, "go", 2);
		pause();
	}
	close(slave);
	drain(master);
	write(master, "\003", 1);
	waitpid(child, &status, 0);
	say("interrupted by", WTERMSIG(status));
	drain(master);
	say("abandoned", read(master, buffer, 1));
	say("hup", ready(master, POLLIN) & POLLHUP);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	close(master);
	say("hung up", read(slave, buffer, 1));
	say("write", write(slave, buffer, 1));
	say("poll", ready(slave, POLLIN | POLLOUT));
	say("ioctl", tcgetattr(slave, &termios));
}

int main(int argc, char **argv)
{
	const struct {
		const char *name;
		void (*run)(void);
	} cases[] = {
		{"pipes", pipes}, {"fifos", fifos}, {"polls", polls}, {"epolls", epolls}, {"counters", counters},
		{"timers", timers}, {"signals", signals}, {"processes", processes}, {"terminals", terminals},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (argc == 2 && strcmp(argv[1], cases[i].name) == 0)
			return cases[i].run(), 0;
	return 2;
}
