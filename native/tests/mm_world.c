/*
 * A machine without KVM for the guest-memory tests: see mm_world.h.
 */
#define _GNU_SOURCE
#include "mm_world.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "akvm/layout.h"
#include "t.h"

enum { RETRIES_MAX = 64, REAPS_MAX = 100000 };

static uint64_t hash_page(const uint8_t *bytes)
{
	uint64_t hash = 1469598103934665603ull, word;

	for (unsigned i = 0; i < AKVM__PAGE; i += sizeof(word)) {
		memcpy(&word, bytes + i, sizeof(word));
		hash = (hash ^ word) * 1099511628211ull;
	}
	return hash;
}

static struct world_slot *slot_of(struct world *world, uint64_t gpa)
{
	for (unsigned i = 0; i < WORLD_SLOTS; i++) {
		struct world_slot *slot = &world->slots[i];

		if (slot->bytes && gpa >= slot->gpa && gpa - slot->gpa < slot->bytes)
			return slot;
	}
	return NULL;
}

uint8_t *world_host(struct world *world, uint64_t gpa)
{
	struct world_slot *slot = slot_of(world, gpa);

	return slot != NULL ? slot->host + (gpa - slot->gpa) : NULL;
}

static bool writable(struct world *world, uint64_t gpa)
{
	struct world_slot *slot = slot_of(world, gpa);

	return slot != NULL && !slot->read_only;
}

static bool writable_file(struct world *world, uint64_t gpa)
{
	return gpa >= AKVM_GPA_FILES && writable(world, gpa);
}

static int set_slot(void *opaque, uint32_t slot, int read_only, uint64_t gpa, void *host, uint64_t bytes)
{
	struct world *world = opaque;

	if (world->slot_error)
		return world->slot_error;
	T_CHECK(slot < WORLD_SLOTS);
	for (unsigned i = 0; i < WORLD_SLOTS; i++) {
		struct world_slot *other = &world->slots[i];

		T_CHECK(bytes == 0 || other->bytes == 0 || i == slot || gpa + bytes <= other->gpa ||
			other->gpa + other->bytes <= gpa);
	}
	T_CHECK((bytes == 0) == (world->slots[slot].bytes != 0));
	world->slots[slot] = (struct world_slot){ gpa, bytes, host, read_only };
	return 0;
}

static void interrupt(void *opaque, struct akvm_space *space)
{
	struct world *world = opaque;
	struct akvm__place place;

	world->interrupts++;
	for (unsigned i = 0; i < WORLD_CPUS; i++) {
		struct world_cpu *cpu = &world->cpus[i];

		if (cpu->space != space)
			continue;
		cpu->interrupted = true;
		for (unsigned j = 0; j < WORLD_TLB; j++) {
			struct world_line *line = &cpu->tlb[j];
			uint64_t address = line->page * AKVM__PAGE, entry, gpa;

			if (!line->valid || line->stale)
				continue;
			entry = akvm__walk(space, address, &place);
			gpa = akvm__entry_gpa(entry) + address % (akvm__entry_size(entry) * AKVM__PAGE);
			/* Still this space's page, be it parked. */
			if (entry != 0 && gpa == akvm__entry_gpa(line->entry))
				continue;
			line->stale = true;
			line->hash = hash_page(world_host(world, akvm__entry_gpa(line->entry)));
		}
	}
}

static int settled(void *opaque, struct akvm_space *space, uint64_t generation)
{
	struct world *world = opaque;

	for (unsigned i = 0; i < WORLD_CPUS; i++)
		if (world->cpus[i].space == space && world->cpus[i].generation < generation)
			return 0;
	return !world->unsettled;
}

static void reap(void *opaque)
{
	((struct world *)opaque)->reaps++;
}

static void forget(void *opaque, void *shadow)
{
	struct world *world = opaque;

	world->forgotten++;
	world->forgot = shadow;
}

