/*
 * Address spaces as callers see them: what is mapped where, and with which access.
 *
 * Every change is made in the same order: check the arguments, reserve whatever could run out, cut pages and regions at the
 * boundaries, then change entries and regions, which cannot fail. Pages are pagetable.c's, contents fault.c's.
 */
#include <errno.h>
#include <stdlib.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "space.h"

/* References that cutting two regions and inserting one can add. */
enum { RANGE_REFERENCES = 3, RANGE_REGIONS = 3 };

enum { ACCESS_ALL = AKVM_READ | AKVM_WRITE | AKVM_EXECUTE };

void akvm__space_lock(struct akvm_space *space)
{
	pthread_mutex_lock(&space->lock);
}

void akvm__space_unlock(struct akvm_space *space)
{
	pthread_mutex_unlock(&space->lock);
}

void akvm__space_begin(struct akvm_space *space)
{
	pthread_mutex_lock(&space->lock);
	akvm__limbo_drain(space);
}

void akvm__space_end(struct akvm_space *space)
{
	akvm__space_publish(space);
	pthread_mutex_unlock(&space->lock);
}

uint64_t akvm__space_id(const struct akvm_space *space)
{
	return space->id;
}

uint64_t akvm__space_root(const struct akvm_space *space)
{
	return akvm__tables_gpa(space->root);
}

uint64_t akvm__space_generation(const struct akvm_space *space)
{
	return __atomic_load_n(&space->generation, __ATOMIC_SEQ_CST);
}

int akvm__space_new(struct akvm__mm *mm, struct akvm_space **out)
{
	struct akvm_space *space = AKVM__HOST->calloc(1, sizeof(*space));

	if (space == NULL)
		return -ENOMEM;
	if (akvm__tables_take_root(&mm->tables, &space->root) != 0) {
		free(space);
		return -ENOMEM;
	}
	pthread_mutex_init(&space->lock, NULL);
	space->mm = mm;
	space->generation = 1;
	space->dirty_first = space->flight_first = AKVM__NO_TABLE;
	pthread_mutex_lock(&mm->spaces_lock);
	space->id = ++mm->last_id;
	space->next = mm->spaces;
	if (mm->spaces != NULL)
		mm->spaces->previous = space;
	mm->spaces = space;
	mm->spaces_count++;
	pthread_mutex_unlock(&mm->spaces_lock);
	*out = space;
	return 0;
}

int akvm__space_create(struct akvm__mm *mm, struct akvm_space **space)
{
	int error = akvm__space_new(mm, space);

	return error ? akvm__fail("create space", -error) : 0;
}

/* Regions [first, last) go, and with them their references. */
static void remove_regions(struct akvm_space *space, uint32_t first, uint32_t last)
{
	for (uint32_t i = first; i < last; i++) {
		struct akvm_file *file = space->regions.array[i].file;

		if (file == NULL)
			continue;
		if (!space->dead)
			akvm__file_hide(file);
		akvm__limbo_push(&space->limbo, AKVM__LIMBO_FILE, (uintptr_t)file);
	}
	akvm__regions_remove(&space->regions, first, last);
}

void akvm__space_clear(struct akvm_space *space)
{
	akvm__pages_clear(space, 0, AKVM_USER_MAX, false);
	remove_regions(space, 0, space->regions.count);
	space->cleared = true;
}

int akvm__range_check(uint64_t address, uint64_t length)
{
	if (address % AKVM__PAGE != 0 || length % AKVM__PAGE != 0 || address < AKVM_USER_MIN || address > AKVM_USER_MAX)
		return -EINVAL;
	return length > AKVM_USER_MAX - address ? -EINVAL : 0;
}

/* Cut large pages at the ends and reserve what changing the range may need. 0 or -ENOMEM; pages read the same after both. */
static int prepare(struct akvm_space *space, uint64_t start, uint64_t end)
{
	int error = akvm__regions_reserve(&space->regions, RANGE_REGIONS);

	if (error == 0)
		error = akvm__split_at(space, start);
	if (error == 0)
		error = akvm__split_at(space, end);
	if (error == 0)
		error = akvm__limbo_reserve(&space->limbo, RANGE_REFERENCES);
	return error;
}

static void hold_file(struct akvm_space *space, struct akvm_file *file)
{
	if (file == NULL)
		return;
	akvm__file_show(file);
	space->limbo.owed++;
}

void akvm__range_cut(struct akvm_space *space, uint64_t address)
{
	hold_file(space, akvm__regions_split(&space->regions, address));
}

static void drop_joined(void *opaque, struct akvm_file *file)
{
	struct akvm_space *space = opaque;

	/* Never the last one: the region that took the other in has its own. */
	space->limbo.owed--;
	akvm__file_hide(file);
	akvm__file_drop(file);
}

void akvm__range_join(struct akvm_space *space, uint64_t start, uint64_t end)
{
	uint32_t first = akvm__regions_find(&space->regions, start - 1);

	akvm__regions_join(&space->regions, first, akvm__regions_find(&space->regions, end), drop_joined, space);
}

