/*
 * Many spaces and several vCPUs in one, on the ptrace platform: what a stub shows never outlives what the space's tables say, no kick
 * is lost, stubs come and go with nothing missing, and one looks from outside as bare as it should.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/host.h"
#include "ptrace/layout.h"
#include "ptrace_rig.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define FEWER 8
#else
#define FEWER 1
#endif

enum { SHARED_AT = 0x30000000, OTHER_AT = 0x38000000, LOG_AT = 0x40000000, PROGRESS = 50 };
enum { READ_WRITE = AKVM_READ | AKVM_WRITE };

#define PIECE(name) extern const uint8_t guest_##name[], guest_##name##_at[]
PIECE(syscall);
PIECE(load);
PIECE(store);
PIECE(spin);
PIECE(writer);
PIECE(reader);

static struct rig rig;

static uint64_t peek(struct akvm_space *space, uint64_t address)
{
	uint64_t word;

	T_EQUAL(akvm_space_read(space, address, &word, sizeof(word)), sizeof(word));
	return word;
}

static void poke(struct akvm_space *space, uint64_t address, uint64_t word)
{
	T_EQUAL(akvm_space_write(space, address, &word, sizeof(word), true), sizeof(word));
}

/* Both pieces end with INT3. */
static void expect_end(const struct akvm_context *context)
{
	if (context->kind != AKVM_EXIT_FAULT || context->vector != 3)
		fprintf(stderr, "kind %u vector %u detail %u errno %d address %#llx\n", context->kind, context->vector,
			context->detail, context->host_errno, (unsigned long long)context->address);
	T_CHECK(context->kind == AKVM_EXIT_FAULT && context->vector == 3);
}

static void store(struct akvm_context *context, uint32_t vcpu, uint64_t address, uint64_t word)
{
	context->registers.rdi = address;
	context->registers.rsi = word;
	ptrace_run(&rig, context, vcpu, guest_store);
	expect_end(context);
}

static void load(struct akvm_context *context, uint32_t vcpu, uint64_t address, uint64_t word)
{
	context->registers.rdi = address;
	ptrace_run(&rig, context, vcpu, guest_load);
	expect_end(context);
	T_EQUAL(context->registers.rax, word);
}

/* ---------------------------------------------------------------- shootdown */

/* Two files that take turns at SHARED_AT, as somebody sees them who has them mapped himself. */
static struct {
	int fds[2];
	volatile uint64_t *words[2];
	struct akvm_file *files[2];
} views;

static void open_views(void)
{
	for (unsigned i = 0; i < 2; i++) {
		views.fds[i] = memfd_create("view", MFD_CLOEXEC);
		T_EQUAL(ftruncate(views.fds[i], RIG_PAGE), 0);
		views.words[i] = mmap(NULL, RIG_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, views.fds[i], 0);
		T_CHECK(views.words[i] != MAP_FAILED);
		T_EQUAL(akvm_file_open(rig.machine, views.fds[i], true, 0, &views.files[i]), 0);
	}
}

static void close_views(void)
{
	for (unsigned i = 0; i < 2; i++) {
		T_EQUAL(munmap((void *)(uintptr_t)views.words[i], RIG_PAGE), 0);
		akvm_file_close(views.files[i]);
		T_EQUAL(close(views.fds[i]), 0);
	}
}

static uint64_t view(unsigned i)
{
	return __atomic_load_n(&views.words[i][0], __ATOMIC_SEQ_CST);
}

static void show(unsigned i)
{
	T_EQUAL(akvm_space_map(rig.space, SHARED_AT, RIG_PAGE, READ_WRITE | AKVM_SHARED, views.files[i], 0), 0);
}

static void start(struct akvm_context *context, uint32_t vcpu, const uint8_t *label, uint64_t rdi)
{
	context->registers.rip = PTRACE_AT(label);
	context->registers.rdi = rdi;
	rig_submit(context, vcpu);
}