static void open_any(struct world *world, uint64_t memory_bytes, uint32_t fault_around, bool guest_edits, bool shadowed)
{
	struct akvm__mm_hooks hooks = {
		.opaque = world,
		.shadowed = shadowed,
		.set_slot = set_slot,
		.interrupt = interrupt,
		.settled = settled,
		.forget = shadowed ? forget : NULL,
		.reap = reap,
	};
	uint64_t *kernel;

	memset(world, 0, sizeof(*world));
	world->payload_words = AKVM_PAYLOAD_BYTES / 8;
	T_EQUAL(akvm__mm_create(&hooks, memory_bytes, fault_around, WORLD_SLOTS, &world->mm), 0);
	akvm__mm_guest_edits(world->mm, guest_edits);
	T_CHECK(akvm__mm_kernel_table(world->mm, &kernel) != 0);
	akvm__mm_kernel_half(world->mm, 0x1003, 0x2003);
	if (guest_edits)
		world->shadow = calloc(world->mm->tables.bytes / 8, 8);
}

void world_open(struct world *world, uint64_t memory_bytes, uint32_t fault_around, bool guest_edits)
{
	open_any(world, memory_bytes, fault_around, guest_edits, false);
}

void world_open_shadowed(struct world *world, uint64_t memory_bytes, uint32_t fault_around)
{
	open_any(world, memory_bytes, fault_around, false, true);
}

void world_close(struct world *world)
{
	struct akvm_memory_status status;

	for (unsigned i = 0; i < WORLD_CPUS; i++)
		world_leave(&world->cpus[i]);
	world_reap(world);
	akvm__mm_status(world->mm, &status);
	T_EQUAL(status.spaces, 0);
	T_EQUAL(status.frames_used, 0);
	T_EQUAL(status.limbo_frames, 0);
	T_EQUAL(status.tables_used, 2); /* the kernel's root and table */
	T_EQUAL(status.file_slots, 0);
	akvm__mm_free(world->mm);
	free(world->shadow);
}

static uint64_t *real_entry(struct world *world, uint64_t window)
{
	T_CHECK(window >= AKVM_TABLES_WINDOW && window - AKVM_TABLES_WINDOW < world->mm->tables.bytes && window % 8 == 0);
	return world->mm->tables.real + (window - AKVM_TABLES_WINDOW) / 8;
}

/* Store `runs` runs; those after the first `stop` values are lost. */
static void store(struct world *world, const uint64_t *payload, unsigned used, unsigned runs, uint64_t stop)
{
	const uint64_t *end = payload + used;

	for (unsigned run = 0; run < runs; run++) {
		uint64_t *entry = real_entry(world, payload[0]), count = payload[1];

		T_CHECK(count > 0 && payload + 2 + count <= end);
		for (uint64_t i = 0; i < count; i++) {
			if (stop-- == 0)
				return;
			__atomic_store_n(&entry[i], payload[2 + i], __ATOMIC_RELEASE);
			world->shadow[entry + i - world->mm->tables.real] = 0;
		}
		payload += 2 + count;
	}
	T_CHECK(payload == end);
}

void world_apply(struct world *world, struct akvm_space *space)
{
	uint64_t payload[AKVM_PAYLOAD_BYTES / 8];
	uint32_t runs, used;

	akvm__space_lock(space);
	for (;;) {
		unsigned words = world->payload_words;

		if (world->random)
			words = 3 + (unsigned)(t_random(&world->random) % (words - 2));
		used = akvm__space_edits_take(space, payload, words, &runs);
		T_CHECK(used <= words && (used == 0) == (runs == 0));
		if (used == 0)
			break;
		T_CHECK(world->shadow != NULL);
		/* A vCPU that fails half way drops the lock, and somebody takes again. */
		if (world->random && t_random(&world->random) % 8 == 0) {
			store(world, payload, used, runs, t_random(&world->random) % used);
			continue;
		}
		store(world, payload, used, runs, UINT64_MAX);
		akvm__space_edits_done(space);
	}
	T_CHECK(!akvm__space_edits_pending(space));
	akvm__space_unlock(space);
}

