/*
 * The kernel half as the guest's processor finds it: stubs at the offsets C uses, descriptor tables, stacks, and page rights
 * under which no page is both writable and executable and ring 3 reaches nothing.
 */
#include <string.h>

#include "rig.h"

extern const uint8_t akvm__guest_text[];

static void stubs_stand_where_c_says(void)
{
	static const struct {
		uint32_t offset;
		uint8_t bytes, code[8];
	} stubs[] = {
		{ AKVM_STUB_SYSCALL, 1, { 0xf4 } },
		{ AKVM_STUB_IRET, 2, { 0x48, 0xcf } },
		{ AKVM_STUB_SYSRET, 3, { 0x48, 0x0f, 0x07 } },
		{ AKVM_STUB_SPACE, 6, { 0x0f, 0x22, 0xd8, 0x58, 0x48, 0xcf } },
		{ AKVM_STUB_EDIT, 5, { 0x48, 0xad, 0x48, 0x89, 0xc7 } },
		{ AKVM_STUB_FLUSH, 4, { 0x0f, 0x22, 0xd8, 0xf4 } },
		{ AKVM_STUB_READ_MSR, 3, { 0x0f, 0x32, 0xf4 } },
		{ AKVM_STUB_WRITE_MSR, 3, { 0x0f, 0x30, 0xf4 } },
		{ AKVM_STUB_NOTHING, 1, { 0xf4 } },
	};

	for (unsigned vector = 0; vector < 256; vector++)
		T_EQUAL(akvm__guest_text[vector * AKVM_STUB_BYTES], 0xf4);
	for (size_t i = 0; i < sizeof(stubs) / sizeof(stubs[0]); i++)
		T_EQUAL(memcmp(akvm__guest_text + stubs[i].offset, stubs[i].code, stubs[i].bytes), 0);
	/* Between them only HLT: a jump into the gaps leaves at once. */
	T_EQUAL(akvm__guest_text[AKVM_STUB_END], 0xf4);
	T_EQUAL(akvm__guest_text[AKVM_TEXT_BYTES - 1], 0xf4);
}

static void read_system(struct fake_cpu *cpu, uint64_t address, void *buffer, size_t bytes)
{
	T_CHECK(fake_cpu_access_system(cpu, address, FAKE_READ, buffer, bytes));
}

static void descriptor_tables(void)
{
	uint64_t gate[2], stack, area;
	uint16_t io_map;
	struct rig rig;

	rig_open(&rig, NULL, 2);
	for (unsigned index = 0; index < 2; index++) {
		struct fake_cpu *cpu = fake_vcpu(index);

		area = AKVM_KERNEL_BASE + AKVM_VCPU_OFFSET + index * AKVM_VCPU_BYTES;
		T_EQUAL(cpu->sregs.tr.base, area + AKVM_VCPU_TSS);
		T_EQUAL(cpu->sregs.gdt.base, area + AKVM_VCPU_GDT);
		for (unsigned vector = 0; vector < 256; vector++) {
			read_system(cpu, cpu->sregs.idt.base + vector * 16, gate, sizeof(gate));
			T_EQUAL((gate[0] & 0xffff) | gate[0] >> 48 << 16 | gate[1] << 32,
				AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET + vector * AKVM_STUB_BYTES);
			T_EQUAL(gate[0] >> 16 & 0xffff, AKVM_KERNEL_CS);
			T_EQUAL(gate[0] >> 45 & 3, vector == 3 || vector == 4 || vector == 0x80 ? 3 : 0);
			T_EQUAL(gate[0] >> 40 & 0x1f, 0x0e);
			/* No gate leaves the choice of stack to RSP: in the SYSRET stub that is the guest's. */
			T_CHECK((gate[0] >> 32 & 7) != 0);
		}
		for (unsigned i = 0; i < 4; i++) {
			read_system(cpu, cpu->sregs.tr.base + (i ? 36 + 8 * (i - 1) : 4), &stack, sizeof(stack));
			T_EQUAL(stack, area + AKVM_VCPU_STACKS + (i + 1) * AKVM_VCPU_STACK_BYTES);
		}
		read_system(cpu, cpu->sregs.tr.base + 36 + 8 * 3, &stack, sizeof(stack));
		T_EQUAL(stack, area + AKVM_VCPU_STACKS + AKVM_VCPU_STACK_BYTES);
		read_system(cpu, cpu->sregs.tr.base + 102, &io_map, sizeof(io_map));
		T_CHECK(io_map > cpu->sregs.tr.limit);
	}
	rig_close(&rig);
}

