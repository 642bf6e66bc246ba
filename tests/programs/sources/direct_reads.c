/*
 * Reads of plain files, in every way in which a kernel that answers some of them on a short cut could get them wrong. The files
 * `numbers` and `others` hold 64-bit words: each its own position, and in `others` also TAG. Prints what was found; dies otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 400000, PAGE = 4096 };
#define TAG   (1ull << 40)

#define MUST(condition)                                                                          \
	do {                                                                                     \
		if (!(condition)) {                                                              \
			printf("line %d: %s, errno %d\n", __LINE__, #condition, errno);          \
			fflush(stdout);                                                          \
			_exit(1);                                                                \
		}                                                                                \
	} while (0)

static int numbers;
static uint64_t seed = 88172645463325252ull;

static uint64_t chance(uint64_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % below;
}

static void expect(const void *buffer, uint64_t offset, uint64_t length, uint64_t tag)
{
	for (uint64_t i = 0; i < length; i++) {
		uint64_t word = (offset + i) / 8 + tag;

		MUST(((const uint8_t *)buffer)[i] == ((const uint8_t *)&word)[(offset + i) % 8]);
	}
}

/* Every call, in any order and of any size. */
static void mixed(void)
{
	enum { TURNS = 1500, LARGEST = 1300000 };
	const uint64_t size = WORDS * 8ull;
	char *buffer = malloc(LARGEST);
	uint64_t position = 0, sum = 0;

	for (unsigned turn = 0; turn < TURNS; turn++) {
		uint64_t length = chance(chance(20) ? 9000 : LARGEST), offset = chance(size + 1000);
		uint64_t from = position;
		struct iovec parts[2] = { { buffer, length / 3 }, { buffer + length / 3, length - length / 3 } };
		ssize_t got;

		switch (chance(6)) {
		case 0:
			MUST(lseek(numbers, offset, SEEK_SET) == offset);
			position = offset;
			continue;
		case 1:
			MUST(lseek(numbers, -(off_t)chance(position + 1), SEEK_CUR) >= 0);
			position = lseek(numbers, 0, SEEK_CUR);
			continue;
		case 2:
			MUST(lseek(numbers, -(off_t)(offset % size), SEEK_END) == size - offset % size);
			position = size - offset % size;
			continue;
		case 3:
			from = offset;
			got = pread(numbers, buffer, length, offset);
			break;
		case 4:
			got = readv(numbers, parts, 2);
			position += got;
			break;
		default:
			got = read(numbers, buffer, length);
			position += got;
		}
		MUST(got == (from >= size ? 0 : size - from < length ? size - from : length));
		expect(buffer, from, got, 0);
		MUST(lseek(numbers, 0, SEEK_CUR) == position);
		sum = sum * 31 + got;
	}
	printf("%llu\n", (unsigned long long)sum);
	MUST(lseek(numbers, -1, SEEK_SET) == -1 && errno == EINVAL);
	MUST(lseek(numbers, 0, 99) == -1 && errno == EINVAL);
	MUST(pread(numbers, buffer, 1, -1) == -1 && errno == EINVAL);
	MUST(read(999, buffer, 1) == -1 && errno == EBADF);
	MUST(read(open("numbers", O_PATH), buffer, 1) == -1 && errno == EBADF);
	printf("refused\n");
}

/* One position for copies of a descriptor, also in another process; one's own for another open(2). */
static void shared(void)
{
	int copy = dup(numbers), own = open("numbers", O_RDONLY), status;
	uint64_t word;

	MUST(read(numbers, &word, 8) == 8 && word == 0);
	MUST(read(copy, &word, 8) == 8 && word == 1);
	MUST(read(own, &word, 8) == 8 && word == 0);
	for (unsigned i = 0; i < 50; i++) {
		if (fork() == 0) {
			MUST(read(copy, &word, 8) == 8 && word == 2 + 3 * i);
			MUST(read(own, &word, 8) == 8 && word == 1 + 2 * i);
			close(copy);
			MUST(read(copy, &word, 8) == -1 && errno == EBADF);
			MUST(read(numbers, &word, 8) == 8 && word == 3 + 3 * i);
			_exit(0);
		}
		MUST(wait(&status) > 0 && status == 0);
		MUST(read(numbers, &word, 8) == 8 && word == 4 + 3 * i);
		MUST(read(own, &word, 8) == 8 && word == 2 + 2 * i);
	}
	MUST(lseek(copy, 0, SEEK_CUR) == lseek(numbers, 0, SEEK_CUR));
	MUST(dup2(own, copy) == copy);
	MUST(lseek(copy, 0, SEEK_SET) == 0 && read(own, &word, 8) == 8 && word == 0);
	MUST(read(numbers, &word, 8) == 8 && word == 152);
	printf("shared\n");
}