void world_drop_edits(struct world *world, struct akvm_space *space)
{
	uint64_t payload[AKVM_PAYLOAD_BYTES / 8];
	uint32_t runs, used;

	akvm__space_lock(space);
	used = akvm__space_edits_take(space, payload, 3 + (unsigned)(t_random(&world->random) % 64), &runs);
	if (used)
		store(world, payload, used, runs, t_random(&world->random) % used);
	akvm__space_unlock(space);
}

void world_reap(struct world *world)
{
	struct akvm_space *space;
	unsigned turns = 0;

	while ((space = akvm__mm_reap_next(world->mm)) != NULL) {
		T_CHECK(++turns < REAPS_MAX);
		world_apply(world, space);
		akvm__mm_reap_done(world->mm, space);
	}
	world->reaps = 0;
}

void world_leave(struct world_cpu *cpu)
{
	cpu->space = NULL;
	cpu->interrupted = false;
}

void world_enter(struct world *world, struct world_cpu *cpu, struct akvm_space *space)
{
	uint64_t generation;

	world_leave(cpu);
	world_apply(world, space);
	generation = akvm__space_generation(space);
	for (unsigned i = 0; i < WORLD_CPUS; i++)
		if (world->cpus[i].space == space && world->cpus[i].generation < generation)
			world_leave(&world->cpus[i]);
	cpu->space = space;
	cpu->generation = generation;
	if (cpu->tlb_space != akvm__space_id(space) || cpu->tlb_generation != generation)
		memset(cpu->tlb, 0, sizeof(cpu->tlb));
	cpu->tlb_space = akvm__space_id(space);
	cpu->tlb_generation = generation;
}

static uint64_t walk_entry(struct world *world, uint64_t table_gpa, uint64_t index, bool cpu)
{
	uint64_t *table = (uint64_t *)(void *)world_host(world, table_gpa), entry;

	T_CHECK(table != NULL);
	entry = __atomic_load_n(&table[index], __ATOMIC_ACQUIRE);
	if (cpu && world->shadow != NULL) {
		uint64_t *shadow = &world->shadow[table + index - world->mm->tables.real];

		if (*shadow & AKVM__ENTRY_PRESENT)
			return *shadow;
		*shadow = entry;
	}
	return entry;
}

/* The leaf for `address` as a 4 KiB entry, or 0. */
static uint64_t walk(struct world *world, uint64_t root, uint64_t address, bool cpu)
{
	uint64_t gpa = root, entry = 0;

	for (int shift = 39; shift >= 12; shift -= 9) {
		entry = walk_entry(world, gpa, address >> shift & 511, cpu);
		if (!(entry & AKVM__ENTRY_PRESENT))
			return 0;
		T_CHECK(entry & AKVM__ENTRY_USER && entry & AKVM__ENTRY_ACCESSED);
		if (shift == 21 && entry & AKVM__ENTRY_HUGE)
			return (entry & ~AKVM__ENTRY_HUGE) + (address & (AKVM__HUGE_PAGE - 1) & ~(AKVM__PAGE - 1));
		T_CHECK(!(entry & AKVM__ENTRY_HUGE));
		if (shift > 12)
			T_CHECK(entry & AKVM__ENTRY_WRITE && !(entry & AKVM__ENTRY_NO_EXECUTE));
		gpa = entry & AKVM__ENTRY_ADDRESS;
	}
	return entry;
}

uint64_t world_walk(struct world *world, struct akvm_space *space, uint64_t address)
{
	return walk(world, akvm__space_root(space), address, false);
}

static bool permits(uint64_t entry, uint32_t access)
{
	if (!(entry & AKVM__ENTRY_PRESENT))
		return false;
	/* What the CPU may write is marked dirty already. */
	T_CHECK(!(entry & AKVM__ENTRY_WRITE) || entry & AKVM__ENTRY_DIRTY);
	if (access & AKVM_WRITE && !(entry & AKVM__ENTRY_WRITE))
		return false;
	return !(access & AKVM_EXECUTE && entry & AKVM__ENTRY_NO_EXECUTE);
}

