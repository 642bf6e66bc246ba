/*
 * For platforms whose translations outlive a guest's stay in its space: what of them is no longer true, and what is.
 *
 * Such a platform keeps a copy of a space's page tables in a form of its own, as a processor without page walks would. An entry
 * that gives less than before, or shows another page, leaves its range here, to be taken out of the copy before anybody enters the
 * space again; an entry that gives more is found when the guest faults.
 */
#include "akvm/layout.h"
#include "space.h"

static bool is_leaf(struct akvm__place place, uint64_t entry)
{
	return entry != 0 && (place.level == 1 || entry & AKVM__ENTRY_HUGE);
}

/* Somebody who still goes by `old` could do, or see, what `value` does not allow. */
static bool loses(struct akvm__place place, uint64_t old, uint64_t value)
{
	if (!is_leaf(place, old) || !(old & AKVM__ENTRY_PRESENT))
		return false;
	/* A large page that becomes a table of small ones is the same memory. */
	if (value != 0 && !is_leaf(place, value))
		return false;
	return !(value & AKVM__ENTRY_PRESENT) || akvm__entry_gpa(old) != akvm__entry_gpa(value) ||
	       (old & ~value & AKVM__ENTRY_WRITE) || (value & ~old & AKVM__ENTRY_NO_EXECUTE);
}

void akvm__shadow_note(struct akvm_space *space, struct akvm__place place, uint64_t old, uint64_t value)
{
	struct akvm__stale *stale = &space->stale;
	uint64_t start, end;

	if (!loses(place, old, value))
		return;
	start = space->mm->tables.tables[place.table].base + place.index * akvm__entry_size(old) * AKVM__PAGE;
	end = start + akvm__entry_size(old) * AKVM__PAGE;
	if (stale->count > 0) {
		struct akvm__range *last = &stale->ranges[stale->count - 1];

		/* Changes come in the order of addresses, mostly; what lies between may go with them. */
		if (stale->count == AKVM__STALE_MAX || (start <= last->end + AKVM__HUGE_PAGE && start >= last->start)) {
			last->start = start < last->start ? start : last->start;
			last->end = end > last->end ? end : last->end;
			return;
		}
	}
	stale->ranges[stale->count++] = (struct akvm__range){ start, end };
}

uint32_t akvm__space_stale(const struct akvm_space *space, const struct akvm__range **ranges)
{
	*ranges = space->stale.ranges;
	return space->stale.count;
}

void akvm__space_stale_done(struct akvm_space *space)
{
	space->stale.count = 0;
}

void **akvm__space_shadow(struct akvm_space *space)
{
	return &space->shadow;
}

static bool continues(const struct akvm_space *space, struct akvm__place place, uint64_t entry, uint64_t first, int64_t distance)
{
	const uint64_t same = AKVM__ENTRY_PRESENT | AKVM__ENTRY_WRITE | AKVM__ENTRY_NO_EXECUTE;

	if (distance < 0 ? place.index < -distance : place.index + distance >= AKVM__ENTRIES)
		return false;
	place.index = (uint16_t)(place.index + distance);
	entry = akvm__entry_get(space, place);
	return !((entry ^ first) & same) && akvm__entry_gpa(entry) == akvm__entry_gpa(first) + (uint64_t)distance * AKVM__PAGE;
}

bool akvm__space_translation(struct akvm_space *space, uint64_t address, struct akvm__translation *out)
{
	const struct akvm__vma *vma = akvm__regions_at(&space->regions, address);
	int64_t before = 0, after = 1;
	struct akvm__place place;
	uint64_t entry, gpa;

	entry = akvm__walk(space, address, &place);
	if (vma == NULL || !(entry & AKVM__ENTRY_PRESENT))
		return false;
	if (place.level == 1) {
		while (continues(space, place, entry, entry, before - 1))
			before--;
		while (continues(space, place, entry, entry, after))
			after++;
	}
	gpa = akvm__entry_gpa(entry) + (uint64_t)before * AKVM__PAGE;
	out->address = (address & ~(akvm__entry_size(entry) * AKVM__PAGE - 1)) + (uint64_t)before * AKVM__PAGE;
	out->length = place.level == 1 ? (uint64_t)(after - before) * AKVM__PAGE : AKVM__HUGE_PAGE;
	out->access =
		AKVM_READ | (entry & AKVM__ENTRY_WRITE ? AKVM_WRITE : 0) | (entry & AKVM__ENTRY_NO_EXECUTE ? 0 : AKVM_EXECUTE);
	out->fd = akvm__entry_private(entry) ? space->mm->frames.fd : vma->file->fd;
	out->offset = akvm__entry_private(entry) ? gpa - AKVM_GPA_FRAMES : gpa - vma->file->gpa;
	return true;
}

uint32_t akvm__space_likely_access(struct akvm_space *space, uint64_t address)
{
	const struct akvm__vma *vma = akvm__regions_at(&space->regions, address);
	struct akvm__place place;

	if (vma == NULL || !(vma->access & AKVM_WRITE))
		return AKVM_READ;
	/* Where a store costs nothing that a load does not, and where copies were made to be stored to. */
	return vma->file == NULL || vma->stable || akvm__walk(space, address, &place) & AKVM__ENTRY_WRITE ? AKVM_WRITE
													  : AKVM_READ;
}

int akvm__space_copy_page(struct akvm_space *space, uint64_t address)
{
	struct akvm__vma *vma = akvm__regions_at(&space->regions, address);
	uint64_t entry;

	if (vma == NULL || vma->shared)
		return AKVM_FAULT_ACCESS;
	return akvm__page_in(space, vma, address, AKVM__PAGE_WRITE, &entry);
}
