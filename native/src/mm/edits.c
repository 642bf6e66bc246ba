/*
 * How a changed entry reaches the tables the CPU walks, and when what it let go of may be used again.
 *
 * The difference between hosts lives here and nowhere else. Every host sees a store that makes an absent entry present. A store
 * to a present entry is seen after a CR3 load where paging is nested; where it is shadowed only a store by guest ring 0 is, so
 * such changes are marked per entry and carried over later: the value is the one intended at that time, and two changes of
 * one entry are one store. The marks need no memory, so a change never fails half way.
 */
#include <stddef.h>
#include <string.h>

#include "akvm/layout.h"
#include "space.h"

/* A run: [destination][count][values], at least one. */
enum { RUN_HEADER = 2, RUN_MIN = 3 };
/* Empty entries that a run goes over, rather than end: a run more costs as much as storing so many of them. */
enum { GAP_MAX = 16 };

static bool marked(const uint64_t *marks, uint32_t index)
{
	return marks[index / 64] >> index % 64 & 1;
}

static bool any(const uint64_t *marks)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < AKVM__ENTRY_WORDS; i++)
		sum |= marks[i];
	return sum != 0;
}

static void queue(struct akvm_space *space, uint32_t table)
{
	struct akvm__table *tables = space->mm->tables.tables;

	if (tables[table].queued)
		return;
	tables[table].queued = true;
	tables[table].next_dirty = AKVM__NO_TABLE;
	if (space->dirty_first == AKVM__NO_TABLE)
		space->dirty_first = table;
	else
		tables[space->dirty_last].next_dirty = table;
	space->dirty_last = table;
	__atomic_store_n(&space->pending, 1, __ATOMIC_SEQ_CST);
}

void akvm__entry_set(struct akvm_space *space, struct akvm__place place, uint64_t value)
{
	struct akvm__tables *tables = &space->mm->tables;
	struct akvm__table *table = &tables->tables[place.table];
	uint64_t *intended = akvm__tables_intended(tables, place.table) + place.index;
	uint64_t *real = akvm__tables_real(tables, place.table) + place.index;
	uint64_t old = *intended;

	if (old == value)
		return;
	table->used = (uint16_t)(table->used + (value != 0) - (old != 0));
	if (old & AKVM__ENTRY_PRESENT)
		space->changed = true;
	if (space->mm->hooks.shadowed)
		akvm__shadow_note(space, place, old, value);
	if (!tables->guest_edits) {
		__atomic_store_n(real, value, __ATOMIC_RELEASE);
		return;
	}
	*intended = value;
	if (old & AKVM__ENTRY_PRESENT || marked(table->dirty, place.index) || marked(table->flight, place.index)) {
		table->dirty[place.index / 64] |= 1ull << place.index % 64;
		queue(space, place.table);
	} else {
		__atomic_store_n(real, value, __ATOMIC_RELEASE);
	}
}

/* A batch that was taken and never reported done may be in memory in part: it waits again. */
static void requeue_flight(struct akvm_space *space)
{
	while (space->flight_first != AKVM__NO_TABLE) {
		uint32_t index = space->flight_first;
		struct akvm__table *table = &space->mm->tables.tables[index];

		space->flight_first = table->next_flight;
		for (uint32_t i = 0; i < AKVM__ENTRY_WORDS; i++)
			table->dirty[i] |= table->flight[i];
		memset(table->flight, 0, sizeof(table->flight));
		queue(space, index);
	}
}

/* How many empty entries lie between `entry` and the next dirty one; 0 when that is too far, or others lie between. */
static uint32_t gap(const struct akvm__table *table, const uint64_t *intended, uint32_t entry)
{
	for (uint32_t i = 0; i <= GAP_MAX && entry + i < AKVM__ENTRIES; i++) {
		if (marked(table->dirty, entry + i))
			return i;
		if (intended[entry + i] != 0)
			break;
	}
	return 0;
}

/* Write one run out of `table`, from its first dirty entry on; returns the words written. */
static uint32_t take_run(struct akvm_space *space, uint32_t index, uint64_t *payload, uint32_t words)
{
	struct akvm__table *table = &space->mm->tables.tables[index];
	const uint64_t *intended = akvm__tables_intended(&space->mm->tables, index);
	uint32_t word = 0, entry, count = 0, between = 0;

	while (table->dirty[word] == 0)
		word++;
	entry = word * 64 + (uint32_t)__builtin_ctzll(table->dirty[word]);
	payload[0] = AKVM_TABLES_WINDOW + (uint64_t)index * AKVM__PAGE + entry * sizeof(uint64_t);
	for (; entry < AKVM__ENTRIES && count < words - RUN_HEADER; entry++) {
		/* With no edit waiting, the entry has its value: the lock keeps it so until the run is in memory. */
		if (between > 0) {
			between--;
		} else if (!marked(table->dirty, entry)) {
			between = gap(table, intended, entry);
			if (between-- == 0)
				break;
		}
		payload[RUN_HEADER + count++] = intended[entry];
		table->dirty[entry / 64] &= ~(1ull << entry % 64);
		table->flight[entry / 64] |= 1ull << entry % 64;
	}
	payload[1] = count;
	akvm__mm_count(&space->mm->counters.edits, count);
	return RUN_HEADER + count;
}

