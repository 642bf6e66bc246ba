/*
 * Stubs: which there are, what they show, and how they go.
 *
 * A stub's mappings are a cache of its space's page tables. What a guest touches is mapped, with as much around it as lies in one
 * row of a host file; what the tables have lost is unmapped before a vCPU enters again (mm/shadow.c keeps account); and when the
 * host runs out of mappings, all of them go. A stub nobody is at may go as a whole, and does when there are many.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "host/host.h"
#include "ptrace/ptrace.h"

enum { STUBS_MAX = 192 };

static struct akvm__call unmap_call(uint64_t start, uint64_t end)
{
	return (struct akvm__call){ SYS_munmap, { start, end - start } };
}

static void unlink_stub(struct akvm__ptrace *ptrace, struct akvm__stub *stub)
{
	if (stub->previous != NULL)
		stub->previous->next = stub->next;
	else
		ptrace->stubs = stub->next;
	if (stub->next != NULL)
		stub->next->previous = stub->previous;
	ptrace->stubs_count--;
}

/* Nobody is at it any more: its processes are to be reaped. Platform's lock held. */
static void end_processes(struct akvm__ptrace *ptrace, struct akvm__stub *stub)
{
	for (uint32_t i = 0; i < ptrace->machine->config.vcpus; i++) {
		pid_t pid = atomic_exchange(&stub->tasks[i].pid, 0);

		if (pid != 0)
			akvm__process_end(ptrace, pid);
	}
	akvm__mapper_end(ptrace, &stub->mapper);
}

/* Platform's lock held. */
static void drop(struct akvm__ptrace *ptrace, struct akvm__stub *stub)
{
	if (stub->dropped)
		return;
	stub->dropped = true;
	unlink_stub(ptrace, stub);
	if (stub->vcpus == 0) {
		end_processes(ptrace, stub);
		return;
	}
	/* Who is at it sees that by himself, and still goes by what is written here. */
	for (uint32_t i = 0; i < ptrace->machine->config.vcpus; i++)
		akvm__process_kill(atomic_load(&stub->tasks[i].pid));
	akvm__process_kill(stub->mapper.pid);
}

void akvm__stub_drop(struct akvm__ptrace *ptrace, struct akvm__stub *stub)
{
	pthread_mutex_lock(&ptrace->lock);
	drop(ptrace, stub);
	pthread_mutex_unlock(&ptrace->lock);
}

bool akvm__stub_dropped(struct akvm__ptrace *ptrace, const struct akvm__stub *stub)
{
	bool dropped;

	pthread_mutex_lock(&ptrace->lock);
	dropped = stub->dropped;
	pthread_mutex_unlock(&ptrace->lock);
	return dropped;
}

/* The one that was not used for longest, of those nobody is at. */
static void make_room(struct akvm__ptrace *ptrace)
{
	struct akvm__stub *oldest = NULL;

	for (struct akvm__stub *stub = ptrace->stubs; stub != NULL; stub = stub->next)
		if (stub->vcpus == 0 && (oldest == NULL || stub->used < oldest->used))
			oldest = stub;
	if (oldest != NULL)
		drop(ptrace, oldest);
}

static int clone_mapper(struct akvm__vcpu *vcpu, struct akvm__mapper *mapper)
{
	struct akvm__ptrace *ptrace = vcpu->machine->ptrace;
	int error = akvm__zygote_start(ptrace);

	if (error == 0)
		error = akvm__mapper_page(ptrace, mapper);
	if (error)
		return error;
	akvm__process_settle(vcpu, ptrace->zygote.pid, &ptrace->zygote.processor);
	mapper->processor = ptrace->zygote.processor;
	(void)akvm__mapper_add(
		&ptrace->zygote,
		(struct akvm__call){ SYS_clone, { CLONE_FILES | CLONE_PARENT, 0, 0, 0, 0, mapper->commands->at } });
	error = akvm__mapper_run(&ptrace->zygote);
	if (error == -ESRCH) {
		/* There will be another. What it was to make may be there or not: the page stays with it. */
		akvm__mapper_end(ptrace, &ptrace->zygote);
		*mapper = (struct akvm__mapper){ .processor = AKVM__ANYWHERE };
		return akvm__fail("clone a stub process", EAGAIN);
	}
	if (error) {
		akvm__mapper_end(ptrace, mapper);
		return akvm__fail("clone a stub process", EAGAIN);
	}
	mapper->pid = akvm__mapper_value(ptrace);
	if (mapper->pid == 0) {
		akvm__mapper_end(ptrace, mapper);
		return akvm__fail("clone a stub process", EAGAIN);
	}
	return 0;
}

