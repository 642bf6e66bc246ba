/*
 * Page tables of a space: see pagetable.h.
 *
 * Accounting rides on the entries: a private page in the tables has its frames' counts, its share of `resident`, and a place
 * reserved in limbo; a table has a place there too.
 */
#include "pagetable.h"

#include <assert.h>
#include <errno.h>

#include "akvm/layout.h"
#include "space.h"

#define TABLE_FLAGS (AKVM__ENTRY_PRESENT | AKVM__ENTRY_WRITE | AKVM__ENTRY_USER | AKVM__ENTRY_ACCESSED)

enum { ROOT_LEVEL = 4 };

static uint32_t level_shift(uint32_t level)
{
	return 12 + 9 * (level - 1);
}

static struct akvm__place place_of(uint32_t table, uint64_t address, uint32_t level)
{
	uint64_t index = address >> level_shift(level) & (AKVM__ENTRIES - 1);

	return (struct akvm__place){ table, (uint16_t)index, (uint16_t)level };
}

static bool is_page(struct akvm__place place, uint64_t entry)
{
	return place.level == 1 || entry & AKVM__ENTRY_HUGE;
}

uint64_t akvm__entry_get(const struct akvm_space *space, struct akvm__place place)
{
	return akvm__tables_intended(&space->mm->tables, place.table)[place.index];
}

uint32_t akvm__entry_size(uint64_t entry)
{
	return entry & AKVM__ENTRY_HUGE ? AKVM__HUGE : AKVM__SMALL;
}

uint64_t akvm__entry_gpa(uint64_t entry)
{
	return entry & AKVM__ENTRY_ADDRESS;
}

bool akvm__entry_private(uint64_t entry)
{
	return akvm__entry_gpa(entry) < AKVM_GPA_FILES;
}

uint64_t akvm__entry_make(uint64_t gpa, uint32_t size, uint32_t access, bool writable)
{
	uint64_t entry = gpa | (size == AKVM__HUGE ? AKVM__ENTRY_HUGE : 0);

	if (access == 0)
		return entry | AKVM__ENTRY_PARKED;
	/* The accessed and dirty bits are set from the start: then the CPU never writes to a table. */
	entry |= AKVM__ENTRY_PRESENT | AKVM__ENTRY_USER | AKVM__ENTRY_ACCESSED;
	if (writable && access & AKVM_WRITE)
		entry |= AKVM__ENTRY_WRITE | AKVM__ENTRY_DIRTY;
	if (!(access & AKVM_EXECUTE))
		entry |= AKVM__ENTRY_NO_EXECUTE;
	return entry;
}

uint64_t akvm__walk(const struct akvm_space *space, uint64_t address, struct akvm__place *place)
{
	uint32_t table = space->root;

	for (uint32_t level = ROOT_LEVEL;; level--) {
		uint64_t entry;

		*place = place_of(table, address, level);
		entry = akvm__entry_get(space, *place);
		if (entry == 0 || is_page(*place, entry))
			return entry;
		table = akvm__tables_index(entry);
	}
}

int akvm__walk_make(struct akvm_space *space, uint64_t address, uint32_t level, struct akvm__place *place)
{
	uint32_t table = space->root;

	for (uint32_t at = ROOT_LEVEL;; at--) {
		uint64_t entry;

		*place = place_of(table, address, at);
		if (at == level)
			return 0;
		entry = akvm__entry_get(space, *place);
		if (entry != 0) {
			table = akvm__tables_index(entry);
			continue;
		}
		/* A page touched here and there costs up to three tables: a space pays for them as for its pages. */
		if (space->limit != 0 && space->resident + space->tables >= space->limit)
			return -EDQUOT;
		if (!akvm__budget_charge(space->budget, 1, false))
			return -EDQUOT;
		if (akvm__limbo_reserve(&space->limbo, 1) != 0 || akvm__tables_take(&space->mm->tables, &table) != 0) {
			akvm__budget_release(space->budget, 1);
			return -ENOMEM;
		}
		space->limbo.owed++;
		space->tables++;
		space->mm->tables.tables[table].base = address & ~((1ull << level_shift(at)) - 1);
		akvm__entry_set(space, *place, akvm__tables_gpa(table) | TABLE_FLAGS);
	}
}