uint32_t akvm__space_edits_take(struct akvm_space *space, uint64_t *payload, uint32_t words, uint32_t *runs)
{
	struct akvm__table *tables = space->mm->tables.tables;
	uint32_t used = 0;

	*runs = 0;
	requeue_flight(space);
	while (space->dirty_first != AKVM__NO_TABLE && words - used >= RUN_MIN) {
		uint32_t index = space->dirty_first;

		while (any(tables[index].dirty) && words - used >= RUN_MIN) {
			used += take_run(space, index, payload + used, words - used);
			++*runs;
		}
		tables[index].next_flight = space->flight_first;
		space->flight_first = index;
		if (any(tables[index].dirty))
			break;
		tables[index].queued = false;
		space->dirty_first = tables[index].next_dirty;
	}
	return used;
}

void akvm__space_edits_done(struct akvm_space *space)
{
	while (space->flight_first != AKVM__NO_TABLE) {
		struct akvm__table *table = &space->mm->tables.tables[space->flight_first];

		space->flight_first = table->next_flight;
		memset(table->flight, 0, sizeof(table->flight));
	}
	if (space->dirty_first != AKVM__NO_TABLE)
		return;
	space->limbo.sealed_edits = false;
	__atomic_store_n(&space->pending, 0, __ATOMIC_SEQ_CST);
	akvm__limbo_drain(space);
}

int akvm__space_edits_pending(const struct akvm_space *space)
{
	return (int)__atomic_load_n(&space->pending, __ATOMIC_SEQ_CST);
}

static void release(struct akvm_space *space, uint64_t item)
{
	struct akvm__mm *mm = space->mm;
	uint64_t address = item & ~AKVM__LIMBO_KIND;

	switch ((enum akvm__limbo_kind)(item & AKVM__LIMBO_KIND)) {
	case AKVM__LIMBO_SMALL:
		akvm__frames_drop(&mm->frames, address, AKVM__SMALL);
		break;
	case AKVM__LIMBO_HUGE:
		akvm__frames_drop(&mm->frames, address, AKVM__HUGE);
		break;
	case AKVM__LIMBO_TABLE:
		akvm__tables_drop(&mm->tables, akvm__tables_index(address));
		break;
	case AKVM__LIMBO_FILE:
		akvm__file_drop((struct akvm_file *)(uintptr_t)address);
		break;
	}
}

/*
 * What waits leaves in two steps: everything here is sealed with the generation of now, and when that has settled it goes and
 * the next batch is sealed. Only between operations: in the middle of one the generation has not risen yet.
 */
void akvm__limbo_drain(struct akvm_space *space)
{
	struct akvm__limbo *limbo = &space->limbo;
	const struct akvm__mm_hooks *hooks = &space->mm->hooks;

	while (limbo->count > 0 && !space->changed) {
		uint64_t frames = limbo->frames;

		if (limbo->sealed == 0) {
			limbo->sealed = limbo->count;
			limbo->sealed_generation = space->generation;
			limbo->sealed_edits = space->pending != 0;
		}
		if (limbo->sealed_edits || !hooks->settled(hooks->opaque, space, limbo->sealed_generation))
			return;
		for (uint32_t i = 0; i < limbo->sealed; i++)
			release(space, limbo->items[i]);
		akvm__limbo_shift(limbo);
		akvm__mm_count(&space->mm->counters.limbo_frames, limbo->frames - frames);
	}
}

void akvm__space_publish(struct akvm_space *space)
{
	const struct akvm__mm_hooks *hooks = &space->mm->hooks;

	if (space->changed) {
		__atomic_fetch_add(&space->generation, 1, __ATOMIC_SEQ_CST);
		space->changed = false;
		hooks->interrupt(hooks->opaque, space);
	}
	akvm__limbo_drain(space);
	/* Edits wait for a vCPU to enter; when much memory waits for them, have one come. */
	if (space->pending && space->limbo.frames > space->mm->frames.bytes / AKVM__PAGE / 16)
		akvm__reap_request(space);
}
