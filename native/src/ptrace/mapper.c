/*
 * Ordering system calls from a mapper, and the first of all mappers.
 *
 * An order is a batch of calls in a page that the host alone can write. The answer comes by a system call of the mapper's
 * (pwrite() into that page's file; the position of another file for a value), because what is in memory a guest could forge.
 */
#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/host.h"
#include "ptrace/ptrace.h"

enum { PAGE = 4096, CODE_PAGE = 0, FIRST_PAGE = 1, WAIT_SLICE_NS = 100000000, REAP_NAP_NS = 200000, PAGES_MAX = 16384 };

static const uint64_t ANSWER_NS = 10000000000, REAP_NS = 2000000000;

_Static_assert(offsetof(struct akvm__commands, turn) == AKVM_COMMANDS_TURN, "layout.h");
_Static_assert(offsetof(struct akvm__commands, count) == AKVM_COMMANDS_COUNT, "layout.h");
_Static_assert(offsetof(struct akvm__commands, answer) == AKVM_COMMANDS_ANSWER, "layout.h");
_Static_assert(offsetof(struct akvm__commands, seized) == AKVM_COMMANDS_SEIZED, "layout.h");
_Static_assert(offsetof(struct akvm__commands, host) == AKVM_COMMANDS_HOST, "layout.h");
_Static_assert(offsetof(struct akvm__commands, file) == AKVM_COMMANDS_FILE, "layout.h");
_Static_assert(offsetof(struct akvm__commands, values) == AKVM_COMMANDS_VALUES, "layout.h");
_Static_assert(offsetof(struct akvm__commands, calls) == AKVM_COMMANDS_CALLS, "layout.h");
_Static_assert(sizeof(struct akvm__call) == AKVM_CALL_BYTES, "layout.h");
_Static_assert(sizeof(struct akvm__commands) <= PAGE, "layout.h");

int akvm__mapper_add(struct akvm__mapper *mapper, struct akvm__call call)
{
	struct akvm__commands *commands = mapper->commands;

	if (commands->count == AKVM_COMMANDS_MAX)
		return -E2BIG;
	commands->calls[commands->count++] = call;
	return 0;
}

static uint32_t answer_of(struct akvm__mapper *mapper)
{
	return __atomic_load_n(&mapper->commands->answer, __ATOMIC_ACQUIRE);
}

bool akvm__process_is_gone(pid_t pid)
{
	siginfo_t info = { 0 };

	/* Left unreaped: whoever drops the stub does that. */
	return AKVM__HOST->peek_exit(pid, &info) != 0 || info.si_pid != 0;
}

int akvm__mapper_run(struct akvm__mapper *mapper)
{
	struct akvm__commands *commands = mapper->commands;
	const struct timespec slice = { .tv_nsec = WAIT_SLICE_NS };
	uint64_t until_ns = akvm__now_ns() + ANSWER_NS;
	uint32_t answer;

	commands->answer = AKVM_ANSWER_NONE;
	__atomic_store_n(&commands->turn, commands->turn + 1, __ATOMIC_RELEASE);
	AKVM__HOST->futex(&commands->turn, FUTEX_WAKE, 1, NULL);
	while ((answer = answer_of(mapper)) == AKVM_ANSWER_NONE) {
		int woken = AKVM__HOST->futex(&commands->answer, FUTEX_WAIT, AKVM_ANSWER_NONE, &slice);

		/* Signals may come more often than the time is up. */
		if ((woken != 0 && errno != EAGAIN && akvm__process_is_gone(mapper->pid)) || akvm__now_ns() > until_ns)
			break;
	}
	commands->count = 0;
	if (answer == AKVM_ANSWER_NONE)
		return akvm__fail("wait for a stub's mapper", ESRCH);
	if (answer == AKVM_ANSWER_DONE)
		return 0;
	return akvm__fail("stub's mapping", answer == AKVM_ANSWER_NO_MEMORY ? ENOMEM : EACCES);
}

pid_t akvm__mapper_value(struct akvm__ptrace *ptrace)
{
	off_t value = AKVM__HOST->lseek(ptrace->values, 0, SEEK_CUR);

	/* An error of clone(2): a negative number is a group of processes to kill(2). */
	return value > AKVM_VALUE_BIAS ? (pid_t)(value - AKVM_VALUE_BIAS) : 0;
}