int akvm__split(struct akvm_space *space, struct akvm__place place)
{
	struct akvm__tables *tables = &space->mm->tables;
	uint64_t entry = akvm__entry_get(space, place) & ~AKVM__ENTRY_HUGE;
	struct akvm__place small = { 0, 0, 1 };

	/* One page becomes 512, and there is a table more. */
	if (akvm__limbo_reserve(&space->limbo, AKVM__HUGE) != 0 || akvm__tables_take(tables, &small.table) != 0)
		return -ENOMEM;
	/* Nobody can give memory back without a table first. */
	(void)akvm__budget_charge(space->budget, 1, true);
	space->limbo.owed += AKVM__HUGE;
	space->tables++;
	tables->tables[small.table].base = tables->tables[place.table].base + place.index * AKVM__HUGE_PAGE;
	for (small.index = 0; small.index < AKVM__ENTRIES; small.index++)
		akvm__entry_set(space, small, entry + small.index * AKVM__PAGE);
	akvm__entry_set(space, place, akvm__tables_gpa(small.table) | TABLE_FLAGS);
	akvm__mm_count(&space->mm->counters.huge_splits, 1);
	return 0;
}

int akvm__split_at(struct akvm_space *space, uint64_t address)
{
	struct akvm__place place;
	uint64_t entry;

	if (address % AKVM__HUGE_PAGE == 0)
		return 0;
	entry = akvm__walk(space, address, &place);
	return entry & AKVM__ENTRY_HUGE ? akvm__split(space, place) : 0;
}

void akvm__page_set(struct akvm_space *space, struct akvm__place place, uint64_t entry)
{
	akvm__entry_set(space, place, entry);
	if (!akvm__entry_private(entry))
		return;
	space->limbo.owed++;
	space->resident += akvm__entry_size(entry);
	akvm__mm_count(entry & AKVM__ENTRY_HUGE ? &space->mm->counters.huge_mapped : &space->mm->counters.small_mapped, 1);
}

void akvm__page_clear(struct akvm_space *space, struct akvm__place place)
{
	uint64_t entry = akvm__entry_get(space, place);
	uint32_t size = akvm__entry_size(entry);

	akvm__entry_set(space, place, 0);
	if (!akvm__entry_private(entry))
		return;
	space->resident -= size;
	if (space->budget != NULL)
		akvm__frames_discharge(&space->mm->frames, akvm__entry_gpa(entry), size);
	akvm__limbo_push(&space->limbo, size == AKVM__HUGE ? AKVM__LIMBO_HUGE : AKVM__LIMBO_SMALL, akvm__entry_gpa(entry));
	akvm__mm_count(&space->mm->counters.limbo_frames, size);
}

void akvm__table_drop(struct akvm_space *space, uint64_t entry)
{
	uint32_t table = akvm__tables_index(entry);

	assert(space->mm->tables.tables[table].used == 0);
	space->tables--;
	akvm__budget_release(space->budget, 1);
	akvm__limbo_push(&space->limbo, AKVM__LIMBO_TABLE, akvm__tables_gpa(table));
}

/* Recursion is as deep as the tables: four. */
static int visit(struct akvm__visitor *visitor, uint32_t table, uint32_t level, uint64_t base)
{
	struct akvm_space *space = visitor->space;
	uint32_t shift = level_shift(level);
	uint64_t end = base + ((uint64_t)AKVM__ENTRIES << shift);
	uint64_t first = visitor->start > base ? (visitor->start - base) >> shift : 0;
	uint64_t last = ((visitor->end < end ? visitor->end : end) - 1 - base) >> shift;

	for (uint64_t index = first; index <= last; index++) {
		struct akvm__place place = { table, (uint16_t)index, (uint16_t)level };
		uint64_t entry = akvm__entry_get(space, place), address = base + (index << shift);
		uint32_t below;
		int error;

		if (entry == 0)
			continue;
		if (is_page(place, entry)) {
			error = visitor->page(visitor, place, entry, address);
			if (error)
				return error;
			continue;
		}
		below = akvm__tables_index(entry);
		error = visit(visitor, below, level - 1, address);
		if (error)
			return error;
		if (space->mm->tables.tables[below].used == 0 && !visitor->keep_tables) {
			akvm__entry_set(space, place, 0);
			akvm__table_drop(space, entry);
		}
	}
	return 0;
}

int akvm__pages_visit(struct akvm__visitor *visitor)
{
	if (visitor->start >= visitor->end)
		return 0;
	return visit(visitor, visitor->space->root, ROOT_LEVEL, 0);
}

static int clear_page(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	(void)address;
	if (akvm__entry_private(entry) || !visitor->keep_files)
		akvm__page_clear(visitor->space, place);
	return 0;
}

void akvm__pages_clear(struct akvm_space *space, uint64_t start, uint64_t end, bool keep_files)
{
	struct akvm__visitor visitor = {
		.space = space,
		.start = start,
		.end = end,
		.page = clear_page,
		.keep_files = keep_files,
	};

	(void)akvm__pages_visit(&visitor);
}