static void expect_fault(struct akvm_context *context, uint64_t address, uint32_t detail)
{
	T_CHECK(rig_wait(&rig) == context);
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(context->vector, 14);
	T_EQUAL(context->address, address);
	T_EQUAL(context->detail, detail);
}

/* A guest stores without end: to whatever is mapped now, and once a change has settled to nothing else. */
static void a_writer_never_writes_what_it_lost(void)
{
	struct akvm_context *writer = ptrace_context(&rig, rig.space), *toucher = ptrace_context(&rig, rig.space);
	unsigned now = 0;
	uint64_t before;

	show(now);
	writer->registers.rax = 1;
	start(writer, 0, guest_writer, SHARED_AT);
	for (unsigned turn = 0; turn < 1000 / FEWER; turn++) {
		RIG_UNTIL(view(now) != 0);
		/* A sibling on the other vCPU has it mapped as well, and enters between any two of these. */
		if (turn % 4 == 0)
			rig_execute(&rig, toucher, 1, PTRACE_AT(guest_load), SHARED_AT, 0);
		show(!now);
		ptrace_settle(rig.space);
		before = view(now);
		RIG_UNTIL(view(!now) > before + PROGRESS);
		T_EQUAL(view(now), before);
		__atomic_store_n(&views.words[now][0], 0, __ATOMIC_SEQ_CST);
		now = !now;
	}
	/* Read-only; and nothing at all. */
	T_EQUAL(akvm_space_protect(rig.space, SHARED_AT, RIG_PAGE, AKVM_READ), 0);
	ptrace_settle(rig.space);
	before = view(now);
	expect_fault(writer, SHARED_AT, AKVM_FAULT_ACCESS);
	T_EQUAL(view(now), before);
	for (unsigned turn = 0; turn < 200 / FEWER; turn++) {
		bool moved = turn % 2;

		show(now);
		before = view(now);
		start(writer, turn / 2 % 2, guest_writer, SHARED_AT);
		RIG_UNTIL(view(now) != before);
		if (moved)
			T_EQUAL(akvm_space_move(rig.space, SHARED_AT, OTHER_AT, RIG_PAGE), 0);
		else
			T_EQUAL(akvm_space_unmap(rig.space, SHARED_AT, RIG_PAGE), 0);
		ptrace_settle(rig.space);
		before = view(now);
		expect_fault(writer, SHARED_AT, AKVM_FAULT_UNMAPPED);
		T_EQUAL(view(now), before);
		if (moved)
			load(toucher, turn / 4 % 2, OTHER_AT, before);
	}
	T_EQUAL(akvm_context_destroy(writer), 0);
	T_EQUAL(akvm_context_destroy(toucher), 0);
}

/* Another reads without end and says what it saw, how often. */
static void a_reader_never_sees_what_it_lost(void)
{
	struct akvm_context *reader = ptrace_context(&rig, rig.space), *toucher = ptrace_context(&rig, rig.space);
	unsigned now = 0;
	uint64_t turns;

	T_EQUAL(akvm_space_map(rig.space, LOG_AT, RIG_PAGE, READ_WRITE, NULL, 0), 0);
	for (unsigned i = 0; i < 2; i++)
		views.words[i][0] = i + 1;
	show(now);
	reader->registers.rsi = LOG_AT;
	start(reader, 1, guest_reader, SHARED_AT);
	for (unsigned turn = 0; turn < 1000 / FEWER; turn++) {
		if (turn % 4 == 0)
			rig_execute(&rig, toucher, 0, PTRACE_AT(guest_load), SHARED_AT, 0);
		show(!now);
		ptrace_settle(rig.space);
		now = !now;
		turns = peek(rig.space, LOG_AT + 8);
		/* What it had read before that is on its way in a register. */
		RIG_UNTIL(peek(rig.space, LOG_AT + 8) > turns + 2);
		for (unsigned look = 0; look < 20; look++)
			T_EQUAL(peek(rig.space, LOG_AT), now + 1);
	}
	ptrace_interrupt(&rig, reader);
	T_EQUAL(akvm_context_destroy(reader), 0);
	T_EQUAL(akvm_context_destroy(toucher), 0);
}