void akvm__process_kill(pid_t pid)
{
	if (pid != 0)
		AKVM__HOST->process_kill(pid, SIGKILL);
}

/* A page is not used again before its mapper is gone for good: until then it might still follow orders. */
static void end_process(struct akvm__ptrace *ptrace, pid_t pid, uint32_t page)
{
	akvm__process_kill(pid);
	if (ptrace->dying_count == AKVM__DYING_MAX)
		akvm__processes_reap(ptrace, true);
	/* Else it is lost, page and all. */
	if (ptrace->dying_count < AKVM__DYING_MAX)
		ptrace->dying[ptrace->dying_count++] = (struct akvm__dying){ pid, page };
}

int akvm__mapper_page(struct akvm__ptrace *ptrace, struct akvm__mapper *mapper)
{
	struct akvm__commands *commands;

	if (ptrace->pages_free_count > 0)
		mapper->page = ptrace->pages_free[--ptrace->pages_free_count];
	else if (ptrace->page_next < PAGES_MAX)
		mapper->page = ptrace->page_next++;
	else
		return akvm__fail("stub's page", ENOMEM);
	commands = (struct akvm__commands *)(void *)(ptrace->pages + (size_t)mapper->page * PAGE);
	memset(commands, 0, sizeof(*commands));
	commands->host = AKVM__HOST->process_id();
	commands->file = ptrace->file;
	commands->values = ptrace->values;
	commands->at = (uint64_t)mapper->page * PAGE;
	mapper->commands = commands;
	return 0;
}

static void free_page(struct akvm__ptrace *ptrace, uint32_t page)
{
	if (page != 0)
		ptrace->pages_free[ptrace->pages_free_count++] = page;
}

void akvm__mapper_end(struct akvm__ptrace *ptrace, struct akvm__mapper *mapper)
{
	if (mapper->pid != 0)
		end_process(ptrace, mapper->pid, mapper->page);
	else
		free_page(ptrace, mapper->page);
	*mapper = (struct akvm__mapper){ .processor = AKVM__ANYWHERE };
}

int akvm__zygote_start(struct akvm__ptrace *ptrace)
{
	struct akvm__mapper *zygote = &ptrace->zygote;
	int error;

	if (zygote->pid != 0)
		return 0;
	error = akvm__mapper_page(ptrace, zygote);
	if (error)
		return error;
	zygote->pid = AKVM__HOST->fork_stub(ptrace->file, ptrace->values, zygote->commands->at);
	/* It runs where its parent may, wherever that is now. */
	zygote->processor = AKVM__SOMEWHERE;
	if (zygote->pid < 0) {
		error = akvm__fail("clone a stub process", errno);
		zygote->pid = 0;
		akvm__mapper_end(ptrace, zygote);
		return error;
	}
	/* An empty batch: it is there, locked in, and answers. */
	error = akvm__mapper_run(zygote);
	if (error)
		akvm__mapper_end(ptrace, zygote);
	return error;
}

void akvm__process_end(struct akvm__ptrace *ptrace, pid_t pid)
{
	end_process(ptrace, pid, 0);
}

void akvm__processes_reap(struct akvm__ptrace *ptrace, bool wait)
{
	const struct timespec nap = { .tv_nsec = REAP_NAP_NS };
	uint64_t until_ns = akvm__now_ns() + REAP_NS;

	for (;;) {
		uint32_t kept = 0;

		for (uint32_t i = 0; i < ptrace->dying_count; i++) {
			struct akvm__dying dying = ptrace->dying[i];
			int status;

			if (AKVM__HOST->wait(dying.pid, &status, true) == 0)
				ptrace->dying[kept++] = dying;
			else
				free_page(ptrace, dying.page);
		}
		ptrace->dying_count = kept;
		/* One that may not be killed any more, because the program gave up its rights, ends with the program. */
		if (!wait || kept == 0 || akvm__now_ns() > until_ns)
			return;
		AKVM__HOST->nanosleep(&nap, NULL);
	}
}