/* Across execve(2). */
static void executed(char **argv)
{
	char first[16], second[16], *again[] = { argv[0], "after", first, second, NULL };
	int kept = dup(numbers), gone = open("numbers", O_RDONLY | O_CLOEXEC);
	uint64_t word;

	MUST(read(kept, &word, 8) == 8 && read(gone, &word, 8) == 8);
	sprintf(first, "%d", kept);
	sprintf(second, "%d", gone);
	execv(argv[0], again);
	MUST(!"executed");
}

static void after_exec(char **argv)
{
	uint64_t word;

	MUST(read(atoi(argv[2]), &word, 8) == 8 && word == 1);
	MUST(pread(atoi(argv[3]), &word, 8, 0) == -1 && errno == EBADF);
	printf("executed\n");
}

/* ---------------------------------------------------------------- threads */

static _Atomic uint8_t seen[WORDS];
static _Atomic bool stop;
static _Atomic uint64_t good, bad;

static void *read_on(void *argument)
{
	uint64_t words[37];
	ssize_t got;

	while ((got = read(numbers, words, sizeof(words))) > 0) {
		MUST(got % 8 == 0);
		for (int i = 0; i < got / 8; i++)
			MUST(words[i] == words[0] + i && words[i] < WORDS && seen[words[i]]++ == 0);
	}
	MUST(got == 0);
	return argument;
}

/* Each byte is somebody's, once, and nobody's read has a gap. */
static void threads(void)
{
	enum { THREADS = 3 };
	pthread_t ids[THREADS];

	for (int i = 0; i < THREADS; i++)
		MUST(pthread_create(&ids[i], NULL, read_on, NULL) == 0);
	for (int i = 0; i < THREADS; i++)
		MUST(pthread_join(ids[i], NULL) == 0);
	for (int i = 0; i < WORDS; i++)
		MUST(seen[i] == 1);
	printf("each once\n");
}

static int target;

static void *read_target(void *argument)
{
	uint64_t word;

	while (!stop) {
		uint64_t at = chance(1000);
		ssize_t got = pread(target, &word, 8, at * 8);

		if (got == 8) {
			MUST(word == at || word == at + TAG);
			good++;
		} else {
			MUST(got == -1 && (errno == EBADF || errno == ESPIPE));
			bad++;
		}
	}
	return argument;
}

/* The host's descriptors are taken again at once. */
static void *open_wrong(void *argument)
{
	while (!stop) {
		int fds[4];

		for (int i = 0; i < 4; i++)
			MUST((fds[i] = open("wrong", O_RDONLY)) >= 0);
		for (int i = 0; i < 4; i++)
			MUST(close(fds[i]) == 0);
	}
	return argument;
}

/* A descriptor that is closed and somebody else's under its readers: theirs is one file or the other, or none. */
static void races(void)
{
	pthread_t ids[3];
	int ends[2], turns = 0;

	target = 100;
	MUST(dup2(numbers, target) == target);
	for (int i = 0; i < 2; i++)
		MUST(pthread_create(&ids[i], NULL, read_target, NULL) == 0);
	MUST(pthread_create(&ids[2], NULL, open_wrong, NULL) == 0);
	for (; turns < 120 || good < 100 || bad < 1; turns++) {
		int file = open(turns % 2 ? "numbers" : "others", O_RDONLY);

		MUST(file >= 0 && close(target) == 0);
		MUST(dup2(file, target) == target && close(file) == 0);
		if (turns % 20 == 0) {
			MUST(pipe(ends) == 0 && dup2(ends[0], target) == target);
			MUST(close(ends[0]) == 0 && close(ends[1]) == 0);
		}
		MUST(turns < 100000);
	}
	stop = true;
	for (int i = 0; i < 3; i++)
		MUST(pthread_join(ids[i], NULL) == 0);
	printf("one or the other\n");
}

/* ---------------------------------------------------------------- memory */

static char *pages(int count, int protection, int flags, int fd)
{
	char *memory = mmap(NULL, count * PAGE, protection, flags, fd, 0);

	MUST(memory != MAP_FAILED);
	return memory;
}