/* Private memory: given back while a guest stores to it, it comes to others zeroed and stays so; a fork's copy stands still. */
static void private_memory_changes_hands(void)
{
	struct akvm_context *writer = ptrace_context(&rig, rig.space);
	struct akvm_space *other = ptrace_space(&rig);

	T_EQUAL(akvm_space_map(rig.space, SHARED_AT, 8 * RIG_PAGE, READ_WRITE, NULL, 0), 0);
	writer->registers.rax = 1;
	start(writer, 0, guest_writer, SHARED_AT);
	for (unsigned turn = 0; turn < 300 / FEWER; turn++) {
		uint64_t before = peek(rig.space, SHARED_AT), copied;
		struct akvm_space *child;

		RIG_UNTIL(peek(rig.space, SHARED_AT) > before + PROGRESS);
		poke(rig.space, SHARED_AT + 64, turn + 1);
		T_EQUAL(akvm_space_fork(rig.space, &child), 0);
		ptrace_settle(rig.space);
		copied = peek(child, SHARED_AT);
		RIG_UNTIL(peek(rig.space, SHARED_AT) > copied + PROGRESS);
		T_EQUAL(peek(child, SHARED_AT), copied);
		T_EQUAL(peek(child, SHARED_AT + 64), turn + 1);
		T_EQUAL(akvm_space_destroy(child), 0);

		T_EQUAL(akvm_space_discard(rig.space, SHARED_AT, 8 * RIG_PAGE), 0);
		ptrace_settle(rig.space);
		T_EQUAL(peek(rig.space, SHARED_AT + 64), 0);
		T_EQUAL(akvm_space_map(other, SHARED_AT, 32 * RIG_PAGE, READ_WRITE, NULL, 0), 0);
		for (uint64_t page = 0; page < 32; page++)
			poke(other, SHARED_AT + page * RIG_PAGE + 8, page);
		before = peek(rig.space, SHARED_AT);
		RIG_UNTIL(peek(rig.space, SHARED_AT) > before + PROGRESS);
		for (uint64_t page = 0; page < 32; page++) {
			T_EQUAL(peek(other, SHARED_AT + page * RIG_PAGE), 0);
			T_EQUAL(peek(other, SHARED_AT + page * RIG_PAGE + 8), page);
		}
		T_EQUAL(akvm_space_unmap(other, SHARED_AT, 32 * RIG_PAGE), 0);
	}
	ptrace_interrupt(&rig, writer);
	T_EQUAL(akvm_context_destroy(writer), 0);
	T_EQUAL(akvm_space_destroy(other), 0);
	T_EQUAL(akvm_space_unmap(rig.space, SHARED_AT, 8 * RIG_PAGE), 0);
}

/* ---------------------------------------------------------------- kicks */

