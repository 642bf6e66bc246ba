/*
 * FP and vector state follows its context: across contexts of one vCPU, across vCPUs, through the image the caller sees; and is
 * moved only when it must be.
 */
#include <errno.h>
#include <string.h>

#include "rig.h"

enum { MXCSR = 24, HEADER = 512, REGISTERS = 160, IMAGE = 4096 };

/* Ring 3: adds the script's offset to a word of vector state and returns the old one in RAX. */
static struct fake_step compute(struct fake_cpu *cpu, void *opaque)
{
	uint64_t word;

	(void)opaque;
	memcpy(&word, cpu->xsave + REGISTERS, sizeof(word));
	cpu->regs.rax = word;
	word += cpu->regs.rip - FAKE_SCRIPT;
	memcpy(cpu->xsave + REGISTERS, &word, sizeof(word));
	return (struct fake_step){ .action = FAKE_SYSCALL };
}

static uint64_t compute_in(struct rig *rig, struct akvm_context *context, uint32_t vcpu, uint64_t amount)
{
	context->registers.rip = FAKE_SCRIPT + amount;
	rig_run(rig, context, vcpu);
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	return context->registers.rax;
}

static void open_computing(struct rig *rig, const struct fake_options *options, uint32_t vcpus)
{
	rig_open(rig, options, vcpus);
	fake_set_script(compute, NULL);
}

static void a_new_context_has_initial_state(void)
{
	struct akvm_context *context;
	uint8_t image[IMAGE];
	uint32_t mxcsr;
	struct rig rig;

	open_computing(&rig, NULL, 2);
	context = rig_context(&rig, 0);
	compute_in(&rig, context, 0, 0x666);
	/* The second one, at the first one's place in memory and on its vCPU, finds nothing of it. */
	T_EQUAL(akvm_context_destroy(context), 0);
	context = rig_context(&rig, 0);
	T_EQUAL(akvm_context_get_xsave(context, image, IMAGE), 0);
	memcpy(&mxcsr, image + MXCSR, sizeof(mxcsr));
	T_EQUAL(mxcsr, 0x1f80);
	T_EQUAL(image[0] | image[1] << 8, 0x37f);
	T_EQUAL(compute_in(&rig, context, 0, 1), 0);
	rig_close(&rig);
}

static void state_follows_its_context(void)
{
	static const struct fake_options kinds[] = { { 0 }, { .xsave_bytes = 8192 } };

	for (size_t kind = 0; kind < 2; kind++) {
		struct akvm_context *contexts[5];
		uint64_t sums[5] = { 0 };
		struct rig rig;

		open_computing(&rig, &kinds[kind], 2);
		for (unsigned i = 0; i < 5; i++)
			contexts[i] = rig_context(&rig, 0);
		for (uint64_t turn = 0; turn < 300; turn++) {
			unsigned who = (unsigned)(turn * 7 % 5);

			T_EQUAL(compute_in(&rig, contexts[who], (uint32_t)(turn / 3 % 2), turn), sums[who]);
			sums[who] += turn;
		}
		rig_close(&rig);
	}
}

static void moved_only_when_it_must_be(void)
{
	struct akvm_context *context;
	uint64_t ioctls, switches;
	struct rig rig;

	/* One vCPU, or the other might take the context over. */
	open_computing(&rig, NULL, 1);
	context = rig_context(&rig, 0);
	compute_in(&rig, context, 0, 1);
	ioctls = fake_vcpu_ioctls();
	switches = rig_status(&rig, 0).fp_switches;
	for (uint64_t i = 0; i < 20; i++)
		T_EQUAL(compute_in(&rig, context, 0, 1), i + 1);
	T_EQUAL(rig_status(&rig, 0).fp_switches, switches);
	T_EQUAL(fake_vcpu_ioctls(), ioctls);
	rig_close(&rig);
}

static void image_as_the_caller_sees_it(void)
{
	struct akvm_context *context, *other;
	uint8_t image[IMAGE + 64] = { 0 }, bad[IMAGE];
	uint64_t word = 1000;
	struct rig rig;

	open_computing(&rig, NULL, 2);
	context = rig_context(&rig, 0);
	other = rig_context(&rig, 0);
	compute_in(&rig, context, 0, 5);
	T_EQUAL(akvm_context_get_xsave(context, image, IMAGE - 1), -EINVAL);
	T_EQUAL(akvm_context_get_xsave(context, image, IMAGE + 64), -EINVAL);
	/* Still in a vCPU's registers, which another context then takes. */
	T_EQUAL(akvm_context_get_xsave(context, image, IMAGE), 0);
	T_EQUAL(image[REGISTERS], 5);
	compute_in(&rig, other, 0, 9);
	T_EQUAL(akvm_context_get_xsave(context, image, IMAGE), 0);
	T_EQUAL(image[REGISTERS], 5);
	memcpy(image + REGISTERS, &word, sizeof(word));
	T_EQUAL(akvm_context_set_xsave(context, image, IMAGE), 0);
	T_EQUAL(compute_in(&rig, context, 0, 1), 1000);
	/* What XRSTOR would refuse is refused here: unknown components, compaction, reserved MXCSR and header bits. */
	for (unsigned i = 0; i < 5; i++) {
		static const struct {
			uint32_t at;
			uint8_t bits;
		} wrong[] = {
			{ HEADER + 1, 0x02 }, { HEADER + 8 + 7, 0x80 }, { HEADER + 16, 1 }, { HEADER + 63, 1 }, { MXCSR + 2, 1 }
		};

		memcpy(bad, image, IMAGE);
		bad[wrong[i].at] |= wrong[i].bits;
		T_EQUAL(akvm_context_set_xsave(context, bad, IMAGE), -EINVAL);
	}
	T_EQUAL(compute_in(&rig, context, 1, 1), 1001);
	rig_close(&rig);
}

/* A host that fails to move state fails one run and loses nobody's state. */
static void failing_moves(void)
{
	static const unsigned long requests[] = { KVM_GET_XSAVE, KVM_SET_XSAVE };
	struct akvm_context *first, *second;
	struct rig rig;

	open_computing(&rig, NULL, 1); /* no other may take over what is to fail here */
	first = rig_context(&rig, 0);
	second = rig_context(&rig, 0);
	compute_in(&rig, first, 0, 7);
	for (unsigned i = 0; i < 2; i++) {
		fake_fail_ioctl(requests[i], 0, 1, EIO);
		second->registers.rip = FAKE_SCRIPT;
		rig_run(&rig, second, 0);
		T_EQUAL(second->kind, AKVM_EXIT_ERROR);
		T_EQUAL(second->detail, AKVM_FAILURE_HOST);
		T_EQUAL(second->host_errno, EIO);
	}
	T_EQUAL(compute_in(&rig, second, 0, 3), 0);
	T_EQUAL(compute_in(&rig, first, 0, 1), 7);
	T_EQUAL(compute_in(&rig, second, 0, 1), 3);
	rig_close(&rig);
}

int main(void)
{
	T_RUN(a_new_context_has_initial_state);
	T_RUN(state_follows_its_context);
	T_RUN(moved_only_when_it_must_be);
	T_RUN(image_as_the_caller_sees_it);
	T_RUN(failing_moves);
	return 0;
}