void akvm__range_forget(struct akvm_space *space, uint64_t start, uint64_t end)
{
	uint32_t first = akvm__regions_find(&space->regions, start);

	remove_regions(space, first, akvm__regions_find(&space->regions, end));
}

static void unmap_range(struct akvm_space *space, uint64_t start, uint64_t end)
{
	akvm__range_cut(space, start);
	akvm__range_cut(space, end);
	akvm__pages_clear(space, start, end, false);
	akvm__range_forget(space, start, end);
}

/* Stores are asked for that the file was not opened for. */
static bool unwritable(const struct akvm__vma *vma, uint32_t access)
{
	return vma->shared && access & AKVM_WRITE && !vma->file->writable;
}

int akvm_space_map(struct akvm_space *space, uint64_t address, uint64_t length, uint32_t access, struct akvm_file *file,
		   uint64_t offset)
{
	bool shared = access & AKVM_SHARED, stable = access & AKVM_STABLE;
	struct akvm__vma vma = { address, address + length, file ? offset : 0, file, access & ACCESS_ALL, shared, stable };
	int error = akvm__range_check(address, length);

	if (error == 0 && (length == 0 || access & ~(uint32_t)(ACCESS_ALL | AKVM_SHARED | AKVM_STABLE) ||
			   ((shared || stable) && file == NULL) || (shared && stable)))
		error = -EINVAL;
	if (error == 0 && file != NULL &&
	    (file->files != &space->mm->files || offset % AKVM__PAGE != 0 || offset > INT64_MAX - length))
		error = -EINVAL;
	if (error == 0 && unwritable(&vma, access))
		error = -EACCES;
	if (error)
		return akvm__fail("map", -error);
	akvm__space_begin(space);
	error = prepare(space, address, address + length);
	if (error == 0) {
		unmap_range(space, address, address + length);
		hold_file(space, file);
		akvm__regions_insert(&space->regions, &vma);
		akvm__range_join(space, address, address + length);
	}
	akvm__space_end(space);
	return error ? akvm__fail("map", -error) : 0;
}

int akvm_space_extend(struct akvm_space *space, uint64_t address, uint64_t length)
{
	struct akvm__regions *regions = &space->regions;
	int error = akvm__range_check(address, length);
	uint32_t index;

	if (error != 0 || length == 0)
		return akvm__fail("extend", EINVAL);
	akvm__space_begin(space);
	index = akvm__regions_find(regions, address - 1);
	if (index == regions->count || regions->array[index].end != address)
		error = -EFAULT;
	else if (index + 1 < regions->count && regions->array[index + 1].start < address + length)
		error = -EINVAL;
	else if (regions->array[index].offset > INT64_MAX - length - (address - regions->array[index].start))
		error = -EINVAL;
	if (error == 0) {
		regions->array[index].end = address + length;
		akvm__range_join(space, address, address + length);
	}
	akvm__space_end(space);
	return error ? akvm__fail("extend", -error) : 0;
}

int akvm_space_unmap(struct akvm_space *space, uint64_t address, uint64_t length)
{
	int error = akvm__range_check(address, length);

	if (error != 0 || length == 0)
		return akvm__fail("unmap", EINVAL);
	akvm__space_begin(space);
	error = prepare(space, address, address + length);
	if (error == 0)
		unmap_range(space, address, address + length);
	akvm__space_end(space);
	return error ? akvm__fail("unmap", -error) : 0;
}

static int protect_page(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	struct akvm_space *space = visitor->space;
	uint64_t gpa = akvm__entry_gpa(entry);
	uint32_t size = akvm__entry_size(entry);
	bool writable;

	(void)address;
	if (!akvm__entry_private(entry)) {
		/* A file's page needs no place to wait: the next fault finds it again, and makes a shared one writable. */
		if (visitor->access == 0)
			akvm__page_clear(space, place);
		else
			akvm__entry_set(space, place, akvm__entry_make(gpa, size, visitor->access, false));
		return 0;
	}
	writable = visitor->access & AKVM_WRITE &&
		   (entry & AKVM__ENTRY_WRITE || akvm__frames_exclusive(&space->mm->frames, gpa, size));
	akvm__entry_set(space, place, akvm__entry_make(gpa, size, visitor->access, writable));
	return 0;
}

