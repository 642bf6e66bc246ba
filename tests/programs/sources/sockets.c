/*
 * Sockets between processes and threads: what only a program with several of them can see, printed line by line.
 *
 * sockets CASE: rights, pipe, restart, timeout, stream, names, interfaces.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call) check(#call, (long)(call))

static long check(const char *what, long result)
{
	if (result < 0) {
		printf("%s: %s\n", what, strerror(errno));
		exit(1);
	}
	return result;
}

/* What a call that may fail answered. */
static void told(const char *what, long result)
{
	printf("%s %ld %s\n", what, result, result < 0 ? strerror(errno) : "");
}

static volatile int signals;

static void on_signal(int number)
{
	signals++;
	printf("signal %d\n", number);
}

static void handle(int number, int flags)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = flags };
	CHECK(sigaction(number, &action, NULL));
}

static void reap(void)
{
	int status;
	CHECK(wait(&status));
	printf("child ended with %d\n", WEXITSTATUS(status));
}

/* A child sends the end of a pipe; what is written there afterwards arrives here. */
static void rights(void)
{
	int pair[2], ends[2];
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char text[32] = { 0 };
	struct iovec vector = { text, sizeof text - 1 };
	struct msghdr message = {
		.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
	};

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	fflush(stdout);
	if (!CHECK(fork())) {
		CHECK(pipe(ends));
		struct cmsghdr *first = CMSG_FIRSTHDR(&message);
		first->cmsg_level = SOL_SOCKET;
		first->cmsg_type = SCM_RIGHTS;
		first->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(first), &ends[0], sizeof(int));
		strcpy(text, "take this");
		vector.iov_len = 9;
		CHECK(sendmsg(pair[1], &message, 0));
		CHECK(close(ends[0]));
		CHECK(write(ends[1], "through the pipe", 16));
		_exit(3);
	}
	printf("received %ld bytes: ", CHECK(recvmsg(pair[0], &message, MSG_CMSG_CLOEXEC)));
	printf("%s, flags %d\n", text, message.msg_flags & MSG_CTRUNC);
	memcpy(ends, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	reap();
	memset(text, 0, sizeof text);
	CHECK(read(ends[0], text, sizeof text));
	printf("%s\n", text);
	printf("then %ld\n", (long)read(ends[0], text, sizeof text));
}

static void broken_pipe(void)
{
	int pair[2];
	handle(SIGPIPE, 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	close(pair[1]);
	told("write", write(pair[0], "x", 1));
	told("send", send(pair[0], "x", 1, 0));
	told("quietly", send(pair[0], "x", 1, MSG_NOSIGNAL));
	printf("signals %d\n", signals);
}

/* A signal ends a receive, restarts it, or ends it in any case when it has a timeout. */
static void restart(void)
{
	static const int flags[] = { 0, SA_RESTART, SA_RESTART };
	for (int i = 0; i < 3; i++) {
		int pair[2];
		char byte;
		CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
		handle(SIGALRM, flags[i]);
		struct timeval limit = { .tv_sec = i == 2 ? 30 : 0 };
		CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
		fflush(stdout);
		if (!CHECK(fork())) {
			usleep(300000);
			CHECK(write(pair[1], "x", 1));
			_exit(0);
		}
		struct itimerval timer = { .it_value = { .tv_usec = 50000 } };
		CHECK(setitimer(ITIMER_REAL, &timer, NULL));
		long result = recv(pair[0], &byte, 1, 0);
		told("recv", result);
		reap();
	}
}

static void timeout(void)
{
	int pair[2];
	char byte;
	struct timeval limit = { .tv_usec = 30000 };
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
	told("recv", recv(pair[0], &byte, 1, 0));
	told("read", read(pair[0], &byte, 1));
}

/* Megabytes through a TCP connection between two processes; the reader waits with epoll. */
static void stream(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof address;
	int listener = CHECK(socket(AF_INET, SOCK_STREAM, 0));
	CHECK(bind(listener, (struct sockaddr *)&address, length));
	CHECK(listen(listener, 1));
	CHECK(getsockname(listener, (struct sockaddr *)&address, &length));
	fflush(stdout);
	if (!CHECK(fork())) {
		int client = CHECK(socket(AF_INET, SOCK_STREAM, 0));
		static char block[100000];
		CHECK(connect(client, (struct sockaddr *)&address, length));
		for (int i = 0; i < 50; i++) {
			memset(block, i, sizeof block);
			for (size_t done = 0; done < sizeof block;)
				done += CHECK(write(client, block + done, sizeof block - done));
		}
		CHECK(shutdown(client, SHUT_WR));
		printf("answer %ld\n", CHECK(read(client, block, sizeof block)));
		fflush(stdout);
		_exit(0);
	}
	int server = CHECK(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
	int poller = CHECK(epoll_create1(0));
	struct epoll_event event = { .events = EPOLLIN };
	CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, server, &event));
	unsigned long total = 0, sum = 0;
	for (;;) {
		static unsigned char block[65536];
		CHECK(epoll_wait(poller, &event, 1, 20000));
		long count = CHECK(read(server, block, sizeof block));
		if (!count)
			break;
		total += count;
		for (long i = 0; i < count; i++)
			sum += block[i];
	}
	printf("received %lu, sum %lu\n", total, sum);
	fflush(stdout);
	CHECK(write(server, "ok", 2));
	reap();
}

/* A child's connection to a path is waited for, and is told who it is. */
static void names(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char folder[] = "/tmp/socketsXXXXXX";
	struct ucred peer;
	socklen_t length = sizeof peer;
	if (!mkdtemp(folder))
		exit(1);
	snprintf(address.sun_path, sizeof address.sun_path, "%s/name", folder);
	int listener = CHECK(socket(AF_UNIX, SOCK_STREAM, 0));
	CHECK(bind(listener, (struct sockaddr *)&address, sizeof address));
	told("again", bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
	CHECK(listen(listener, 1));
	pid_t child = CHECK(fork());
	if (!child) {
		usleep(50000);
		int client = CHECK(socket(AF_UNIX, SOCK_STREAM, 0));
		CHECK(connect(client, (struct sockaddr *)&address, sizeof address));
		_exit(read(client, &peer, 1) == 0 ? 7 : 8);
	}
	int server = CHECK(accept(listener, NULL, NULL));
	CHECK(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &peer, &length));
	printf("peer is the child: %d, my user: %d\n", peer.pid == child, peer.uid == getuid());
	close(server);
	reap();
	close(listener);
	told("gone", connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
	CHECK(unlink(address.sun_path));
	told("gone", connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
	CHECK(rmdir(folder));
}

static void interfaces(void)
{
	struct ifaddrs *all;
	CHECK(getifaddrs(&all));
	for (struct ifaddrs *one = all; one; one = one->ifa_next)
		if (!strcmp(one->ifa_name, "lo") && one->ifa_addr && one->ifa_addr->sa_family != AF_PACKET)
			printf("%s family %d flags %x\n", one->ifa_name, one->ifa_addr->sa_family, one->ifa_flags & 0xffff);
	printf("index %u\n", if_nametoindex("lo"));
	printf("none %u\n", if_nametoindex("nothing"));
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} cases[] = { { "rights", rights }, { "pipe", broken_pipe }, { "restart", restart },      { "timeout", timeout },
		      { "stream", stream }, { "names", names },      { "interfaces", interfaces } };
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		if (argc > 1 && !strcmp(argv[1], cases[i].name)) {
			cases[i].run();
			return 0;
		}
	}
	return 2;
}
