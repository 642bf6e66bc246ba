/*
 * Changes of present page-table entries reach the guest, on hosts that see the core's stores and on hosts that see only
 * ring 0's, however often the ring-0 routine is cut short and however late a kick comes.
 */
#include <semaphore.h>

#include "rig.h"

enum { DATA = 0x10000000, PAGES = 1200, EDIT_BYTES = AKVM_STUB_FLUSH - AKVM_STUB_EDIT };

static const struct fake_options kinds[] = {
	{ 0 },
	{ .pcid = true },
	{ .shadow_paging = true },
	{ .shadow_paging = true, .syscall_as_fault = true, .int80_as_ud = true },
};

static bool loads(struct rig *rig, struct akvm_context *context, uint64_t address, uint64_t *value)
{
	rig_execute(rig, context, 0, RIG_LOAD, address, 0);
	T_EQUAL(context->kind, AKVM_EXIT_FAULT);
	*value = context->registers.rax;
	return context->vector == 3;
}

/* Pages written, read by the guest, taken away, given back: each time the guest sees what is so now. */
static void change_and_look(struct rig *rig, struct akvm_context *context, unsigned pages)
{
	uint64_t value, number;

	T_EQUAL(akvm_space_map(rig->space, DATA, (uint64_t)pages * RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
	for (number = 0; number < pages; number++) {
		rig_execute(rig, context, 0, RIG_STORE, DATA + number * RIG_PAGE, 0x1000 + number);
		T_EQUAL(context->vector, 3);
	}
	T_CHECK(loads(rig, context, DATA, &value) && value == 0x1000);
	/* Every second page, so that there are many runs of edits. */
	for (number = 1; number < pages; number += 2)
		T_EQUAL(akvm_space_unmap(rig->space, DATA + number * RIG_PAGE, RIG_PAGE), 0);
	T_EQUAL(akvm_space_protect(rig->space, DATA, RIG_PAGE, AKVM_READ), 0);
	for (number = 0; number < pages; number++) {
		if (number % 2)
			T_CHECK(!loads(rig, context, DATA + number * RIG_PAGE, &value) && context->detail == AKVM_FAULT_UNMAPPED);
		else
			T_CHECK(loads(rig, context, DATA + number * RIG_PAGE, &value) && value == 0x1000 + number);
	}
	rig_execute(rig, context, 0, RIG_STORE, DATA, 7);
	T_EQUAL(context->vector, 14);
	T_EQUAL(context->detail, AKVM_FAULT_ACCESS);
	T_EQUAL(akvm_space_discard(rig->space, DATA, RIG_PAGE), 0);
	T_CHECK(loads(rig, context, DATA, &value) && value == 0);
	T_EQUAL(akvm_space_unmap(rig->space, DATA, (uint64_t)pages * RIG_PAGE), 0);
	T_CHECK(!loads(rig, context, DATA, &value));
}

static void every_kind_of_host(void)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct akvm_memory_status before, after;
		struct rig rig;

		rig_open(&rig, &kinds[i], 1);
		T_EQUAL(akvm_memory_status(rig.machine, &before), 0);
		change_and_look(&rig, rig_context(&rig, 0), 64);
		T_EQUAL(akvm_memory_status(rig.machine, &after), 0);
		T_EQUAL(after.edits > before.edits, kinds[i].shadow_paging);
		rig_close(&rig);
	}
}

/* A payload of 8 KiB holds 341 runs of one word. */
static void more_than_one_payload(void)
{
	struct rig rig;

	rig_open(&rig, &kinds[2], 1);
	change_and_look(&rig, rig_context(&rig, 0), PAGES);
	rig_close(&rig);
}

static void cut_anywhere(void)
{
	struct akvm_context *context;
	unsigned places = 0, cuts;
	struct rig rig;

	rig_open(&rig, &kinds[2], 1);
	context = rig_context(&rig, 0);
	for (uint32_t offset = 0; offset < EDIT_BYTES; offset++) {
		cuts = fake_cuts();
		for (unsigned skip = 0; skip < 14; skip += 13) {
			snprintf(t_context, sizeof(t_context), "offset %u, skip %u", offset, skip);
			fake_cut(AKVM_STUB_EDIT + offset, skip, 3);
			change_and_look(&rig, context, 24);
		}
		places += fake_cuts() > cuts;
	}
	t_context[0] = 0;
	fake_cut(0, 0, 0);
	/* lods, mov, lods, mov, rep movs, dec, jnz, mov cr3, hlt. */
	T_EQUAL(places, 9);
	rig_close(&rig);
}