static void no_kick_is_lost(void)
{
	struct akvm_context *contexts[] = { ptrace_context(&rig, rig.space), ptrace_context(&rig, rig.space) };
	unsigned long long seed = 1;

	for (unsigned turn = 0; turn < 4000 / FEWER; turn++) {
		struct akvm_context *context = contexts[turn % 2];
		uint64_t until_ns;

		context->registers.rip = PTRACE_AT(guest_spin);
		rig_submit(context, turn % 2);
		/* From before it is on its vCPU to well inside. */
		until_ns = akvm__now_ns() + t_random(&seed) % 100000;
		while (akvm__now_ns() < until_ns)
			;
		ptrace_interrupt(&rig, context);
		T_EQUAL(context->registers.rip, PTRACE_AT(guest_spin));
		rig_expect_none(&rig);
		/* Nothing of it is left for the next. */
		if (turn % 16 == 0) {
			ptrace_run(&rig, context, turn % 2, guest_syscall);
			T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
		}
	}
	/* Also while it goes in and out by itself. */
	for (unsigned turn = 0; turn < 400 / FEWER; turn++) {
		struct akvm_answers *answers;

		T_EQUAL(akvm_answers_create(&answers), 0);
		T_EQUAL(akvm_answers_set(answers, 39, 39), 0);
		T_EQUAL(akvm_context_answers(contexts[0], answers), 0);
		contexts[0]->registers.rip = PTRACE_AT(guest_syscall);
		contexts[0]->registers.rax = 39;
		rig_submit(contexts[0], turn % 2);
		rig_wait_running(&rig, contexts[0], 2);
		ptrace_interrupt(&rig, contexts[0]);
		T_EQUAL(contexts[0]->registers.rax, 39);
		T_EQUAL(akvm_context_answers(contexts[0], NULL), 0);
		akvm_answers_destroy(answers);
	}
	T_EQUAL(akvm_context_destroy(contexts[0]), 0);
	T_EQUAL(akvm_context_destroy(contexts[1]), 0);
}

/* ---------------------------------------------------------------- many */

/* More spaces than stubs may be: they are made anew, and nothing is missing. */
static void more_spaces_than_stubs(void)
{
	enum { SPACES = 320, BATCH = RIG_CONTEXTS / 2 };
	static struct akvm_space *spaces[SPACES];
	uint32_t most = 0, stubs;

	for (unsigned i = 0; i < SPACES; i++)
		spaces[i] = ptrace_space(&rig);
	for (unsigned turn = 0; turn < 2; turn++)
		for (unsigned i = 0; i < SPACES; i++) {
			struct akvm_context *context = ptrace_context(&rig, spaces[i]);

			snprintf(t_context, sizeof(t_context), "space %u, turn %u", i, turn);
			if (turn)
				load(context, i % 2, PTRACE_DATA + i * 8, i + 1);
			store(context, i % 2, PTRACE_DATA + i * 8, i + 1 + turn);
			load(context, !(i % 2), PTRACE_DATA + i * 8, i + 1 + turn);
			stubs = ptrace_stubs(&rig);
			most = stubs > most ? stubs : most;
			T_EQUAL(akvm_context_destroy(context), 0);
		}
	t_context[0] = 0;
	T_CHECK(most > 100 && most < SPACES);
	for (unsigned i = 0; i < SPACES; i++) {
		T_EQUAL(peek(spaces[i], PTRACE_DATA + i * 8), i + 2);
		T_EQUAL(akvm_space_destroy(spaces[i]), 0);
	}
}

/* ---------------------------------------------------------------- from outside */

static size_t slurp(pid_t pid, const char *name, char *text, size_t bytes)
{
	char path[64];
	FILE *file;
	size_t got;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	file = fopen(path, "re");
	T_CHECK(file != NULL);
	got = fread(text, 1, bytes - 1, file);
	text[got] = 0;
	fclose(file);
	return got;
}

static void expect_line(const char *status, const char *line)
{
	snprintf(t_context, sizeof(t_context), "%s", line);
	T_CHECK(strstr(status, line) != NULL);
	t_context[0] = 0;
}

static void expect_no_descriptors(pid_t pid)
{
	struct dirent *entry;
	char path[64];
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	folder = opendir(path);
	T_CHECK(folder != NULL);
	while ((entry = readdir(folder)) != NULL)
		T_CHECK(entry->d_name[0] == '.');
	closedir(folder);
}