/* The host address of the page, or NULL after a page fault with enum akvm_fault in *fault (NONE: gave up). */
static uint8_t *touch(struct world *world, struct world_cpu *cpu, struct akvm_space *space, uint64_t address, uint32_t access,
		      int *fault)
{
	uint64_t page = address / AKVM__PAGE;
	struct world_line *line = &cpu->tlb[page % WORLD_TLB];

	for (unsigned retry = 0; retry < RETRIES_MAX; retry++) {
		uint64_t entry;

		if (cpu->space != space || cpu->interrupted)
			world_enter(world, cpu, space);
		if (line->valid && line->page == page && permits(line->entry, access))
			return world_host(world, akvm__entry_gpa(line->entry));
		entry = walk(world, akvm__space_root(space), address, true);
		/* A page fault drops the translation of its address. */
		line->valid = false;
		/* A frame, or a page of a file that was opened for it. */
		T_CHECK(!(entry & AKVM__ENTRY_WRITE) || writable(world, akvm__entry_gpa(entry)));
		if (permits(entry, access)) {
			*line = (struct world_line){ page, entry, 0, true, false };
			continue;
		}
		world_leave(cpu);
		*fault = akvm__space_fault(space, address, access);
		if (*fault != AKVM_FAULT_NONE)
			return NULL;
	}
	*fault = AKVM_FAULT_NONE;
	return NULL;
}

int world_access(struct world *world, struct world_cpu *cpu, struct akvm_space *space, uint64_t address, void *buffer,
		 uint64_t length, uint32_t access, uint64_t *done)
{
	for (*done = 0; *done < length;) {
		uint64_t at = address + *done, room = AKVM__PAGE - at % AKVM__PAGE;
		uint64_t count = length - *done < room ? length - *done : room;
		int fault = AKVM_FAULT_NONE;
		uint8_t *host = touch(world, cpu, space, at, access, &fault);

		if (host == NULL) {
			T_CHECK(fault != AKVM_FAULT_NONE);
			return fault;
		}
		host += at % AKVM__PAGE;
		if (access & AKVM_WRITE)
			memcpy(host, (uint8_t *)buffer + *done, count);
		else
			memcpy((uint8_t *)buffer + *done, host, count);
		*done += count;
	}
	return AKVM_FAULT_NONE;
}

void world_check_stale(struct world *world)
{
	for (unsigned i = 0; i < WORLD_CPUS; i++) {
		struct world_cpu *cpu = &world->cpus[i];

		for (unsigned j = 0; cpu->space != NULL && j < WORLD_TLB; j++) {
			struct world_line *line = &cpu->tlb[j];
			uint64_t gpa = akvm__entry_gpa(line->entry);
			uint8_t *host;

			if (!line->valid || !line->stale)
				continue;
			host = world_host(world, gpa);
			T_CHECK(host != NULL);
			/* What is shared may change; but it must still be there. */
			T_CHECK(writable_file(world, gpa) || hash_page(host) == line->hash);
			if (akvm__entry_private(line->entry))
				T_CHECK(world->mm->frames.counts[(gpa - AKVM_GPA_FRAMES) / AKVM__PAGE] > 0);
		}
	}
}

uint8_t world_file_byte(uint64_t offset)
{
	return (uint8_t)(1 + (offset * 2654435761u >> 7) % 255);
}

int world_file(uint64_t length)
{
	int fd = memfd_create("mm-test", MFD_CLOEXEC);
	uint8_t *bytes = malloc(length ? length : 1);

	T_CHECK(fd >= 0 && bytes != NULL);
	for (uint64_t i = 0; i < length; i++)
		bytes[i] = world_file_byte(i);
	T_EQUAL(write(fd, bytes, length), length);
	free(bytes);
	return fd;
}
