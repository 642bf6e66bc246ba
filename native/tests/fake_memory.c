/*
 * Guest memory as the fake processor sees it: slots, four-level walks with every right checked, cached translations.
 *
 * Two caches, both kept as long as a real host might: translations of a vCPU until CR3 is loaded (with PCIDs: until that PCID is
 * flushed), and, with shadow paging, present entries until guest ring 0 itself stores to them.
 */
#include "fake_cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fake_kvm.h"

#define ADDRESS    0x000ffffffffff000ull
#define NO_EXECUTE (1ull << 63)

enum { PRESENT = 1, WRITABLE = 2, USER = 4, HUGE = 0x80 };
enum { PF_PRESENT = 1, PF_WRITE = 2, PF_USER = 4, PF_FETCH = 16 };
enum { VECTOR_GP = 13, VECTOR_PF = 14 };
enum { CR4_PCIDE = 1 << 17, CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21 };

int fake_vm_set_slot(struct fake_vm *vm, const struct kvm_userspace_memory_region *region)
{
	int error = 0;

	if (region->slot >= FAKE_SLOTS || region->guest_phys_addr % 4096 || region->memory_size % 4096 ||
	    region->userspace_addr % 4096)
		return EINVAL;
	pthread_rwlock_wrlock(&vm->slots_lock);
	for (unsigned i = 0; i < FAKE_SLOTS; i++) {
		const struct kvm_userspace_memory_region *other = &vm->slots[i];

		if (i != region->slot && region->memory_size && other->memory_size &&
		    region->guest_phys_addr < other->guest_phys_addr + other->memory_size &&
		    other->guest_phys_addr < region->guest_phys_addr + region->memory_size)
			error = EEXIST;
	}
	if (!error)
		vm->slots[region->slot] = *region;
	if (!error && region->guest_phys_addr == AKVM_GPA_TABLES && region->memory_size) {
		free(vm->shadow);
		vm->shadow = calloc(region->memory_size / 8, sizeof(*vm->shadow));
		vm->shadow_gpa = region->guest_phys_addr;
		vm->shadow_bytes = region->memory_size;
	}
	pthread_rwlock_unlock(&vm->slots_lock);
	return error;
}

static uint8_t *host_address(struct fake_vm *vm, uint64_t gpa, bool write)
{
	uint8_t *host = NULL;

	pthread_rwlock_rdlock(&vm->slots_lock);
	for (unsigned i = 0; i < FAKE_SLOTS && !host; i++) {
		const struct kvm_userspace_memory_region *slot = &vm->slots[i];

		if (gpa >= slot->guest_phys_addr && gpa - slot->guest_phys_addr < slot->memory_size &&
		    !(write && slot->flags & KVM_MEM_READONLY))
			host = (uint8_t *)(uintptr_t)slot->userspace_addr + (gpa - slot->guest_phys_addr);
	}
	pthread_rwlock_unlock(&vm->slots_lock);
	return host;
}

/* One entry, through the shadow when there is one. */
static bool read_entry(struct fake_cpu *cpu, uint64_t gpa, uint64_t *entry)
{
	struct fake_vm *vm = cpu->vm;
	uint64_t *real = (uint64_t *)(void *)host_address(vm, gpa, false), *seen;

	if (!real) {
		cpu->hole = gpa;
		return false;
	}
	if (!fake_kind()->shadow_paging || gpa - vm->shadow_gpa >= vm->shadow_bytes) {
		*entry = __atomic_load_n(real, __ATOMIC_ACQUIRE);
		return true;
	}
	pthread_mutex_lock(&vm->shadow_lock);
	seen = &vm->shadow[(gpa - vm->shadow_gpa) / 8];
	if (!(*seen & PRESENT))
		*seen = __atomic_load_n(real, __ATOMIC_ACQUIRE);
	*entry = *seen;
	pthread_mutex_unlock(&vm->shadow_lock);
	return true;
}

/* False where a file ends before its mapping: as KVM, asking the kernel rather than dying of SIGBUS. */
static bool store(struct fake_vm *vm, uint64_t gpa, uint8_t *host, const uint8_t *from, size_t bytes)
{
	if (gpa >= AKVM_GPA_FILES) {
		struct iovec local = { (void *)(uintptr_t)from, bytes }, remote = { host, bytes };

		return process_vm_writev(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)bytes;
	}
	pthread_mutex_lock(&vm->shadow_lock);
	if (bytes == 8 && gpa % 8 == 0) {
		uint64_t value;

		memcpy(&value, from, sizeof(value));
		__atomic_store_n((uint64_t *)(void *)host, value, __ATOMIC_RELEASE);
	} else {
		for (size_t i = 0; i < bytes; i++)
			__atomic_store_n(host + i, from[i], __ATOMIC_RELAXED);
	}
	for (size_t i = 0; i < bytes; i++)
		if (vm->shadow && gpa + i - vm->shadow_gpa < vm->shadow_bytes)
			vm->shadow[(gpa + i - vm->shadow_gpa) / 8] = 0;
	pthread_mutex_unlock(&vm->shadow_lock);
	return true;
}

