/*
 * The memory manager of one machine: its arenas, its slots, its counters.
 */
#include <errno.h>
#include <stdlib.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "space.h"

/* One byte of tables for so many bytes of frames. Pages alone need an eighth of that; but the smallest program has ten tables
 * whatever its size, and thousands of them live in one machine. Untouched tables cost nothing. */
enum { FRAMES_PER_TABLES = 16 };
#define TABLES_BYTES_MIN (64ull << 20)
#define TABLES_BYTES_MAX (8ull << 30) /* what the guest-physical layout leaves for them */

enum { FAULT_AROUND_MAX = 64 };

static uint64_t tables_bytes(uint64_t memory_bytes)
{
	uint64_t bytes = (memory_bytes / FRAMES_PER_TABLES + AKVM__HUGE_PAGE - 1) & ~(AKVM__HUGE_PAGE - 1);

	if (bytes > TABLES_BYTES_MAX)
		return TABLES_BYTES_MAX;
	return bytes > TABLES_BYTES_MIN ? bytes : TABLES_BYTES_MIN;
}

/* The arenas, their slots and the kernel's root; mm is freed as a whole when one of them fails. */
static int set_up(struct akvm__mm *mm, uint64_t memory_bytes, uint32_t slots_max)
{
	const struct akvm__mm_hooks *hooks = &mm->hooks;
	int error = akvm__files_create(&mm->files, hooks, slots_max);

	if (error)
		return error;
	error = akvm__frames_create(&mm->frames, memory_bytes, hooks->shadowed, &mm->budgets);
	if (error)
		return error;
	error = akvm__tables_create(&mm->tables, tables_bytes(memory_bytes));
	if (error)
		return error;
	error = hooks->set_slot(hooks->opaque, AKVM_SLOT_TABLES, 0, AKVM_GPA_TABLES, mm->tables.real, mm->tables.bytes);
	if (error)
		return error;
	error = hooks->set_slot(hooks->opaque, AKVM_SLOT_FRAMES, 0, AKVM_GPA_FRAMES, mm->frames.base, mm->frames.bytes);
	if (error)
		return error;
	return akvm__tables_take_root(&mm->tables, &mm->kernel_root);
}

int akvm__mm_create(const struct akvm__mm_hooks *hooks, uint64_t memory_bytes, uint32_t fault_around_pages, uint32_t slots_max,
		    struct akvm__mm **out)
{
	struct akvm__mm *mm;
	int error;

	if (memory_bytes == 0 || memory_bytes % AKVM__HUGE_PAGE != 0 || memory_bytes > AKVM_GPA_FILES - AKVM_GPA_FRAMES)
		return akvm__fail("memory size", EINVAL);
	if (fault_around_pages == 0 || fault_around_pages > FAULT_AROUND_MAX || fault_around_pages & (fault_around_pages - 1))
		return akvm__fail("fault-around pages", EINVAL);
	mm = AKVM__HOST->calloc(1, sizeof(*mm));
	if (mm == NULL)
		return akvm__fail("allocate memory manager", ENOMEM);
	mm->hooks = *hooks;
	mm->fault_around = fault_around_pages;
	pthread_mutex_init(&mm->spaces_lock, NULL);
	akvm__budgets_create(&mm->budgets);
	error = set_up(mm, memory_bytes, slots_max);
	if (error) {
		akvm__mm_free(mm);
		return error;
	}
	*out = mm;
	return 0;
}

void akvm__mm_free(struct akvm__mm *mm)
{
	if (mm == NULL)
		return;
	/* The files first: they leave their slots alone then, and references that spaces still have just count down. */
	akvm__files_free(&mm->files);
	while (mm->spaces != NULL) {
		struct akvm_space *space = mm->spaces;

		mm->spaces = space->next;
		akvm__space_abandon(space);
	}
	akvm__tables_free(&mm->tables);
	akvm__frames_free(&mm->frames);
	akvm__budgets_free(&mm->budgets);
	pthread_mutex_destroy(&mm->spaces_lock);
	free(mm);
}

void akvm__mm_kernel_half(struct akvm__mm *mm, uint64_t entry_510, uint64_t entry_511)
{
	akvm__tables_kernel_half(&mm->tables, mm->kernel_root, entry_510, entry_511);
}

uint64_t akvm__mm_kernel_table(struct akvm__mm *mm, uint64_t **host)
{
	uint32_t table;

	if (akvm__tables_take(&mm->tables, &table) != 0)
		return 0;
	*host = akvm__tables_real(&mm->tables, table);
	return akvm__tables_gpa(table);
}

void akvm__mm_guest_edits(struct akvm__mm *mm, int guest_edits)
{
	akvm__tables_guest_edits(&mm->tables, guest_edits != 0);
}

uint64_t akvm__mm_kernel_root(struct akvm__mm *mm)
{
	return akvm__tables_gpa(mm->kernel_root);
}

int akvm__file_open(struct akvm__mm *mm, int fd, bool writable, uint64_t bytes, struct akvm_file **file)
{
	return akvm__files_open(&mm->files, fd, writable, bytes, file);
}

int akvm__mm_budget_create(struct akvm__mm *mm, uint64_t pages, struct akvm_budget **budget)
{
	return akvm__budget_create(&mm->budgets, pages, budget);
}

static uint64_t counter(uint64_t *value)
{
	return __atomic_load_n(value, __ATOMIC_RELAXED);
}

void akvm__mm_status(struct akvm__mm *mm, struct akvm_memory_status *status)
{
	struct akvm__mm_counters *counters = &mm->counters;

	*status = (struct akvm_memory_status){
		.frames_total = mm->frames.bytes / AKVM__PAGE,
		.frames_used = akvm__frames_used(&mm->frames),
		.huge_mapped = counter(&counters->huge_mapped),
		.small_mapped = counter(&counters->small_mapped),
		.faults = counter(&counters->faults),
		.cow_copies = counter(&counters->cow_copies),
		.huge_splits = counter(&counters->huge_splits),
		.edits = counter(&counters->edits),
		.tables_used = akvm__tables_used(&mm->tables),
		.tables_total = mm->tables.total,
		.limbo_frames = counter(&counters->limbo_frames),
		.file_slots = akvm__files_slots(&mm->files),
	};
	pthread_mutex_lock(&mm->spaces_lock);
	status->spaces = mm->spaces_count;
	pthread_mutex_unlock(&mm->spaces_lock);
}