int akvm_space_protect(struct akvm_space *space, uint64_t address, uint64_t length, uint32_t access)
{
	struct akvm__visitor visitor = {
		.space = space,
		.start = address,
		.end = address + length,
		.page = protect_page,
		.access = access,
	};
	struct akvm__regions *regions = &space->regions;
	int error = akvm__range_check(address, length);

	if (error != 0 || access & ~(uint32_t)ACCESS_ALL)
		return akvm__fail("protect", EINVAL);
	if (length == 0)
		return 0;
	akvm__space_begin(space);
	if (!akvm__regions_cover(regions, visitor.start, visitor.end))
		error = -ENOMEM;
	for (uint32_t i = akvm__regions_find(regions, address);
	     error == 0 && i < regions->count && regions->array[i].start < visitor.end; i++)
		error = unwritable(&regions->array[i], access) ? -EACCES : 0;
	if (error == 0)
		error = prepare(space, visitor.start, visitor.end);
	if (error == 0) {
		akvm__range_cut(space, visitor.start);
		akvm__range_cut(space, visitor.end);
		for (uint32_t i = akvm__regions_find(regions, address);
		     i < regions->count && regions->array[i].start < visitor.end; i++)
			regions->array[i].access = access;
		(void)akvm__pages_visit(&visitor);
		akvm__range_join(space, visitor.start, visitor.end);
	}
	akvm__space_end(space);
	return error ? akvm__fail("protect", -error) : 0;
}

int akvm_space_discard(struct akvm_space *space, uint64_t address, uint64_t length)
{
	int error = akvm__range_check(address, length);

	if (error)
		return akvm__fail("discard", -error);
	if (length == 0)
		return 0;
	akvm__space_begin(space);
	error = prepare(space, address, address + length);
	if (error == 0) {
		akvm__pages_clear(space, address, address + length, true);
		if (!akvm__regions_cover(&space->regions, address, address + length))
			error = -ENOMEM;
	}
	akvm__space_end(space);
	return error ? akvm__fail("discard", -error) : 0;
}

int akvm_space_region(struct akvm_space *space, uint64_t address, struct akvm_region *region)
{
	int error = -ENOENT;
	uint32_t index;

	akvm__space_begin(space);
	index = akvm__regions_find(&space->regions, address);
	if (index < space->regions.count) {
		const struct akvm__vma *vma = &space->regions.array[index];

		region->start = vma->start;
		region->end = vma->end;
		region->offset = vma->offset;
		region->access = vma->access | (vma->shared ? AKVM_SHARED : 0);
		region->file = vma->file ? vma->file->number : 0;
		error = 0;
	}
	akvm__space_end(space);
	return error;
}

uint64_t akvm_space_room(struct akvm_space *space, uint64_t start, uint64_t end, uint64_t length, uint64_t alignment)
{
	uint64_t found;

	akvm__space_begin(space);
	found = akvm__regions_room(&space->regions, start, end, length, alignment);
	akvm__space_end(space);
	return found;
}

int akvm_space_present(struct akvm_space *space, uint64_t address, uint64_t pages, uint8_t *out)
{
	uint64_t length = pages * AKVM__PAGE;
	struct akvm__place place;
	int error = pages > AKVM_USER_MAX / AKVM__PAGE ? -EINVAL : akvm__range_check(address, length);

	if (error)
		return akvm__fail("present", -error);
	akvm__space_begin(space);
	if (!akvm__regions_cover(&space->regions, address, address + length))
		error = -ENOMEM;
	for (uint64_t i = 0; error == 0 && i < pages; i++)
		out[i] = akvm__walk(space, address + i * AKVM__PAGE, &place) != 0;
	akvm__space_end(space);
	return error ? akvm__fail("present", -error) : 0;
}

uint64_t akvm_space_mapped(struct akvm_space *space, uint64_t address, uint64_t length)
{
	uint64_t mapped;

	if (length > UINT64_MAX - address)
		length = UINT64_MAX - address;
	akvm__space_begin(space);
	mapped = akvm__regions_mapped(&space->regions, address, address + length);
	akvm__space_end(space);
	return mapped;
}

int akvm_space_settled(struct akvm_space *space)
{
	const struct akvm__mm_hooks *hooks = &space->mm->hooks;
	int settled;

	akvm__space_begin(space);
	settled = hooks->settled(hooks->opaque, space, space->generation);
	akvm__space_end(space);
	return settled != 0;
}

uint64_t akvm_space_resident(struct akvm_space *space)
{
	uint64_t resident;

	akvm__space_begin(space);
	resident = space->resident;
	akvm__space_end(space);
	return resident;
}

void akvm_space_limit(struct akvm_space *space, uint64_t pages)
{
	akvm__space_begin(space);
	space->limit = pages;
	akvm__space_end(space);
}

void akvm__space_join(struct akvm_space *space, struct akvm_budget *budget)
{
	/* Its root is charged at once, whatever room there is: how many spaces there are is others' to bound. */
	akvm__budget_hold(budget);
	(void)akvm__budget_charge(budget, 1, true);
	akvm__budget_release(space->budget, 1);
	akvm__budget_drop(space->budget);
	space->budget = budget;
}

int akvm_space_budget(struct akvm_space *space, struct akvm_budget *budget)
{
	int error = budget != NULL && budget->budgets != &space->mm->budgets ? -EINVAL : 0;

	akvm__space_begin(space);
	if (error == 0 && (space->resident != 0 || space->tables != 0))
		error = -EBUSY;
	if (error == 0)
		akvm__space_join(space, budget);
	akvm__space_end(space);
	return error ? akvm__fail("budget of a space", -error) : 0;
}