static int create_stub(struct akvm__vcpu *vcpu, struct akvm__stub **out)
{
	struct akvm__ptrace *ptrace = vcpu->machine->ptrace;
	struct akvm__stub *stub = AKVM__HOST->calloc(1, sizeof(*stub) + ptrace->machine->config.vcpus * sizeof(stub->tasks[0]));
	int error;

	if (stub == NULL)
		return akvm__fail("allocate stub", ENOMEM);
	for (uint32_t i = 0; i < ptrace->machine->config.vcpus; i++)
		stub->tasks[i].processor = AKVM__ANYWHERE;
	pthread_mutex_lock(&ptrace->lock);
	akvm__processes_reap(ptrace, false);
	if (ptrace->stubs_count >= STUBS_MAX)
		make_room(ptrace);
	error = clone_mapper(vcpu, &stub->mapper);
	if (error == -EAGAIN) {
		make_room(ptrace);
		akvm__processes_reap(ptrace, true);
		error = clone_mapper(vcpu, &stub->mapper);
	}
	if (error == 0) {
		stub->next = ptrace->stubs;
		if (stub->next != NULL)
			stub->next->previous = stub;
		ptrace->stubs = stub;
		ptrace->stubs_count++;
		stub->vcpus = 1;
		stub->owned = true;
	}
	pthread_mutex_unlock(&ptrace->lock);
	if (error)
		free(stub);
	else
		*out = stub;
	return error;
}

/* Be at it, unless it was dropped. */
static bool join(struct akvm__ptrace *ptrace, struct akvm__stub *stub)
{
	bool alive;

	pthread_mutex_lock(&ptrace->lock);
	alive = !stub->dropped;
	stub->vcpus += alive;
	stub->used = ++ptrace->clock;
	pthread_mutex_unlock(&ptrace->lock);
	return alive;
}

/* Once neither its space nor a vCPU has it. Platform's lock held; gives it back. */
static void free_if_last(struct akvm__ptrace *ptrace, struct akvm__stub *stub)
{
	bool last = !stub->owned && stub->vcpus == 0;

	pthread_mutex_unlock(&ptrace->lock);
	if (last)
		free(stub);
}

/* The space lets go of it. */
static void disown(struct akvm__ptrace *ptrace, struct akvm__stub *stub)
{
	pthread_mutex_lock(&ptrace->lock);
	drop(ptrace, stub);
	stub->owned = false;
	free_if_last(ptrace, stub);
}

void akvm__stub_leave(struct akvm__vcpu *vcpu, struct akvm__stub *stub)
{
	struct akvm__ptrace *ptrace = vcpu->machine->ptrace;

	pthread_mutex_lock(&ptrace->lock);
	if (--stub->vcpus == 0 && stub->dropped)
		end_processes(ptrace, stub);
	free_if_last(ptrace, stub);
}

/* Order what the space's tables have lost to be taken away. True when there is something. */
static bool order_losses(struct akvm__stub *stub, const struct akvm_space *space)
{
	const struct akvm__range *ranges;
	uint32_t count = akvm__space_stale(space, &ranges);

	for (uint32_t i = 0; i < count; i++)
		(void)akvm__mapper_add(&stub->mapper, unmap_call(ranges[i].start, ranges[i].end));
	return count > 0;
}

int akvm__stub_refresh(struct akvm__stub *stub, struct akvm_space *space)
{
	int error = order_losses(stub, space) ? akvm__mapper_run(&stub->mapper) : 0;

	/* To take away a part needs one mapping more (vm.max_map_count); to take away all does not. */
	if (error == -ENOMEM) {
		(void)akvm__mapper_add(&stub->mapper, unmap_call(AKVM_USER_MIN, AKVM_USER_MAX));
		error = akvm__mapper_run(&stub->mapper);
	}
	if (error == 0)
		akvm__space_stale_done(space);
	return error;
}

int akvm__stub_enter(struct akvm__vcpu *vcpu, struct akvm_space *space, struct akvm__stub **out)
{
	struct akvm__ptrace *ptrace = vcpu->machine->ptrace;
	void **shadow = akvm__space_shadow(space);
	struct akvm__stub *stub = *shadow;
	int error;

	if (stub != NULL && !join(ptrace, stub)) {
		disown(ptrace, stub);
		*shadow = stub = NULL;
	}
	if (stub == NULL) {
		error = create_stub(vcpu, &stub);
		if (error)
			return error;
		*shadow = stub;
		akvm__space_stale_done(space);
	}
	akvm__process_settle(vcpu, stub->mapper.pid, &stub->mapper.processor);
	error = akvm__stub_refresh(stub, space);
	if (error) {
		akvm__stub_drop(ptrace, stub);
		akvm__stub_leave(vcpu, stub);
		return error;
	}
	*out = stub;
	return 0;
}

