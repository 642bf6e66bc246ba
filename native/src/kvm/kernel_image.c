/*
 * The guest's kernel half: descriptor tables, stubs, per-vCPU stacks, and the page tables that map them (layout.h).
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "host/host.h"
#include "kvm/kvm.h"

extern const uint8_t akvm__guest_text[];

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_A  0x20ull
#define PTE_D  0x40ull
#define PTE_PS 0x80ull
#define PTE_NX (1ull << 63)

enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };
/* The interrupt-stack-table entry that names the RSP0 stack; 1 to 3 are the stacks of #DF, NMI and #MC. */
enum { IST_RSP0 = 4 };

_Static_assert(AKVM_TEXT_OFFSET + AKVM_TEXT_BYTES <= AKVM_VCPU_OFFSET, "text runs into the vCPU areas");
_Static_assert(AKVM_VCPU_OFFSET + AKVM_VCPUS_MAX * AKVM_VCPU_BYTES <= HUGE_PAGE, "one page table maps the kernel image");
_Static_assert(AKVM_VCPU_TSS + 104 <= PAGE && AKVM_GDT_BYTES <= AKVM_VCPU_TSS, "GDT and TSS share a page");
_Static_assert(AKVM_VCPU_PAYLOAD + AKVM_PAYLOAD_BYTES <= AKVM_VCPU_BYTES, "payload leaves the vCPU area");
_Static_assert(AKVM_STUB_END <= AKVM_TEXT_BYTES, "stubs leave the text");
_Static_assert((AKVM_KERNEL_BASE & 0xffffffff) + AKVM_TEXT_OFFSET + AKVM_TEXT_BYTES <= AKVM_USER_MIN,
	       "a guest could map what the system-call entry is cut to");

/* Interrupt gate, Intel SDM vol. 3A §6.14.1. */
static void set_gate(uint8_t *idt, unsigned vector, unsigned dpl, unsigned stack)
{
	uint64_t handler = AKVM_KERNEL_BASE + AKVM_TEXT_OFFSET + vector * AKVM_STUB_BYTES;
	uint64_t gate[2] = {
		(handler & 0xffff) | ((uint64_t)AKVM_KERNEL_CS << 16) | ((uint64_t)stack << 32) |
			((uint64_t)(0x8e | dpl << 5) << 40) | ((handler >> 16 & 0xffff) << 48),
		handler >> 32,
	};

	memcpy(idt + 16 * vector, gate, sizeof(gate));
}

int akvm__kernel_image_create(struct akvm_machine *machine)
{
	size_t bytes = AKVM_VCPU_OFFSET + (size_t)machine->config.vcpus * AKVM_VCPU_BYTES;
	void *image = AKVM__HOST->mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (image == MAP_FAILED)
		return akvm__fail("mmap kernel image", errno);
	AKVM__HOST->madvise(image, bytes, MADV_DONTFORK);
	machine->kernel = image;
	machine->kernel_bytes = bytes;
	for (unsigned vector = 0; vector < 256; vector++) {
		/* Ring 3 may raise #BP, #OF and the old system-call vector by INT n; any other INT n is #GP. #DF, NMI and #MC
		 * may arrive on top of another exception, so each has its own stack. All others name theirs too: an exception
		 * in the SYSRET stub, where RSP is the guest's already, must not be pushed where the guest says. */
		unsigned dpl = vector == 3 || vector == 4 || vector == 0x80 ? 3 : 0;
		unsigned stack = vector == 8    ? AKVM_STACK_DF
				 : vector == 2  ? AKVM_STACK_NMI
				 : vector == 18 ? AKVM_STACK_MC
						: IST_RSP0;

		set_gate(machine->kernel + AKVM_IDT_OFFSET, vector, dpl, stack);
	}
	memcpy(machine->kernel + AKVM_TEXT_OFFSET, akvm__guest_text, AKVM_TEXT_BYTES);
	return akvm__vm_set_slot(machine, AKVM_SLOT_KERNEL, 0, AKVM_GPA_KERNEL, image, bytes);
}

void akvm__kernel_image_free(struct akvm_machine *machine)
{
	if (machine->kernel)
		AKVM__HOST->munmap(machine->kernel, machine->kernel_bytes);
	machine->kernel = NULL;
}