static void cut_at_random(void)
{
	struct rig rig;

	rig_open(&rig, &kinds[2], 1);
	fake_cut_randomly(20);
	change_and_look(&rig, rig_context(&rig, 0), 64);
	fake_cut_randomly(0);
	T_CHECK(fake_cuts() > 50);
	rig_close(&rig);
}

/* A kick that comes after its run has ended must not stop the edits of the next run. */
static void late_kick(void)
{
	struct akvm_context *context;
	uint64_t value;
	struct rig rig;

	rig_open(&rig, &kinds[2], 1);
	context = rig_context(&rig, 0);
	T_EQUAL(akvm_space_map(rig.space, DATA, RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
	T_CHECK(loads(&rig, context, DATA, &value));
	T_EQUAL(akvm_space_unmap(rig.space, DATA, RIG_PAGE), 0);
	__atomic_store_n(&fake_vcpu(0)->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	T_CHECK(!loads(&rig, context, DATA, &value));
	rig_close(&rig);
}

static void space_is_reaped_after_late_kick(void)
{
	struct akvm_memory_status before, after;
	struct akvm_context *context;
	struct akvm_space *space;
	unsigned turns = 0;
	uint64_t value;
	struct rig rig;

	rig_open(&rig, &kinds[2], 1);
	T_EQUAL(akvm_memory_status(rig.machine, &before), 0);
	context = rig_context(&rig, 0);
	space = rig_space(&rig, DATA, 1);
	T_EQUAL(akvm_context_attach(context, space), 0);
	T_CHECK(loads(&rig, context, DATA, &value));
	T_EQUAL(akvm_context_attach(context, rig.space), 0);
	__atomic_store_n(&fake_vcpu(0)->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	T_EQUAL(akvm_space_destroy(space), 0);
	/* The vCPU reaps before it idles again, or within some runs when it never does. */
	do {
		T_CHECK(turns++ < 100000);
		rig_execute(&rig, context, 0, RIG_SYSCALL, 0, 0);
		T_EQUAL(akvm_memory_status(rig.machine, &after), 0);
	} while (after.spaces != before.spaces);
	rig_close(&rig);
}

static sem_t release;
static _Atomic unsigned held;

static struct fake_step hold(struct fake_cpu *cpu, void *opaque)
{
	(void)cpu;
	(void)opaque;
	atomic_fetch_add(&held, 1);
	T_EQUAL(sem_wait(&release), 0);
	return (struct fake_step){ .action = FAKE_SYSCALL };
}

/* A vCPU that always has a next context reaps too, once a second space waits. */
static void space_is_reaped_between_contexts(void)
{
	struct akvm_memory_status before, after;
	struct akvm_space *spaces[2];
	struct rig rig;

	rig_open(&rig, &kinds[2], 1);
	T_EQUAL(sem_init(&release, 0, 0), 0);
	fake_set_script(hold, NULL);
	T_EQUAL(akvm_memory_status(rig.machine, &before), 0);
	for (unsigned i = 0; i < 2; i++)
		spaces[i] = rig_space(&rig, DATA, 1);
	rig_submit(rig_context(&rig, 0), 0);
	rig_submit(rig_context(&rig, 0), 0);
	RIG_UNTIL(atomic_load(&held) == 1);
	for (unsigned i = 0; i < 2; i++)
		T_EQUAL(akvm_space_destroy(spaces[i]), 0);
	T_EQUAL(sem_post(&release), 0);
	RIG_UNTIL(atomic_load(&held) == 2);
	T_EQUAL(akvm_memory_status(rig.machine, &after), 0);
	T_EQUAL(after.spaces, before.spaces);
	T_EQUAL(sem_post(&release), 0);
	for (unsigned i = 0; i < 2; i++)
		T_EQUAL(rig_wait(&rig)->kind, AKVM_EXIT_SYSCALL);
	T_EQUAL(sem_destroy(&release), 0);
	rig_close(&rig);
}

int main(void)
{
	T_RUN(every_kind_of_host);
	T_RUN(more_than_one_payload);
	T_RUN(late_kick);
	T_RUN(space_is_reaped_after_late_kick);
	T_RUN(space_is_reaped_between_contexts);
	T_RUN(cut_anywhere);
	T_RUN(cut_at_random);
	return 0;
}
