/*
 * PCIDs: least recently used, flushed exactly when what they hold is stale, and never believed flushed when the load of CR3
 * did not happen.
 */
#include <string.h>

#include "rig.h"
#include "kvm/kvm.h"

enum { DATA = 0x10000000 };

static const struct fake_options with_pcid = { .pcid = true };

static void assigned_least_recently_used(void)
{
	struct akvm__pcids pcids;
	bool flush, seen[AKVM_PCID_FIRST + AKVM_PCIDS] = { 0 };

	akvm__pcids_drop(&pcids);
	for (uint64_t space = 1; space <= AKVM_PCIDS; space++) {
		uint64_t pcid = akvm__pcids_assign(&pcids, space, 0, &flush);

		T_CHECK(pcid >= AKVM_PCID_FIRST && pcid < AKVM_PCID_FIRST + AKVM_PCIDS && flush && !seen[pcid]);
		seen[pcid] = true;
	}
	for (uint64_t space = 1; space <= AKVM_PCIDS; space++) {
		akvm__pcids_assign(&pcids, space, 0, &flush);
		T_CHECK(!flush);
	}
	/* Space 1 was used again: now 2 is the oldest. */
	akvm__pcids_assign(&pcids, 1, 0, &flush);
	akvm__pcids_assign(&pcids, 100, 0, &flush);
	T_CHECK(flush);
	akvm__pcids_assign(&pcids, 1, 0, &flush);
	T_CHECK(!flush);
	akvm__pcids_assign(&pcids, 2, 0, &flush);
	T_CHECK(flush);
	/* A new generation: same PCID, flushed once. */
	T_EQUAL(akvm__pcids_assign(&pcids, 1, 1, &flush), akvm__pcids_assign(&pcids, 1, 2, &flush));
	T_CHECK(flush);
	akvm__pcids_assign(&pcids, 1, 2, &flush);
	T_CHECK(!flush);
	akvm__pcids_drop(&pcids);
	akvm__pcids_assign(&pcids, 1, 2, &flush);
	T_CHECK(flush);
}

/* Flushes of cached translations while `count` spaces take turns on one vCPU. */
static uint64_t round_robin(unsigned count)
{
	struct akvm_context *contexts[16];
	uint64_t before = 0, flushed;
	struct rig rig;

	rig_open(&rig, &with_pcid, 1);
	T_EQUAL(akvm_machine_capabilities(rig.machine)->pcid, 1);
	for (unsigned i = 0; i < count; i++) {
		struct akvm_space *space = rig_space(&rig, DATA, 1);

		contexts[i] = rig_context(&rig, 0);
		T_EQUAL(akvm_context_attach(contexts[i], space), 0);
		rig_execute(&rig, contexts[i], 0, RIG_STORE, DATA, 1000 + i);
	}
	for (unsigned turn = 0; turn < 10; turn++) {
		if (turn == 1)
			before = fake_flushes();
		for (unsigned i = 0; i < count; i++) {
			rig_execute(&rig, contexts[i], 0, RIG_LOAD, DATA, 0);
			T_EQUAL(contexts[i]->registers.rax, 1000 + i);
		}
	}
	flushed = fake_flushes() - before;
	rig_close(&rig);
	return flushed;
}

static void hits_do_not_flush(void)
{
	T_EQUAL(round_robin(AKVM_PCIDS), 0);
	T_CHECK(round_robin(AKVM_PCIDS + 1) > 0);
}

struct stale {
	struct rig rig;
	struct akvm_context *context, *other;
	struct akvm_space *space;
};

/* A translation of `space` waits in its PCID, the vCPU stands in another space, and the page is gone. */
static void stale_open(struct stale *stale)
{
	rig_open(&stale->rig, &with_pcid, 1);
	stale->space = rig_space(&stale->rig, DATA, 1);
	stale->context = rig_context(&stale->rig, 0);
	T_EQUAL(akvm_context_attach(stale->context, stale->space), 0);
	stale->other = rig_context(&stale->rig, 0);
	rig_execute(&stale->rig, stale->context, 0, RIG_STORE, DATA, 42);
	rig_execute(&stale->rig, stale->other, 0, RIG_SYSCALL, 0, 0);
	T_EQUAL(akvm_space_unmap(stale->space, DATA, RIG_PAGE), 0);
}

static void stale_close(struct stale *stale)
{
	rig_execute(&stale->rig, stale->context, 0, RIG_LOAD, DATA, 0);
	T_EQUAL(stale->context->vector, 14);
	T_EQUAL(stale->context->detail, AKVM_FAULT_UNMAPPED);
	rig_close(&stale->rig);
}

static void change_flushes(void)
{
	struct stale stale;

	stale_open(&stale);
	stale_close(&stale);
}

/* EINTR before MOV CR3: what was to be flushed is not. */
static void cut_before_the_load(void)
{
	struct stale stale;

	stale_open(&stale);
	fake_cut(AKVM_STUB_SPACE, 0, 1);
	stale_close(&stale);
	T_EQUAL(fake_cuts(), 1);
}

static void interrupt(void *context)
{
	struct akvm_context *public = context;

	T_EQUAL(akvm_context_interrupt(public, public->generation, AKVM_INTERRUPT_BOUNCE), 0);
}

/* The context is interrupted when its CR3 was chosen and KVM_RUN not yet called. */
static void interrupted_before_entry(void)
{
	struct stale stale;

	stale_open(&stale);
	fake_before_ioctl(KVM_SET_XSAVE, interrupt, stale.context);
	rig_execute(&stale.rig, stale.context, 0, RIG_LOAD, DATA, 0);
	T_EQUAL(stale.context->kind, AKVM_EXIT_INTERRUPTED);
	T_EQUAL(stale.context->registers.rip, RIG_LOAD);
	stale_close(&stale);
}

/* A debug trap left over from another run is delivered at the stub, before MOV CR3. */
static void debug_trap_before_the_load(void)
{
	struct stale stale;

	stale_open(&stale);
	fake_vcpu(0)->debug_pending = true;
	stale_close(&stale);
}

int main(void)
{
	T_RUN(assigned_least_recently_used);
	T_RUN(hits_do_not_flush);
	T_RUN(change_flushes);
	T_RUN(cut_before_the_load);
	T_RUN(interrupted_before_entry);
	T_RUN(debug_trap_before_the_load);
	return 0;
}
