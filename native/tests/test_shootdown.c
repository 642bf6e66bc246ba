/*
 * A space that changes under running guests: each is brought out and sees the change, and nobody enters while another vCPU is
 * still inside with what was true before.
 */
#include <semaphore.h>

#include "rig.h"

enum { DATA = 0x10000000, ROUNDS = 200 };

static const struct fake_options kinds[] = {
	{ 0 },
	{ .pcid = true },
	{ .shadow_paging = true },
	{ .shadow_paging = true, .syscall_as_fault = true, .int80_as_ud = true },
};

/* Guests that read a page for ever, on two vCPUs, lose it. */
static void readers_lose_their_page(void)
{
	for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
		struct akvm_context *readers[2];
		struct rig rig;

		rig_open(&rig, &kinds[kind], 2);
		for (unsigned i = 0; i < 2; i++)
			readers[i] = rig_context(&rig, 0);
		for (uint64_t round = 0; round < ROUNDS; round++) {
			snprintf(t_context, sizeof(t_context), "host %zu, round %llu", kind, (unsigned long long)round);
			T_EQUAL(akvm_space_map(rig.space, DATA, 2 * RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
			T_EQUAL(akvm_space_write(rig.space, DATA, &round, sizeof(round), false), sizeof(round));
			for (unsigned i = 0; i < 2; i++) {
				readers[i]->registers.rip = RIG_READ;
				readers[i]->registers.rdi = DATA;
				rig_submit(readers[i], i);
			}
			T_EQUAL(akvm_space_unmap(rig.space, DATA, RIG_PAGE), 0);
			for (unsigned i = 0; i < 2; i++) {
				struct akvm_context *reader = rig_wait(&rig);

				T_EQUAL(reader->kind, AKVM_EXIT_FAULT);
				T_EQUAL(reader->vector, 14);
				T_EQUAL(reader->detail, AKVM_FAULT_UNMAPPED);
				T_EQUAL(reader->address, DATA);
			}
			T_EQUAL(akvm_space_settled(rig.space), 1);
		}
		t_context[0] = 0;
		rig_close(&rig);
	}
}

static sem_t release;
static _Atomic unsigned held;

/* Ring 3 that is inside and, whatever the host does, does not come out. */
static struct fake_step hold(struct fake_cpu *cpu, void *opaque)
{
	(void)cpu;
	(void)opaque;
	atomic_fetch_add(&held, 1);
	T_EQUAL(sem_wait(&release), 0);
	return (struct fake_step){ .action = FAKE_SYSCALL };
}

static void wait_for_kicks(struct rig *rig, uint32_t vcpu, uint64_t more)
{
	uint64_t until = rig_status(rig, vcpu).kicks + more;

	RIG_UNTIL(rig_status(rig, vcpu).kicks >= until);
}

static void nobody_enters_beside_an_old_translation(void)
{
	for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
		struct akvm_context *inside, *outside, *stranger;
		struct akvm_space *elsewhere;
		struct rig rig;

		rig_open(&rig, &kinds[kind], 2);
		T_EQUAL(sem_init(&release, 0, 0), 0);
		atomic_store(&held, 0);
		fake_set_script(hold, NULL);
		inside = rig_context(&rig, 0);
		outside = rig_context(&rig, 0);
		stranger = rig_context(&rig, 0);
		elsewhere = rig_space(&rig, 0, 0);
		T_EQUAL(akvm_context_attach(stranger, elsewhere), 0);
		T_EQUAL(akvm_space_map(rig.space, DATA, RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
		rig_execute(&rig, outside, 1, RIG_STORE, DATA, 1);
		rig_submit(inside, 0);
		RIG_UNTIL(atomic_load(&held));
		/* No change yet: both may be inside. */
		rig_execute(&rig, outside, 1 - inside->vcpu, RIG_SYSCALL, 0, 0);
		T_EQUAL(outside->kind, AKVM_EXIT_SYSCALL);

		T_EQUAL(akvm_space_unmap(rig.space, DATA, RIG_PAGE), 0);
		T_EQUAL(akvm_space_settled(rig.space), 0);
		outside->registers.rip = RIG_SYSCALL;
		rig_submit(outside, 1 - inside->vcpu);
		/* It kicks and waits. */
		wait_for_kicks(&rig, inside->vcpu, 3);
		rig_expect_none(&rig);
		/* Waiting, it can be interrupted, and its vCPU can run other spaces. */
		T_EQUAL(akvm_context_interrupt(outside, outside->generation, AKVM_INTERRUPT_BOUNCE), 0);
		T_CHECK(rig_wait(&rig) == outside);
		T_EQUAL(outside->kind, AKVM_EXIT_INTERRUPTED);
		T_EQUAL(outside->registers.rip, RIG_SYSCALL);
		rig_execute(&rig, stranger, 1 - inside->vcpu, RIG_SYSCALL, 0, 0);
		T_EQUAL(stranger->kind, AKVM_EXIT_SYSCALL);

		rig_submit(outside, 1 - inside->vcpu);
		wait_for_kicks(&rig, inside->vcpu, 3);
		rig_expect_none(&rig);
		T_EQUAL(sem_post(&release), 0);
		for (unsigned i = 0; i < 2; i++)
			T_EQUAL(rig_wait(&rig)->kind, AKVM_EXIT_SYSCALL);
		T_EQUAL(akvm_space_settled(rig.space), 1);
		T_EQUAL(sem_destroy(&release), 0);
		rig_close(&rig);
	}
}

static void change(void *opaque)
{
	T_EQUAL(akvm_space_unmap(opaque, DATA, RIG_PAGE), 0);
}

/* The space changes when a vCPU has looked at its generation and not yet entered. */
static void changed_on_the_way_in(void)
{
	for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
		static const unsigned long requests[] = { KVM_SET_XSAVE, KVM_RUN };

		for (unsigned i = 0; i < 2; i++) {
			struct akvm_context *context;
			struct rig rig;

			rig_open(&rig, &kinds[kind], 1);
			T_EQUAL(akvm_space_map(rig.space, DATA, RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
			rig_execute(&rig, rig_context(&rig, 0), 0, RIG_STORE, DATA, 1);
			context = rig_context(&rig, 0);
			fake_before_ioctl(requests[i], change, rig.space);
			rig_execute(&rig, context, 0, RIG_LOAD, DATA, 0);
			T_EQUAL(context->kind, AKVM_EXIT_FAULT);
			T_EQUAL(context->vector, 14);
			T_EQUAL(context->detail, AKVM_FAULT_UNMAPPED);
			rig_close(&rig);
		}
	}
}

int main(void)
{
	T_RUN(readers_lose_their_page);
	T_RUN(nobody_enters_beside_an_old_translation);
	T_RUN(changed_on_the_way_in);
	return 0;
}
