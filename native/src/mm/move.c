/*
 * Moving a range of a space elsewhere, as mremap(2) with MREMAP_MAYMOVE does: regions and entries go, contents stay where they are.
 *
 * Everything that could run out is had before anything changes: the tables at the destination are made while its old pages are
 * still there, and kept while those are taken away.
 */
#include <assert.h>
#include <errno.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "space.h"

/* References that four cuts can add, and regions. */
enum { MOVE_REFERENCES = 4, MOVE_REGIONS = 4 };

static int split_page(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	(void)address;
	return entry & AKVM__ENTRY_HUGE ? akvm__split(visitor->space, place) : 0;
}

/* A place for the page at `address` where it is to go, beside or in place of what is there. */
static int make_room(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	struct akvm_space *space = visitor->space;
	struct akvm__place twin;

	(void)entry;
	address += visitor->distance;
	if (place.level == 1 && akvm__walk(space, address, &twin) & AKVM__ENTRY_HUGE && akvm__split(space, twin) != 0)
		return -ENOMEM;
	return akvm__walk_make(space, address, place.level, &twin) != 0 ? -ENOMEM : 0;
}

static int clear_page(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	(void)entry, (void)address;
	akvm__page_clear(visitor->space, place);
	return 0;
}

static int move_page(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	struct akvm_space *space = visitor->space;
	struct akvm__place twin;
	uint64_t table;
	int error = akvm__walk_make(space, address + visitor->distance, place.level, &twin);

	assert(error == 0);
	(void)error;
	/* Where a large page goes there may be a table, empty by now. */
	table = akvm__entry_get(space, twin);
	if (table != 0)
		akvm__table_drop(space, table);
	akvm__entry_set(space, place, 0);
	akvm__entry_set(space, twin, entry);
	return 0;
}

static int keep_page(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	(void)visitor, (void)place, (void)entry, (void)address;
	return 0;
}

/* All that can fail. Then pages read the same as before, and empty tables may be left at the destination. */
static int prepare_move(struct akvm_space *space, uint64_t from, uint64_t to, uint64_t length)
{
	struct akvm__regions *regions = &space->regions;
	struct akvm__visitor visitor = { .space = space, .start = from, .end = from + length, .distance = to - from };
	uint32_t moved = akvm__regions_find(regions, from + length - 1) - akvm__regions_find(regions, from) + 1;
	const uint64_t edges[] = { from, from + length, to, to + length };
	int error = akvm__regions_reserve(regions, moved + MOVE_REGIONS);

	for (unsigned i = 0; error == 0 && i < sizeof(edges) / sizeof(edges[0]); i++)
		error = akvm__split_at(space, edges[i]);
	if (error == 0 && visitor.distance % AKVM__HUGE_PAGE != 0) {
		visitor.page = split_page;
		error = akvm__pages_visit(&visitor);
	}
	if (error == 0) {
		visitor.page = make_room;
		error = akvm__pages_visit(&visitor);
	}
	if (error == 0)
		error = akvm__limbo_reserve(&space->limbo, MOVE_REFERENCES);
	return error;
}

static void carry_out(struct akvm_space *space, uint64_t from, uint64_t to, uint64_t length)
{
	struct akvm__regions *regions = &space->regions;
	struct akvm__visitor visitor = {
		.space = space, .start = to, .end = to + length, .page = clear_page, .keep_tables = true
	};

	akvm__range_cut(space, from);
	akvm__range_cut(space, from + length);
	akvm__range_cut(space, to);
	akvm__range_cut(space, to + length);
	(void)akvm__pages_visit(&visitor);
	akvm__range_forget(space, to, to + length);
	visitor = (struct akvm__visitor){ .space = space, .start = from, .end = from + length, .distance = to - from };
	visitor.page = move_page;
	(void)akvm__pages_visit(&visitor);
	akvm__regions_move(regions, akvm__regions_find(regions, from), akvm__regions_find(regions, from + length), to - from);
	akvm__range_join(space, to, to + length);
}

int akvm_space_move(struct akvm_space *space, uint64_t from, uint64_t to, uint64_t length)
{
	struct akvm__visitor sweep = { .space = space, .start = to, .end = to + length, .page = keep_page };
	int error = akvm__range_check(from, length);

	if (error == 0)
		error = akvm__range_check(to, length);
	if (error != 0 || length == 0 || (from < to + length && to < from + length))
		return akvm__fail("move", EINVAL);
	akvm__space_begin(space);
	error = akvm__regions_cover(&space->regions, from, from + length) ? 0 : -EFAULT;
	if (error == 0) {
		error = prepare_move(space, from, to, length);
		if (error == 0)
			carry_out(space, from, to, length);
		/* Tables that nothing went to. */
		(void)akvm__pages_visit(&sweep);
	}
	akvm__space_end(space);
	return error ? akvm__fail("move", -error) : 0;
}
