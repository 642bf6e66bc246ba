/*
 * See rig.h.
 */
#include "rig.h"

#include <poll.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "host/host.h"

enum { WAIT_MS = 30000 };
static const uint64_t WAIT_NS = 30000000000;

static const uint8_t
	code[] = {
		0x0f, 0x05,        0xcc, [16] = 0xcd, 0x80, 0xcc,        [32] = 0x48,  0x8b,        0x07,
		0xcc, [48] = 0x48, 0x89, 0x37,        0xcc, [64] = 0xeb, 0xfe,         [80] = 0x48, 0x8b,
		0x07, 0xeb,        0xfb, [96] = 0x0f, 0xa2, 0xcc,        [112] = 0x31, 0xc0,        0x0f,
		0x05, 0x48,        0xff, 0xcb,        0x75, 0xf7,        0xcc,
	};

struct akvm_machine_config rig_config(uint32_t vcpus)
{
	return (struct akvm_machine_config){
		.memory_bytes = 8 << 20,
		.vcpus = vcpus,
		.contexts_max = RIG_CONTEXTS,
		.vcpu_spin_ns = 2000,
	};
}

void rig_open(struct rig *rig, const struct fake_options *options, uint32_t vcpus)
{
	struct akvm_machine_config config = rig_config(vcpus);

	memset(rig, 0, sizeof(*rig));
	fake_install(options);
	T_EQUAL(akvm_machine_open(&config, &rig->machine), 0);
	rig->space = rig_space(rig, 0, 0);
}

void rig_close(struct rig *rig)
{
	T_EQUAL(akvm_machine_close(rig->machine, 10000000000), 0);
	fake_check_clean();
}

struct akvm_context *rig_context(struct rig *rig, uint64_t offset)
{
	struct akvm_context *context;

	T_EQUAL(akvm_context_create(rig->machine, &context), 0);
	T_EQUAL(akvm_context_attach(context, rig->space), 0);
	context->registers.rip = FAKE_SCRIPT + offset;
	context->registers.rsp = 0x7fff0000;
	rig->contexts[context->index] = context;
	return context;
}

void rig_code(struct akvm_space *space)
{
	T_EQUAL(akvm_space_map(space, RIG_CODE, RIG_PAGE, AKVM_READ | AKVM_EXECUTE, NULL, 0), 0);
	T_EQUAL(akvm_space_write(space, RIG_CODE, code, sizeof(code), true), sizeof(code));
}

struct akvm_space *rig_space(struct rig *rig, uint64_t address, uint32_t pages)
{
	struct akvm_space *space;

	T_EQUAL(akvm_space_create(rig->machine, &space), 0);
	rig_code(space);
	if (pages)
		T_EQUAL(akvm_space_map(space, address, (uint64_t)pages * RIG_PAGE, AKVM_READ | AKVM_WRITE, NULL, 0), 0);
	return space;
}

void rig_execute(struct rig *rig, struct akvm_context *context, uint32_t vcpu, uint64_t rip, uint64_t rdi, uint64_t rsi)
{
	context->registers.rip = rip;
	context->registers.rdi = rdi;
	context->registers.rsi = rsi;
	rig_run(rig, context, vcpu);
}

void rig_submit(struct akvm_context *context, uint32_t vcpu)
{
	T_EQUAL(akvm_context_submit(context, vcpu), 0);
}

struct akvm_context *rig_wait(struct rig *rig)
{
	struct pollfd bell = { .fd = akvm_machine_doorbell(rig->machine), .events = POLLIN };
	uint64_t rings;
	uint32_t index;

	while (akvm_machine_drain(rig->machine, &index, 1) == 0) {
		if (akvm_machine_arm(rig->machine))
			continue;
		T_EQUAL(poll(&bell, 1, WAIT_MS), 1);
		T_EQUAL(read(bell.fd, &rings, sizeof(rings)), sizeof(rings));
	}
	T_CHECK(index < RIG_CONTEXTS && rig->contexts[index]);
	return rig->contexts[index];
}

void rig_expect_none(struct rig *rig)
{
	uint32_t index;

	T_EQUAL(akvm_machine_drain(rig->machine, &index, 1), 0);
}

void rig_run(struct rig *rig, struct akvm_context *context, uint32_t vcpu)
{
	rig_submit(context, vcpu);
	T_CHECK(rig_wait(rig) == context);
}

uint64_t rig_deadline(void)
{
	return akvm__now_ns() + WAIT_NS;
}

void rig_go_on_waiting(uint64_t deadline)
{
	T_CHECK(akvm__now_ns() < deadline);
	sched_yield();
}

uint32_t rig_wait_running(struct rig *rig, struct akvm_context *context, uint32_t vcpus)
{
	uint32_t vcpu = 0;

	RIG_UNTIL(rig_status(rig, vcpu = (vcpu + 1) % vcpus).context == context->index);
	return vcpu;
}

struct akvm_vcpu_status rig_status(struct rig *rig, uint32_t vcpu)
{
	struct akvm_vcpu_status status;

	T_EQUAL(akvm_vcpu_status(rig->machine, vcpu, &status), 0);
	return status;
}
