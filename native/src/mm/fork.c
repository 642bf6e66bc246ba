/*
 * Copy-on-write copies of spaces.
 *
 * The child shares every private frame of the parent; both lose the right to write to them and copy at their next write.
 * Pages of files are not carried over: the child faults them in again for the price of a fault.
 */
#include <errno.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "space.h"

static int share_page(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	struct akvm_space *parent = visitor->space, *child = visitor->child;
	uint64_t shared = entry & ~(AKVM__ENTRY_WRITE | AKVM__ENTRY_DIRTY);
	struct akvm__place twin;

	if (!akvm__entry_private(entry))
		return 0;
	if (akvm__walk_make(child, address, place.level, &twin) != 0 || akvm__limbo_reserve(&child->limbo, 1) != 0)
		return -ENOMEM;
	akvm__frames_hold(&parent->mm->frames, akvm__entry_gpa(entry), akvm__entry_size(entry));
	akvm__page_set(child, twin, shared);
	akvm__entry_set(parent, place, shared);
	return 0;
}

static int share_regions(struct akvm_space *parent, struct akvm_space *child)
{
	const struct akvm__regions *regions = &parent->regions;

	if (akvm__regions_reserve(&child->regions, regions->count) != 0 ||
	    akvm__limbo_reserve(&child->limbo, regions->count) != 0)
		return -ENOMEM;
	for (uint32_t i = 0; i < regions->count; i++) {
		child->regions.array[child->regions.count++] = regions->array[i];
		if (regions->array[i].file != NULL) {
			akvm__file_show(regions->array[i].file);
			child->limbo.owed++;
		}
	}
	return 0;
}

int akvm_space_fork(struct akvm_space *space, struct akvm_space **child)
{
	struct akvm__visitor visitor = { .space = space, .end = AKVM_USER_MAX, .page = share_page };
	int error = akvm__space_new(space->mm, &visitor.child);

	if (error)
		return akvm__fail("fork space", -error);
	akvm__space_begin(space);
	visitor.child->limit = space->limit;
	akvm__space_join(visitor.child, space->budget);
	error = share_regions(space, visitor.child);
	if (error == 0)
		error = akvm__pages_visit(&visitor);
	akvm__space_end(space);
	if (error) {
		akvm_space_destroy(visitor.child);
		return akvm__fail("fork space", -error);
	}
	*child = visitor.child;
	return 0;
}