/* Every page of the kernel image, the tables window, and their neighbours. */
static void page_rights(void)
{
	const uint64_t image = AKVM_VCPU_OFFSET + 2 * AKVM_VCPU_BYTES;
	static struct fake_cpu user;
	struct fake_cpu *cpu;
	struct rig rig;
	uint8_t byte;

	rig_open(&rig, NULL, 2);
	cpu = fake_vcpu(0);
	memcpy(&user, cpu, sizeof(user));
	user.sregs.cs.selector = AKVM_USER_CS;
	for (uint64_t offset = 0; offset < 2 << 20; offset += 4096) {
		uint64_t address = AKVM_KERNEL_BASE + offset, area = (offset - AKVM_VCPU_OFFSET) % AKVM_VCPU_BYTES;
		bool text = offset >= AKVM_TEXT_OFFSET && offset < AKVM_TEXT_OFFSET + AKVM_TEXT_BYTES;
		bool there = offset < image && (text || offset < AKVM_TEXT_OFFSET || offset >= AKVM_VCPU_OFFSET);
		bool stacks = there && offset >= AKVM_VCPU_OFFSET && area == AKVM_VCPU_STACKS;

		T_EQUAL(fake_cpu_access(cpu, address, FAKE_READ, &byte, 1), there);
		T_EQUAL(fake_cpu_access(cpu, address, FAKE_FETCH, &byte, 1), text);
		byte = 0;
		T_EQUAL(fake_cpu_access(cpu, address + 8, FAKE_WRITE, &byte, 1), stacks);
		for (enum fake_access access = FAKE_READ; access <= FAKE_FETCH; access++)
			T_CHECK(!fake_cpu_access(&user, address, access, &byte, 1));
	}
	T_CHECK(fake_cpu_access(cpu, AKVM_TABLES_WINDOW, FAKE_READ, &byte, 1));
	T_CHECK(fake_cpu_access(cpu, AKVM_TABLES_WINDOW, FAKE_WRITE, &byte, 1));
	T_CHECK(!fake_cpu_access(cpu, AKVM_TABLES_WINDOW, FAKE_FETCH, &byte, 1));
	T_CHECK(!fake_cpu_access(&user, AKVM_TABLES_WINDOW, FAKE_READ, &byte, 1));
	T_CHECK(!fake_cpu_access(cpu, AKVM_TABLES_WINDOW - 1, FAKE_READ, &byte, 1));
	T_CHECK(!fake_cpu_access(cpu, AKVM_KERNEL_HALF, FAKE_READ, &byte, 1));
	rig_close(&rig);
}

/* Nothing else is mapped in the kernel half: all other top-level entries are empty. */
static void kernel_half_holds_two_entries(void)
{
	struct fake_cpu *cpu;
	struct rig rig;
	uint8_t byte;

	rig_open(&rig, NULL, 1);
	cpu = fake_vcpu(0);
	for (uint64_t entry = 256; entry < 512; entry++) {
		cpu->fault = (struct fake_fault){ 0 };
		if (entry == 510 || entry == 511)
			continue;
		T_CHECK(!fake_cpu_access(cpu, 0xffff000000000000 | entry << 39, FAKE_READ, &byte, 1));
		T_EQUAL(cpu->fault.vector, 14);
	}
	rig_close(&rig);
}

int main(void)
{
	T_RUN(stubs_stand_where_c_says);
	T_RUN(descriptor_tables);
	T_RUN(page_rights);
	T_RUN(kernel_half_holds_two_entries);
	return 0;
}