static void memory(void)
{
	const int both = PROT_READ | PROT_WRITE, own = MAP_PRIVATE | MAP_ANONYMOUS;
	char *at = pages(64, both, own, -1), *end = at + 40 * PAGE, *other;
	int status, file = memfd_create("view", 0);

	MUST(munmap(end, 24 * PAGE) == 0);
	/* As far as there is memory, and the position stays there. */
	MUST(read(numbers, end - 100, 5000) == 100 && lseek(numbers, 0, SEEK_CUR) == 100);
	expect(end - 100, 0, 100, 0);
	MUST(read(numbers, end - 30 * PAGE, 50 * PAGE) == 30 * PAGE && lseek(numbers, 0, SEEK_CUR) == 100 + 30 * PAGE);
	expect(end - 30 * PAGE, 100, 30 * PAGE, 0);
	MUST(pread(numbers, end - PAGE, 2 * PAGE, 3) == PAGE);
	MUST(read(numbers, end, 10) == -1 && errno == EFAULT && lseek(numbers, 0, SEEK_CUR) == 100 + 30 * PAGE);
	MUST(read(numbers, (void *)-1, 10) == -1 && errno == EFAULT);
	MUST(read(numbers, (void *)(1ull << 47), 10) == -1 && errno == EFAULT);
	MUST(pread(numbers, NULL, 10, 0) == -1 && errno == EFAULT);
	MUST(lseek(numbers, 0, SEEK_CUR) == 100 + 30 * PAGE);
	/* Nothing is stored at the end of the file, so no address is bad; and none where nothing is asked for. */
	MUST(lseek(numbers, 0, SEEK_END) == WORDS * 8 && read(numbers, NULL, 10) == 0);
	MUST(pread(numbers, NULL, 0, 0) == 0);
	/* Memory that may not be written. */
	MUST(mprotect(at, PAGE, PROT_READ) == 0);
	MUST(pread(numbers, at, 8, 0) == -1 && errno == EFAULT);
	MUST(mprotect(at, PAGE, PROT_NONE) == 0);
	MUST(pread(numbers, at, 8, 0) == -1 && errno == EFAULT);
	MUST(pread(numbers, at + PAGE, 2 * PAGE, 0) == 2 * PAGE);
	MUST(mprotect(at + 3 * PAGE, PAGE, PROT_READ) == 0);
	MUST(pread(numbers, at + PAGE, 8 * PAGE, 16) == 2 * PAGE);
	/* What a child shares stays as it is. */
	memset(at + 8 * PAGE, 'x', 4 * PAGE);
	if (fork() == 0) {
		MUST(pread(numbers, at + 8 * PAGE, 4 * PAGE, 0) == 4 * PAGE);
		expect(at + 8 * PAGE, 0, 4 * PAGE, 0);
		_exit(0);
	}
	MUST(wait(&status) > 0 && status == 0);
	for (int i = 0; i < 4 * PAGE; i++)
		MUST(at[8 * PAGE + i] == 'x');
	/* Private and shared views of files. */
	other = pages(4, both, MAP_PRIVATE, numbers);
	MUST(pread(numbers, other, 3 * PAGE, 8) == 3 * PAGE);
	expect(other, 8, 3 * PAGE, 0);
	expect(other + 3 * PAGE, 3 * PAGE, PAGE, 0);
	MUST(pread(numbers, at + PAGE, PAGE, 0) == PAGE);
	expect(at + PAGE, 0, PAGE, 0);
	MUST(ftruncate(file, 4 * PAGE) == 0);
	other = pages(4, both, MAP_SHARED, file);
	MUST(pread(numbers, other + 10, 2 * PAGE, 24) == 2 * PAGE);
	expect(other + 10, 24, 2 * PAGE, 0);
	MUST(pread(file, at + 4 * PAGE, 2 * PAGE, 10) == 2 * PAGE);
	expect(at + 4 * PAGE, 24, 2 * PAGE, 0);
	printf("memory\n");
}

/* ---------------------------------------------------------------- files that change, and who is told */