/* As store(). */
static bool fetch(uint64_t gpa, uint8_t *host, uint8_t *to, size_t bytes)
{
	struct iovec local = { to, bytes }, remote = { host, bytes };

	if (gpa >= AKVM_GPA_FILES)
		return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)bytes;
	if (bytes == 8 && (uintptr_t)host % 8 == 0) {
		uint64_t value = __atomic_load_n((uint64_t *)(void *)host, __ATOMIC_ACQUIRE);

		memcpy(to, &value, sizeof(value));
		return true;
	}
	for (size_t i = 0; i < bytes; i++)
		to[i] = __atomic_load_n(host + i, __ATOMIC_RELAXED);
	return true;
}

/* Rights: PRESENT, WRITABLE and USER hold when they hold at each level, NO_EXECUTE when it does at any. */
static bool walk(struct fake_cpu *cpu, uint64_t address, uint64_t *frame, uint64_t *rights)
{
	uint64_t table = cpu->sregs.cr3 & ADDRESS, entry;

	*rights = PRESENT | WRITABLE | USER;
	for (int shift = 39;; shift -= 9) {
		if (!read_entry(cpu, table + (address >> shift & 511) * 8, &entry))
			return false;
		*rights = (*rights & entry & (PRESENT | WRITABLE | USER)) | ((*rights | entry) & NO_EXECUTE);
		if (!(entry & PRESENT))
			return true;
		table = entry & ADDRESS;
		if (shift == 12 || (shift < 39 && entry & HUGE)) {
			*frame = (table & ~((1ull << shift) - 1)) | (address & ((1ull << shift) - 1) & ~0xfffull);
			return true;
		}
	}
}

static bool allowed(const struct fake_cpu *cpu, uint64_t rights, enum fake_access access, bool user)
{
	if (!(rights & PRESENT) || (access == FAKE_WRITE && !(rights & WRITABLE)) ||
	    (access == FAKE_FETCH && rights & NO_EXECUTE))
		return false;
	if (user)
		return rights & USER;
	if (!(rights & USER))
		return true;
	return access == FAKE_FETCH ? !(cpu->sregs.cr4 & CR4_SMEP) : !(cpu->sregs.cr4 & CR4_SMAP);
}

static uint16_t pcid(const struct fake_cpu *cpu)
{
	return cpu->sregs.cr4 & CR4_PCIDE ? cpu->sregs.cr3 & 0xfff : 0;
}

static bool page_fault(struct fake_cpu *cpu, uint64_t address, uint64_t rights, enum fake_access access, bool user)
{
	cpu->fault = (struct fake_fault){
		.vector = VECTOR_PF,
		.error_code = (rights & PRESENT ? PF_PRESENT : 0) | (access == FAKE_WRITE ? PF_WRITE : 0) | (user ? PF_USER : 0) |
			      (access == FAKE_FETCH ? PF_FETCH : 0),
		.address = address,
	};
	return false;
}

static bool translate(struct fake_cpu *cpu, uint64_t address, enum fake_access access, bool user, uint64_t *gpa)
{
	uint64_t page = address & ~0xfffull, rights = 0, frame = 0;
	struct fake_translation *cached = &cpu->tlb[(page + pcid(cpu)) * 0x9e3779b97f4a7c15 >> 32 & (FAKE_TLB - 1)];

	if ((uint64_t)((int64_t)(address << 16) >> 16) != address) {
		cpu->fault = (struct fake_fault){ .vector = VECTOR_GP };
		return false;
	}
	if (cached->valid && cached->page == page && cached->pcid == pcid(cpu) && allowed(cpu, cached->entry, access, user)) {
		*gpa = cached->frame | (address & 0xfff);
		return true;
	}
	if (!walk(cpu, address, &frame, &rights))
		return false;
	if (!allowed(cpu, rights, access, user)) {
		cached->valid = cached->valid && !(cached->page == page && cached->pcid == pcid(cpu));
		return page_fault(cpu, address, rights, access, user);
	}
	*cached = (struct fake_translation){ page, frame, rights, pcid(cpu), true };
	*gpa = frame | (address & 0xfff);
	return true;
}

static bool access_as(struct fake_cpu *cpu, uint64_t address, enum fake_access access, void *buffer, size_t bytes, bool user)
{
	uint8_t *at = buffer;

	while (bytes) {
		size_t part = 4096 - address % 4096 < bytes ? 4096 - address % 4096 : bytes;
		uint8_t *host;
		uint64_t gpa;

		if (!translate(cpu, address, access, user, &gpa))
			return false;
		host = host_address(cpu->vm, gpa, access == FAKE_WRITE);
		if (!host) {
			cpu->hole = gpa;
			return false;
		}
		if (access == FAKE_WRITE ? !store(cpu->vm, gpa, host, at, part) : !fetch(gpa, host, at, part)) {
			cpu->bus = true;
			return false;
		}
		address += part;
		at += part;
		bytes -= part;
	}
	return true;
}

bool fake_cpu_access(struct fake_cpu *cpu, uint64_t address, enum fake_access access, void *buffer, size_t bytes)
{
	return access_as(cpu, address, access, buffer, bytes, fake_cpu_ring(cpu) == 3);
}

bool fake_cpu_access_system(struct fake_cpu *cpu, uint64_t address, enum fake_access access, void *buffer, size_t bytes)
{
	return access_as(cpu, address, access, buffer, bytes, false);
}

void fake_cpu_flush(struct fake_cpu *cpu, int which)
{
	for (unsigned i = 0; i < FAKE_TLB; i++) {
		if (cpu->tlb[i].valid && (which < 0 || cpu->tlb[i].pcid == which)) {
			cpu->tlb[i].valid = false;
			fake_count_flush();
		}
	}
}
