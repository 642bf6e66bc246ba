/*
 * A host file cut short under its mapping: KVM_RUN fails with EFAULT, and the guest that touched the missing page gets a bus
 * error at that very address, nobody else gets anything.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "mm/mm.h"
#include "rig.h"

enum { DATA = 0x10000000, PAGES = 3 };

static const struct fake_options kinds[] = {
	{ 0 },
	{ .syscall_as_fault = true, .int80_as_ud = true, .shadow_paging = true },
};

struct cut {
	struct rig rig;
	FILE *host;
	struct akvm_file *file;
	struct akvm_context *context, *other;
};

static void cut_open(struct cut *cut, const struct fake_options *options)
{
	uint64_t words[PAGES * RIG_PAGE / 8];

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		words[i] = i;
	rig_open(&cut->rig, options, 1);
	cut->host = tmpfile();
	T_CHECK(cut->host != NULL);
	T_EQUAL(fwrite(words, 1, sizeof(words), cut->host), sizeof(words));
	T_EQUAL(fflush(cut->host), 0);
	T_EQUAL(akvm_file_open(cut->rig.machine, fileno(cut->host), false, 0, &cut->file), 0);
	T_EQUAL(akvm_space_map(cut->rig.space, DATA, PAGES * RIG_PAGE, AKVM_READ, cut->file, 0), 0);
	cut->context = rig_context(&cut->rig, 0);
	cut->other = rig_context(&cut->rig, 0);
	for (uint64_t page = 0; page < PAGES; page++) {
		rig_execute(&cut->rig, cut->context, 0, RIG_LOAD, DATA + page * RIG_PAGE, 0);
		T_EQUAL(cut->context->vector, 3);
		T_EQUAL(cut->context->registers.rax, page * RIG_PAGE / 8);
	}
}

static void cut_close(struct cut *cut)
{
	akvm_file_close(cut->file);
	rig_close(&cut->rig);
	T_EQUAL(fclose(cut->host), 0);
}

static void check_bus(struct cut *cut, uint64_t address)
{
	T_EQUAL(cut->context->kind, AKVM_EXIT_FAULT);
	T_EQUAL(cut->context->vector, 14);
	T_EQUAL(cut->context->detail, AKVM_FAULT_BUS);
	T_EQUAL(cut->context->address, address);
	T_EQUAL(cut->context->registers.rip, RIG_LOAD);
}

static void the_missing_page_is_a_bus_error(void)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct cut cut;

		cut_open(&cut, &kinds[i]);
		T_EQUAL(ftruncate(fileno(cut.host), RIG_PAGE), 0);
		rig_execute(&cut.rig, cut.context, 0, RIG_LOAD, DATA + 2 * RIG_PAGE + 8, 0);
		check_bus(&cut, DATA + 2 * RIG_PAGE + 8);
		rig_execute(&cut.rig, cut.context, 0, RIG_LOAD, DATA + RIG_PAGE, 0);
		check_bus(&cut, DATA + RIG_PAGE);
		/* What is left of the file is still there. */
		rig_execute(&cut.rig, cut.context, 0, RIG_LOAD, DATA + 16, 0);
		T_EQUAL(cut.context->vector, 3);
		T_EQUAL(cut.context->registers.rax, 2);
		rig_execute(&cut.rig, cut.other, 0, RIG_SYSCALL, 0, 0);
		T_EQUAL(cut.other->kind, AKVM_EXIT_SYSCALL);
		cut_close(&cut);
	}
}

/* Between this vCPU's EFAULT and its looking at the files another one, with the same trouble, has cleared up already. */
static struct fake_step cleared_by_another(struct fake_cpu *cpu, void *opaque)
{
	struct cut *cut = opaque;

	T_CHECK(akvm__space_trim(cut->rig.space) > 0);
	cpu->regs.rip = RIG_LOAD;
	return (struct fake_step){ .action = FAKE_ERROR, .error = 14 /* EFAULT */ };
}

static void two_vcpus_find_it_at_once(void)
{
	struct cut cut;

	cut_open(&cut, &kinds[0]);
	fake_set_script(cleared_by_another, &cut);
	T_EQUAL(ftruncate(fileno(cut.host), RIG_PAGE), 0);
	rig_execute(&cut.rig, cut.context, 0, FAKE_SCRIPT, DATA + RIG_PAGE, 0);
	check_bus(&cut, DATA + RIG_PAGE);
	cut_close(&cut);
}

int main(void)
{
	T_RUN(the_missing_page_is_a_bus_error);
	T_RUN(two_vcpus_find_it_at_once);
	return 0;
}