/* Nothing but guest memory, and at the end of user space what is the stub's own; none of it the host's. */
static void expect_maps(pid_t pid)
{
	static char text[1 << 16];
	unsigned own = 0, guests = 0;

	T_CHECK(slurp(pid, "maps", text, sizeof(text)) < sizeof(text) - 1);
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		unsigned long long start, end;
		char rights[5];

		snprintf(t_context, sizeof(t_context), "%s", line);
		T_EQUAL(sscanf(line, "%llx-%llx %4s", &start, &end, rights), 3);
		if (start >= 0xffffffffff600000)
			continue;
		if (start < AKVM_USER_MAX) {
			T_CHECK(end <= AKVM_USER_MAX && strstr(line, "memfd:akvm-frames") && rights[3] == 's');
			guests++;
		} else if (start == AKVM_STUB_CODE_AT) {
			T_CHECK(end == start + AKVM_STUB_CODE_BYTES && !strcmp(rights, "r-xs"));
			own++;
		} else if (start == AKVM_STUB_PAGE_AT) {
			T_CHECK(end == start + AKVM_STUB_PAGE_BYTES && !strcmp(rights, "r--s"));
			own++;
		} else {
			T_CHECK(start == AKVM_STUB_STACK_AT && end == start + AKVM_STUB_STACK_BYTES && !strcmp(rights, "rw-p"));
			own++;
		}
	}
	t_context[0] = 0;
	T_EQUAL(own, 3);
	T_CHECK(guests >= 1);
}

static void as_bare_as_it_should_be(void)
{
	struct akvm_context *contexts[] = { ptrace_context(&rig, rig.space), ptrace_context(&rig, rig.space) };
	char text[4096];
	pid_t pid;

	T_EQUAL(setenv("AKVM_TEST_SECRET", "nobody shall see this", 1), 0);
	store(contexts[0], 0, PTRACE_DATA, 1);
	for (unsigned i = 0; i < 2; i++) {
		start(contexts[i], i, guest_spin, 0);
		rig_wait_running(&rig, contexts[i], 2);
	}
	for (unsigned i = 0; i < 2; i++) {
		RIG_UNTIL((pid = ptrace_task(&rig, 0, i)) != 0);
		RIG_UNTIL(rig_status(&rig, i).state == AKVM_VCPU_GUEST);
		slurp(pid, "status", text, sizeof(text));
		expect_line(text, "Name:\takvm-stub\n");
		expect_line(text, "NoNewPrivs:\t1\n");
		expect_line(text, "Seccomp:\t2\n");
		expect_line(text, "FDSize:\t");
		snprintf(t_context, sizeof(t_context), "TracerPid");
		T_CHECK(strtol(strstr(text, "TracerPid:") + 10, NULL, 10) != 0);
		t_context[0] = 0;
		expect_no_descriptors(pid);
		T_EQUAL(slurp(pid, "environ", text, sizeof(text)), 0);
		T_EQUAL(slurp(pid, "cmdline", text, sizeof(text)), 0);
		expect_maps(pid);
	}
	/* Who makes the mappings is filtered as well. */
	for (unsigned i = 0; i < 2; i++) {
		slurp(i ? ptrace_zygote(&rig) : ptrace_mapper(&rig, 0), "status", text, sizeof(text));
		expect_line(text, "NoNewPrivs:\t1\n");
		expect_line(text, "Seccomp:\t2\n");
	}
	for (unsigned i = 0; i < 2; i++) {
		T_EQUAL(akvm_context_interrupt(contexts[i], contexts[i]->generation, AKVM_INTERRUPT_CANCEL), 0);
		T_CHECK(rig_wait(&rig)->kind == AKVM_EXIT_INTERRUPTED);
	}
	T_EQUAL(akvm_context_destroy(contexts[0]), 0);
	T_EQUAL(akvm_context_destroy(contexts[1]), 0);
}

int main(void)
{
	ptrace_need();
	ptrace_open(&rig, 2);
	T_RUN(as_bare_as_it_should_be);
	open_views();
	T_RUN(a_writer_never_writes_what_it_lost);
	T_RUN(a_reader_never_sees_what_it_lost);
	close_views();
	T_RUN(private_memory_changes_hands);
	T_RUN(no_kick_is_lost);
	T_RUN(more_spaces_than_stubs);
	ptrace_close(&rig);
	return 0;
}
