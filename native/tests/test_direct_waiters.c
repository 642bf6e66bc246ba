/*
 * Who waits for the position of a direct file while a guest reads it over and over: it is the event loop, so the wait must not last
 * longer than one read.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/host.h"
#include "rig.h"

enum { DATA = 0x10000000, DESCRIPTOR = 5, WORD = 8 };

/* Reads take as long as they are held. */
static struct {
	struct akvm__host host;
	const struct akvm__host *under;
	_Atomic bool held, reached;
	_Atomic unsigned reads;
} script;

static ssize_t scripted_read(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	script.reads++;
	script.reached = true;
	while (script.held)
		;
	/* Memory files know no RWF_NOWAIT. */
	return script.under->preadv2(fd, parts, count, offset, flags & ~RWF_NOWAIT);
}

struct waiter {
	struct akvm_direct_file *file;
	_Atomic int tid;
	_Atomic bool done;
};

static void *wait_for_position(void *argument)
{
	struct waiter *waiter = argument;

	waiter->tid = gettid();
	akvm_direct_file_lock(waiter->file);
	while (!waiter->done)
		;
	akvm_direct_file_unlock(waiter->file);
	return NULL;
}

/* Whether the thread sleeps, proc(5). */
static bool sleeps(int tid)
{
	char path[64], line[256], *end;
	ssize_t length;
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	T_CHECK(fd >= 0);
	length = read(fd, line, sizeof(line) - 1);
	T_EQUAL(close(fd), 0);
	T_CHECK(length > 0);
	line[length] = 0;
	end = strrchr(line, ')');
	return end && end[1] == ' ' && end[2] == 'S';
}

/* Who waits for the position has it after the read that is under way, though the guest's next one comes at once. */
static void readers_make_way(void)
{
	enum { TURNS = 20 };
	static const uint64_t endless[AKVM_DIRECT_CALLS] = { 0, UINT64_MAX, UINT64_MAX };
	struct akvm_direct_files *files;
	struct akvm_direct_file *file;
	struct akvm_context *context;
	struct rig rig;
	int fd = memfd_create("direct", MFD_CLOEXEC);

	T_EQUAL(pwrite(fd, endless, sizeof(endless), 0), sizeof(endless));
	rig_open(&rig, NULL, 1);
	T_EQUAL(akvm_space_map(rig.space, DATA, RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
	T_EQUAL(akvm_direct_file_create(fd, &file), 0);
	T_EQUAL(akvm_direct_files_create(endless, &files), 0);
	T_EQUAL(akvm_direct_files_set(files, DESCRIPTOR, file), 0);
	context = rig_context(&rig, RIG_SYSCALLS);
	T_EQUAL(akvm_context_direct_files(context, files), 0);
	script.under = akvm__host;
	script.host = *akvm__host;
	script.host.preadv2 = scripted_read;
	akvm__host_replace(&script.host);
	for (unsigned turn = 0; turn < TURNS; turn++) {
		struct waiter waiter = { .file = file };
		pthread_t thread;
		unsigned reads;

		script.reached = false;
		script.held = true;
		context->registers.rax = 0;
		context->registers.rdi = DESCRIPTOR;
		context->registers.rsi = DATA;
		context->registers.rdx = WORD;
		context->registers.rip = RIG_SYSCALLS;
		context->registers.rbx = UINT64_MAX;
		rig_submit(context, 0);
		RIG_UNTIL(script.reached);
		T_EQUAL(pthread_create(&thread, NULL, wait_for_position, &waiter), 0);
		RIG_UNTIL(waiter.tid && sleeps(waiter.tid));
		reads = script.reads;
		script.held = false;
		T_CHECK(rig_wait(&rig) == context);
		T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(script.reads, reads);
		waiter.done = true;
		T_EQUAL(pthread_join(thread, NULL), 0);
	}
	akvm_direct_file_release(file);
	akvm_direct_files_release(files);
	rig_close(&rig);
}

int main(void)
{
	T_RUN(readers_make_way);
	return 0;
}