void akvm__kernel_image_vcpu(struct akvm_machine *machine, uint32_t index)
{
	uint8_t *area = machine->kernel + AKVM_VCPU_OFFSET + (size_t)index * AKVM_VCPU_BYTES;
	uint64_t address = AKVM_KERNEL_BASE + AKVM_VCPU_OFFSET + (uint64_t)index * AKVM_VCPU_BYTES;
	uint64_t tss = address + AKVM_VCPU_TSS, gdt[AKVM_GDT_BYTES / 8] = { 0 };
	uint16_t io_map = 104; /* past the limit: no port is open to ring 3 */

	/* Accessed bits are set, so loading a segment never writes to this read-only page. */
	gdt[AKVM_KERNEL_CS / 8] = 0x00af9b000000ffff;
	gdt[AKVM_KERNEL_SS / 8] = 0x00cf93000000ffff;
	gdt[AKVM_USER_SS / 8] = 0x00cff3000000ffff;
	gdt[AKVM_USER_CS / 8] = 0x00affb000000ffff;
	gdt[AKVM_TSS_SELECTOR / 8] = 0x00008b0000000067 | (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56;
	gdt[AKVM_TSS_SELECTOR / 8 + 1] = tss >> 32;
	memcpy(area + AKVM_VCPU_GDT, gdt, sizeof(gdt));
	for (unsigned stack = 0; stack < 4; stack++) {
		uint64_t top = address + AKVM_VCPU_STACKS + (stack + 1) * AKVM_VCPU_STACK_BYTES;
		/* TSS64: RSP0 at 4, IST1 at 36 (SDM vol. 3A §8.7). */
		memcpy(area + AKVM_VCPU_TSS + (stack ? 36 + 8 * (stack - 1) : 4), &top, sizeof(top));
	}
	memcpy(area + AKVM_VCPU_TSS + 36 + 8 * (IST_RSP0 - 1), area + AKVM_VCPU_TSS + 4, 8);
	memcpy(area + AKVM_VCPU_TSS + 102, &io_map, sizeof(io_map));
}

/* W^X, and no bit lets ring 3 in. */
static uint64_t page_entry(const struct akvm_machine *machine, uint64_t offset)
{
	uint64_t page;

	if (offset >= machine->kernel_bytes)
		return 0;
	if (offset >= AKVM_TEXT_OFFSET && offset < AKVM_TEXT_OFFSET + AKVM_TEXT_BYTES)
		return (AKVM_GPA_KERNEL + offset) | PTE_P | PTE_A;
	if (offset < AKVM_TEXT_OFFSET)
		return (AKVM_GPA_KERNEL + offset) | PTE_P | PTE_A | PTE_NX;
	if (offset < AKVM_VCPU_OFFSET)
		return 0;
	page = (offset - AKVM_VCPU_OFFSET) % AKVM_VCPU_BYTES;
	if (page == AKVM_VCPU_STACKS)
		return (AKVM_GPA_KERNEL + offset) | PTE_P | PTE_A | PTE_W | PTE_D | PTE_NX;
	return (AKVM_GPA_KERNEL + offset) | PTE_P | PTE_A | PTE_NX;
}

static uint64_t table(struct akvm_machine *machine, uint64_t **entries)
{
	return akvm__mm_kernel_table(machine->mm, entries);
}

int akvm__kernel_image_map(struct akvm_machine *machine)
{
	const uint64_t link = PTE_P | PTE_W | PTE_A;
	uint64_t *pdpt, *pd, *pt, image, window, next;
	struct akvm_memory_status status;
	uint64_t left;

	image = table(machine, &pdpt);
	next = table(machine, &pd);
	if (!image || !next)
		return akvm__fail("kernel page tables", ENOMEM);
	machine->tables = (uint8_t *)pdpt - (image - AKVM_GPA_TABLES);
	pdpt[AKVM_KERNEL_BASE >> 30 & 511] = next | link;
	next = table(machine, &pt);
	if (!next)
		return akvm__fail("kernel page tables", ENOMEM);
	pd[AKVM_KERNEL_BASE >> 21 & 511] = next | link;
	for (unsigned i = 0; i < 512; i++)
		pt[i] = page_entry(machine, (uint64_t)i * PAGE);

	window = table(machine, &pdpt);
	if (!window)
		return akvm__fail("kernel page tables", ENOMEM);
	akvm__mm_status(machine->mm, &status);
	left = status.tables_total * PAGE / HUGE_PAGE;
	for (unsigned gigabyte = 0; left; gigabyte++) {
		next = table(machine, &pd);
		if (!next || gigabyte == 512)
			return akvm__fail("kernel page tables", ENOMEM);
		for (unsigned i = 0; i < 512 && left; i++, left--)
			pd[i] = (AKVM_GPA_TABLES + ((uint64_t)gigabyte << 30) + (uint64_t)i * HUGE_PAGE) | PTE_P | PTE_W | PTE_A |
				PTE_D | PTE_PS | PTE_NX;
		pdpt[gigabyte] = next | link;
	}
	akvm__mm_kernel_half(machine->mm, window | link, image | link);
	return 0;
}