static void changes(void)
{
	int file = open("scratch", O_RDWR | O_CREAT | O_TRUNC, 0600), appending, status;
	char buffer[20000];
	ssize_t got;

	memset(buffer, 'a', sizeof(buffer));
	MUST(write(file, buffer, 10000) == 10000 && lseek(file, 0, SEEK_CUR) == 10000);
	MUST(lseek(file, 4000, SEEK_SET) == 4000 && read(file, buffer, 20000) == 6000);
	MUST(ftruncate(file, 100) == 0 && read(file, buffer, 10) == 0 && pread(file, buffer, 200, 50) == 50);
	MUST(write(file, "end", 3) == 3 && lseek(file, 0, SEEK_END) == 10003);
	MUST(pread(file, buffer, 20, 9990) == 13 && !memcmp(buffer, "\0\0\0\0\0\0\0\0\0\0end", 13));
	appending = open("scratch", O_RDWR | O_APPEND);
	MUST(read(appending, buffer, 5) == 5 && write(appending, "more", 4) == 4);
	MUST(lseek(appending, 0, SEEK_CUR) == 10007 && read(appending, buffer, 5) == 0);
	MUST(lseek(appending, -7, SEEK_CUR) == 10000 && read(appending, buffer, 50) == 7 && !memcmp(buffer, "endmore", 7));
	/* Cut off and grown by another process all the time. */
	MUST(ftruncate(file, 100) == 0);
	if (fork() == 0) {
		for (int i = 0; i < 200; i++)
			MUST(ftruncate(file, i % 2 ? 16000 : 100) == 0);
		_exit(0);
	}
	while (waitpid(-1, &status, WNOHANG) == 0) {
		memset(buffer, 'z', sizeof(buffer));
		got = pread(file, buffer, sizeof(buffer), 0);
		MUST(got >= 100 && got <= 16000);
		for (int i = 0; i < sizeof(buffer); i++)
			MUST(buffer[i] == (i < 100 ? 'a' : i < got ? 0 : 'z'));
	}
	MUST(status == 0 && unlink("scratch") == 0);
	printf("changes\n");
}

static void watched(void)
{
	int watch = inotify_init1(IN_NONBLOCK);
	struct inotify_event event;
	uint64_t word;

	MUST(read(numbers, &word, 8) == 8 && inotify_add_watch(watch, "numbers", IN_ACCESS) == 1);
	MUST(read(watch, &event, sizeof(event)) == -1 && errno == EAGAIN);
	MUST(read(numbers, &word, 8) == 8 && word == 1);
	MUST(read(watch, &event, sizeof(event)) == sizeof(event) && event.mask == IN_ACCESS);
	MUST(pread(numbers, &word, 8, 0) == 8 && read(watch, &event, sizeof(event)) == sizeof(event));
	printf("watched\n");
}

static volatile sig_atomic_t alarms;

static void count_alarm(int signal)
{
	(void)signal;
	alarms++;
}

static void interrupted(void)
{
	struct itimerval often = { { 0, 5000 }, { 0, 5000 } };
	uint64_t word, reads = 0;

	signal(SIGALRM, count_alarm);
	MUST(setitimer(ITIMER_REAL, &often, NULL) == 0);
	while (alarms < 20) {
		uint64_t at = reads++ % WORDS;

		MUST(pread(numbers, &word, 8, at * 8) == 8 && word == at);
		MUST(lseek(numbers, at, SEEK_SET) == at && read(numbers, &word, 8) == (at > WORDS * 8 - 8 ? WORDS * 8 - at : 8));
	}
	printf("interrupted\n");
}

static void endless(void)
{
	uint64_t word;

	printf("begin\n");
	fflush(stdout);
	for (;;)
		MUST(pread(numbers, &word, 8, 8) == 8);
}

static void counted(void)
{
	char text[1000];
	uint64_t word;
	int io;

	for (int i = 0; i < 300; i++)
		MUST(read(numbers, &word, 8) == 8 && (i >= 200 || pread(numbers, &word, 8, 0) == 8) && (i >= 100 || lseek(numbers, 0, 0) == 0));
	MUST((io = open("/proc/self/io", O_RDONLY)) >= 0);
	text[read(io, text, sizeof(text) - 1)] = 0;
	MUST(strtoul(strstr(text, "syscr: ") + 7, NULL, 10) >= 500);
	printf("counted\n");
}

int main(int argc, char **argv)
{
	const char *what = argv[1];

	if (!strcmp(what, "after")) {
		after_exec(argv);
		return 0;
	}
	MUST((numbers = open("numbers", O_RDONLY)) >= 0);
	if (!strcmp(what, "mixed"))
		mixed();
	else if (!strcmp(what, "shared"))
		shared();
	else if (!strcmp(what, "executed"))
		executed(argv);
	else if (!strcmp(what, "threads"))
		threads();
	else if (!strcmp(what, "races"))
		races();
	else if (!strcmp(what, "memory"))
		memory();
	else if (!strcmp(what, "changes"))
		changes();
	else if (!strcmp(what, "watched"))
		watched();
	else if (!strcmp(what, "interrupted"))
		interrupted();
	else if (!strcmp(what, "endless"))
		endless();
	else if (!strcmp(what, "counted"))
		counted();
	return argc != 2;
}
