/*
 * See ptrace_rig.h.
 */
#include "ptrace_rig.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/host.h"
#include "open_files.h"
#include "ptrace/ptrace.h"

static long descriptors_before;

void ptrace_need(void)
{
	pid_t child = fork();
	int error = 0, status;

	T_CHECK(child >= 0);
	if (child == 0) {
		alarm(60);
		for (;;)
			pause();
	}
	if (ptrace(PTRACE_SEIZE, child, NULL, NULL))
		error = errno;
	T_EQUAL(kill(child, SIGKILL), 0);
	T_EQUAL(waitpid(child, &status, 0), child);
	if (error) {
		fprintf(stderr, "PTRACE_SEIZE of a child: %s\n", strerror(error));
		t_skip("no process may trace another here");
	}
}

void ptrace_open(struct rig *rig, uint32_t vcpus)
{
	struct akvm_machine_config config = rig_config(vcpus);

	config.platform = AKVM_PLATFORM_PTRACE;
	config.memory_bytes = 64 << 20;
	memset(rig, 0, sizeof(*rig));
	akvm__host_replace(NULL);
	descriptors_before = open_files_count();
	T_EQUAL(akvm_machine_open(&config, &rig->machine), 0);
	T_EQUAL(akvm_machine_capabilities(rig->machine)->platform, AKVM_PLATFORM_PTRACE);
	rig->space = ptrace_space(rig);
}

static bool maps_has(const char *what)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	bool found = false;

	T_CHECK(maps != NULL);
	while (fgets(line, sizeof(line), maps))
		found |= strstr(line, what) != NULL;
	fclose(maps);
	return found;
}

void ptrace_close(struct rig *rig)
{
	T_EQUAL(akvm_machine_close(rig->machine, 10000000000), 0);
	ptrace_closed();
}

void ptrace_closed(void)
{
	T_EQUAL(ptrace_children(NULL, 0), 0);
	T_EQUAL(open_files_count(), descriptors_before);
	T_CHECK(!maps_has("memfd:akvm"));
}

struct akvm_space *ptrace_space(struct rig *rig)
{
	const uint64_t bytes = (uint64_t)(guest_end - guest_code);
	struct akvm_space *space;

	T_CHECK(bytes <= RIG_PAGE);
	T_EQUAL(akvm_space_create(rig->machine, &space), 0);
	T_EQUAL(akvm_space_map(space, PTRACE_CODE, RIG_PAGE, AKVM_READ | AKVM_EXECUTE, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, PTRACE_CODE, guest_code, bytes, true), bytes);
	T_EQUAL(akvm_space_map(space, PTRACE_DATA, (uint64_t)PTRACE_DATA_PAGES * RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
	return space;
}

struct akvm_context *ptrace_context(struct rig *rig, struct akvm_space *space)
{
	struct akvm_context *context;

	T_EQUAL(akvm_context_create(rig->machine, &context), 0);
	T_EQUAL(akvm_context_attach(context, space), 0);
	context->registers.rsp = PTRACE_STACK;
	T_CHECK(context->index < RIG_CONTEXTS);
	rig->contexts[context->index] = context;
	return context;
}

void ptrace_run(struct rig *rig, struct akvm_context *context, uint32_t vcpu, const uint8_t *label)
{
	if (label)
		context->registers.rip = PTRACE_AT(label);
	rig_run(rig, context, vcpu);
}

void ptrace_interrupt(struct rig *rig, struct akvm_context *context)
{
	T_EQUAL(akvm_context_interrupt(context, context->generation, AKVM_INTERRUPT_CANCEL), 0);
	T_CHECK(rig_wait(rig) == context);
	T_EQUAL(context->kind, AKVM_EXIT_INTERRUPTED);
	T_CHECK(context->interrupts & AKVM_INTERRUPT_CANCEL);
}

void ptrace_settle(struct akvm_space *space)
{
	RIG_UNTIL(akvm_space_settled(space));
}

/* ---------------------------------------------------------------- processes */

enum which { ZYGOTE, MAPPER, TASK, COUNT };

static uint32_t look(struct rig *rig, enum which which, uint32_t number, uint32_t vcpu)
{
	struct akvm__ptrace *ptrace = rig->machine->ptrace;
	struct akvm__stub *stub;
	uint32_t found;

	pthread_mutex_lock(&ptrace->lock);
	stub = ptrace->stubs;
	while (stub != NULL && number-- > 0)
		stub = stub->next;
	if (which == COUNT)
		found = ptrace->stubs_count;
	else if (which == ZYGOTE)
		found = (uint32_t)ptrace->zygote.pid;
	else if (stub == NULL)
		found = 0;
	else
		found = (uint32_t)(which == MAPPER ? stub->mapper.pid : atomic_load(&stub->tasks[vcpu].pid));
	pthread_mutex_unlock(&ptrace->lock);
	return found;
}

pid_t ptrace_zygote(struct rig *rig)
{
	return (pid_t)look(rig, ZYGOTE, 0, 0);
}

pid_t ptrace_mapper(struct rig *rig, uint32_t stub)
{
	return (pid_t)look(rig, MAPPER, stub, 0);
}

pid_t ptrace_task(struct rig *rig, uint32_t stub, uint32_t vcpu)
{
	return (pid_t)look(rig, TASK, stub, vcpu);
}

uint32_t ptrace_stubs(struct rig *rig)
{
	return look(rig, COUNT, 0, 0);
}

static pid_t parent_of(const char *pid)
{
	char path[64], text[512], *end;
	FILE *file;
	size_t bytes;

	snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
	file = fopen(path, "re");
	if (file == NULL)
		return 0;
	bytes = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[bytes] = 0;
	/* After the name, which may hold anything: state, parent. */
	end = strrchr(text, ')');
	return end != NULL && end[1] && end[2] ? (pid_t)strtol(end + 3, NULL, 10) : 0;
}

uint32_t ptrace_children(pid_t *pids, uint32_t max)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;
	uint32_t count = 0;

	T_CHECK(folder != NULL);
	while ((entry = readdir(folder)) != NULL) {
		if (!isdigit((unsigned char)entry->d_name[0]) || parent_of(entry->d_name) != getpid())
			continue;
		if (pids != NULL && count < max)
			pids[count] = (pid_t)strtol(entry->d_name, NULL, 10);
		count++;
	}
	closedir(folder);
	return count;
}