/* Platform's lock held. */
static int clone_task(struct akvm__ptrace *ptrace, struct akvm__stub *stub, uint32_t *nonce, pid_t *pid)
{
	int error;

	*nonce = ++ptrace->nonce ? ptrace->nonce : ++ptrace->nonce;
	(void)akvm__mapper_add(&stub->mapper,
			       (struct akvm__call){ SYS_clone, { CLONE_VM | CLONE_FILES | CLONE_PARENT, 0, 0, 0, *nonce, 0 } });
	error = akvm__mapper_run(&stub->mapper);
	*pid = error ? 0 : akvm__mapper_value(ptrace);
	return error || *pid != 0 ? error : akvm__fail("clone a stub task", EAGAIN);
}

int akvm__stub_task(struct akvm__vcpu *vcpu, struct akvm__stub *stub, struct akvm__stub_task **out)
{
	struct akvm__stub_task *task = &stub->tasks[vcpu->index];
	struct akvm__ptrace *ptrace = vcpu->machine->ptrace;
	struct akvm__commands *commands = stub->mapper.commands;
	uint32_t nonce;
	pid_t pid;
	int error;

	*out = task;
	if (task->pid != 0)
		return 0;
	task->processor = stub->mapper.processor;
	pthread_mutex_lock(&ptrace->lock);
	error = clone_task(ptrace, stub, &nonce, &pid);
	if (error == -EAGAIN) {
		make_room(ptrace);
		akvm__processes_reap(ptrace, true);
		error = clone_task(ptrace, stub, &nonce, &pid);
	}
	pthread_mutex_unlock(&ptrace->lock);
	if (error)
		return error;
	error = akvm__task_seize(task, pid);
	/* The host's kernel forbids to trace the dead. */
	if (error != 0 && akvm__process_is_gone(pid))
		error = akvm__fail("ptrace PTRACE_SEIZE", ESRCH);
	if (error == 0) {
		__atomic_store_n(&commands->seized, nonce, __ATOMIC_RELEASE);
		AKVM__HOST->futex(&commands->seized, FUTEX_WAKE, INT32_MAX, NULL);
		/* It traps when it has locked itself in. */
		error = akvm__task_wait(task);
	}
	if (error)
		akvm__stub_drop(ptrace, stub);
	return error;
}

static int map_once(struct akvm__stub *stub, const struct akvm__translation *translation)
{
	uint64_t protection = PROT_READ | (translation->access & AKVM_WRITE ? PROT_WRITE : 0) |
			      (translation->access & AKVM_EXECUTE ? PROT_EXEC : 0);

	(void)akvm__mapper_add(&stub->mapper,
			       (struct akvm__call){ SYS_mmap,
						    { translation->address, translation->length, protection,
						      MAP_SHARED | MAP_FIXED, (uint64_t)translation->fd, translation->offset } });
	return akvm__mapper_run(&stub->mapper);
}

/* What the tables have at `address`, after what they have lost: else the next entry would take away what is mapped now. */
static int map_current(struct akvm__stub *stub, struct akvm_space *space, uint64_t address)
{
	struct akvm__translation translation;
	int error;

	/* Nothing there: the guest comes again. */
	if (!akvm__space_translation(space, address, &translation))
		return 0;
	(void)order_losses(stub, space);
	error = map_once(stub, &translation);
	if (error == 0)
		akvm__space_stale_done(space);
	return error;
}

int akvm__stub_map(struct akvm__stub *stub, struct akvm_space *space, uint64_t address)
{
	int error = map_current(stub, space, address);

	if (error == -EACCES && akvm__space_copy_page(space, address) == AKVM_FAULT_NONE) {
		/* A file of a file system from which nothing may be executed: the guest's space is not its concern. */
		error = map_current(stub, space, address);
	} else if (error == -ENOMEM) {
		/* Too many mappings, for all one knows (vm.max_map_count). */
		(void)akvm__mapper_add(&stub->mapper, unmap_call(AKVM_USER_MIN, AKVM_USER_MAX));
		error = akvm__mapper_run(&stub->mapper);
		if (error == 0)
			error = map_current(stub, space, address);
	}
	return error;
}

void akvm__stub_forget(void *opaque, void *shadow)
{
	struct akvm_machine *machine = opaque;
	struct akvm__ptrace *ptrace = machine->ptrace;
	struct akvm__stub *stub = shadow;

	/* With the machine's end all stubs went; what is left is a record. */
	if (ptrace == NULL) {
		free(stub);
		return;
	}
	disown(ptrace, stub);
}

void akvm__stubs_close(struct akvm__ptrace *ptrace)
{
	pthread_mutex_lock(&ptrace->lock);
	while (ptrace->stubs != NULL)
		drop(ptrace, ptrace->stubs);
	akvm__mapper_end(ptrace, &ptrace->zygote);
	akvm__processes_reap(ptrace, true);
	pthread_mutex_unlock(&ptrace->lock);
}
