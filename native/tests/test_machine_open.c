/*
 * Opening a machine on each kind of host, closing it, and opening it while one host call fails: for every call in turn.
 */
#include <errno.h>
#include <string.h>

#include "host/host.h"
#include "rig.h"

static const struct fake_options kinds[] = {
	{ 0 },
	{ .pcid = true, .cpuid_faulting = true },
	{ .syscall_as_fault = true, .int80_as_ud = true, .shadow_paging = true },
	{ .xsave_bytes = 8192 },
};

static void each_kind_is_recognised(void)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		const struct akvm_capabilities *found;
		struct rig rig;

		rig_open(&rig, &kinds[i], 2);
		found = akvm_machine_capabilities(rig.machine);
		T_EQUAL(found->syscall_as_fault, kinds[i].syscall_as_fault);
		T_EQUAL(found->int80_as_ud, kinds[i].int80_as_ud);
		T_EQUAL(found->host_edits_seen, !kinds[i].shadow_paging);
		T_EQUAL(found->cpuid_faulting, kinds[i].cpuid_faulting);
		T_EQUAL(found->pcid, kinds[i].pcid);
		T_EQUAL(found->xcr0, 0xe7);
		T_EQUAL(found->xsave_bytes, kinds[i].xsave_bytes ? kinds[i].xsave_bytes : 4096);
		T_CHECK(found->smep && found->smap && found->umip && found->fsgsbase && found->tsc_offset_exact);
		T_CHECK(found->round_trip_ns > 0);
		rig_close(&rig);
	}
}

static void every_call_may_fail(void)
{
	static const int errors[] = { ENOMEM, EPERM, EIO };
	struct akvm_machine_config config = rig_config(2);
	unsigned failed = 0, tried = 0, number;

	/* The last hundreds are the probe's round trips, all alike. */
	for (number = 1;; number += number < 100 ? 1 : 13) {
		int expected = errors[number % 3], error;
		struct akvm_machine *machine = NULL;
		unsigned calls;

		snprintf(t_context, sizeof(t_context), "call %u failing", number);
		fake_install(&kinds[number % 3]);
		fake_fail_call(number, expected);
		akvm__fail("", 0);
		error = akvm_machine_open(&config, &machine);
		calls = fake_calls();
		if (error) {
			T_CHECK(error < 0 && error > -4096);
			T_CHECK(strlen(akvm_last_error()) > 0);
			T_CHECK(machine == NULL);
			failed++;
		} else {
			/* A call it can do without, or that came after the opening. */
			T_EQUAL(akvm_machine_close(machine, 10000000000), 0);
		}
		fake_check_clean();
		tried++;
		if (calls < number)
			break;
	}
	t_context[0] = 0;
	printf("%u calls failing in turn, %u of them needed\n", tried, failed);
	T_CHECK(tried > 100 && failed > 60);
}

static void wrong_configurations(void)
{
	struct akvm_machine_config good = rig_config(1), bad;
	struct akvm_machine *machine;

	fake_install(NULL);
#define REFUSED(field, value) \
	bad = good;           \
	bad.field = value;    \
	T_EQUAL(akvm_machine_open(&bad, &machine), -EINVAL)
	REFUSED(vcpus, 0);
	REFUSED(vcpus, FAKE_VCPUS + 1);
	REFUSED(vcpus, 10000);
	REFUSED(contexts_max, 0);
	REFUSED(memory_bytes, 0);
	REFUSED(memory_bytes, 4096);
	REFUSED(memory_bytes, (2 << 20) + 4096);
	REFUSED(fault_around_pages, 3);
	REFUSED(fault_around_pages, 128);
	REFUSED(kick_signal, 9);
#undef REFUSED
	bad = good;
	bad.device = "/nowhere";
	T_EQUAL(akvm_machine_open(&bad, &machine), -ENOENT);
	T_CHECK(strcmp(akvm_last_error(), "open the KVM device") == 0);
	fake_check_clean();
}

int main(void)
{
	T_RUN(each_kind_is_recognised);
	T_RUN(wrong_configurations);
	T_RUN(every_call_may_fail);
	return 0;
}
