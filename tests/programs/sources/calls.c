/* System calls and their errors, each with the result Linux gives; run in a folder with known files. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define SHOW(call) show(#call, (long)(call))

static void show(const char *text, long result)
{
	if (result == -1)
		printf("%s = -1 %s\n", text, strerror(errno));
	else
		printf("%s = %ld\n", text, result);
}

static void files(void)
{
	char buffer[256] = "", other[16];
	struct iovec vector[3] = { { buffer, 3 }, { NULL, 0 }, { other, 5 } };
	struct stat status;
	int fd = open("text", O_RDONLY);

	SHOW(read(fd, buffer, 5));
	SHOW(lseek(fd, 0, SEEK_CUR));
	SHOW(pread(fd, buffer, 10, 3));
	printf("%.10s\n", buffer);
	SHOW(readv(fd, vector, 3));
	printf("%.3s %.5s\n", buffer, other);
	SHOW(lseek(fd, -4, SEEK_END));
	SHOW(read(fd, buffer, sizeof(buffer)));
	SHOW(read(fd, buffer, sizeof(buffer)));
	SHOW(lseek(fd, -1, SEEK_SET));
	SHOW(lseek(fd, 0, 99));
	SHOW(lseek(fd, 0, SEEK_SET));
	SHOW(syscall(SYS_read, fd, 0, 5));
	SHOW(lseek(fd, 0, SEEK_CUR));
	SHOW(write(fd, "x", 1));
	SHOW(fstat(fd, &status));
	printf("%o %ld %ld\n", status.st_mode, (long)status.st_size, (long)status.st_nlink);
	SHOW(ioctl(fd, TCGETS, buffer));
	SHOW(fcntl(fd, F_GETFL) & O_ACCMODE);
	SHOW(fcntl(fd, F_GETFD));
	SHOW(fcntl(fd, F_DUPFD, 100));
	SHOW(fcntl(fd, F_DUPFD_CLOEXEC, 100));
	SHOW(fcntl(101, F_GETFD));
	SHOW(dup2(fd, 50));
	SHOW(dup3(fd, fd, 0));
	SHOW(close(50));
	SHOW(close(50));
	SHOW(close(-1));
	SHOW(read(50, buffer, 1));
	SHOW(sendfile(1, fd, NULL, 7));
	SHOW(lseek(fd, 0, SEEK_CUR));
	off_t offset = 2;
	SHOW(sendfile(1, fd, &offset, 4));
	printf("offset %ld\n", (long)offset);
	SHOW(close(fd));
}

static void paths(void)
{
	char buffer[256];
	struct stat status;

	SHOW(open("missing", O_RDONLY));
	SHOW(open("text/x", O_RDONLY));
	SHOW(open("", O_RDONLY));
	SHOW(open("text", O_RDONLY | O_DIRECTORY));
	SHOW(open("folder", O_WRONLY));
	SHOW(open("link", O_RDONLY | O_NOFOLLOW));
	SHOW(open("text", O_CREAT | O_EXCL, 0600));
	SHOW(open((char *)1, O_RDONLY));
	SHOW(stat("link", &status));
	printf("%o %ld\n", status.st_mode, (long)status.st_size);
	SHOW(lstat("link", &status));
	printf("%o %ld\n", status.st_mode, (long)status.st_size);
	SHOW(syscall(SYS_stat, "text", 1));
#ifdef STATX_BASIC_STATS
	struct statx extended;
	SHOW(statx(AT_FDCWD, "text", 0, STATX_BASIC_STATS, &extended));
	printf("%o %llu %u\n", extended.stx_mode, extended.stx_size, extended.stx_nlink);
#endif
	SHOW(readlink("link", buffer, sizeof(buffer)));
	SHOW(readlink("link", buffer, 2));
	SHOW(readlink("text", buffer, sizeof(buffer)));
	SHOW(access("text", R_OK));
	SHOW(access("text", X_OK));
	SHOW(access("missing", F_OK));
	SHOW(chdir("text"));
	SHOW(chdir("folder"));
	SHOW(access("inner", F_OK));
	SHOW(access("../text", F_OK));
	printf("%s\n", strrchr(getcwd(buffer, sizeof(buffer)), '/'));
	SHOW(syscall(SYS_getcwd, buffer, 2));
	SHOW(chdir(".."));
	int folder = open("folder", O_RDONLY | O_DIRECTORY);
	SHOW(faccessat(folder, "inner", R_OK, 0));
	SHOW(read(folder, buffer, 10));
	DIR *entries = fdopendir(folder);
	int count = 0;
	for (struct dirent *entry; (entry = readdir(entries));)
		count += entry->d_type == DT_DIR ? 100 : 1;
	printf("entries %d\n", count);
	SHOW(closedir(entries));
	int device = open("/dev/null", O_RDWR);
	SHOW(write(device, "gone", 4));
	SHOW(read(device, buffer, 4));
	SHOW(close(device));
}

static void memory(void)
{
	long page = 4096;
	char *area = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open("text", O_RDONLY);

	memset(area, 'a', 8 * page);
	SHOW(mprotect(area, page, PROT_READ));
	SHOW(mprotect(area + 1, page, PROT_READ));
	SHOW(munmap(area + 2 * page, page));
	SHOW(mprotect(area, 8 * page, PROT_READ));
	SHOW(mprotect(area + 3 * page, page, PROT_READ | PROT_WRITE));
	SHOW(madvise(area + 3 * page, page, MADV_DONTNEED));
	printf("%d %d\n", area[0], area[3 * page]);
	SHOW(madvise(area, page, 9999));
	SHOW(read(fd, area, 10));
	SHOW(read(fd, area + 4 * page - 3, 10));
	char *moved = mremap(area + 3 * page, page, 64 * page, MREMAP_MAYMOVE);
	printf("%.3s %d\n", moved + page - 3, moved[page]);
	SHOW(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	SHOW(mmap(NULL, page, PROT_READ, MAP_PRIVATE, 99, 0) == MAP_FAILED);
	SHOW(mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	char *view = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	printf("%.12s", view);
	view[0] = '#';
	printf("%.12s", view);
	lseek(fd, 0, SEEK_SET);
	SHOW(read(fd, area + 5 * page, 12));
	SHOW(munmap(view, page));
	void *end = sbrk(0);
	SHOW(sbrk(1 << 20) == end);
	memset(end, 1, 1 << 20);
	SHOW(sbrk(-(1 << 20)) == (char *)end + (1 << 20));
	close(fd);
}

static void process(void)
{
	struct timespec time, resolution;
	struct rlimit limit;
	struct utsname name;
	unsigned char random[64] = { 0 };
	char title[17] = "";
	sigset_t set;
	int sum = 0;

	SHOW(clock_gettime(CLOCK_MONOTONIC, &time) || time.tv_sec < 0);
	SHOW(clock_getres(CLOCK_REALTIME, &resolution));
	SHOW(syscall(SYS_clock_gettime, 99, &time));
	SHOW(nanosleep(&(struct timespec){ 0, 1000 }, NULL));
	SHOW(nanosleep(&(struct timespec){ 0, -1 }, NULL));
	SHOW(getrandom(random, sizeof(random), 0));
	for (int i = 0; i < 64; i++)
		sum |= random[i];
	printf("random %d\n", sum != 0);
	SHOW(getrandom(random, 1, 99));
	SHOW(getrlimit(RLIMIT_STACK, &limit));
	SHOW(getrlimit(99, &limit));
	SHOW(uname(&name));
	printf("%s %s\n", name.sysname, name.machine);
	SHOW(prctl(PR_SET_NAME, "a-rather-long-name-for-a-thread"));
	SHOW(prctl(PR_GET_NAME, title));
	printf("%s\n", title);
	SHOW(getuid() == geteuid());
	SHOW(getpid() == gettid() && getppid() >= 0);
	SHOW(kill(getpid(), 0));
	SHOW(kill(getpid(), 99));
	SHOW(raise(SIGCHLD));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	SHOW(sigprocmask(SIG_BLOCK, &set, NULL));
	SHOW(raise(SIGUSR1));
	SHOW(sigpending(&set));
	SHOW(sigismember(&set, SIGUSR1));
	SHOW(signal(SIGUSR1, SIG_IGN) == SIG_DFL);
	SHOW(sigpending(&set));
	SHOW(sigismember(&set, SIGUSR1));
	SHOW(signal(SIGKILL, SIG_IGN) == SIG_ERR);
	SHOW(syscall(9999));
}

int main(void)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	files();
	paths();
	memory();
	process();
	return 0;
}
