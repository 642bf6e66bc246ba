/*
 * Demand paging and copy-on-write: what happens when the guest, or the host on its behalf, touches a page.
 *
 * Runs on vCPU threads and on the loop, with the space's lock held. Decides from regions and entries alone; nothing here
 * knows why the page was touched.
 */
#include <errno.h>
#include <string.h>

#include "akvm/layout.h"
#include "space.h"

/* Zeroed pages mapped around a fault: each costs memory, where a file's page costs an entry. */
enum { ANONYMOUS_AROUND = 8 };
/* Pages copied around a write to a page that a fork shares: they cost memory too. */
enum { COPIES_AROUND = 4 };
/* The data of a program or library: nearly all of it is written while the program starts. It is copied when it is first touched,
 * so many pages at a time. */
enum { DATA_AROUND = 8 };

/* Room for `frames` more pages, in the space's limit and in limbo. Returns enum akvm_fault. */
static int admit(struct akvm_space *space, uint32_t frames)
{
	if (space->limit != 0 && space->resident + space->tables + frames > space->limit)
		return AKVM_FAULT_LIMIT;
	return akvm__limbo_reserve(&space->limbo, 1) == 0 ? AKVM_FAULT_NONE : AKVM_FAULT_MEMORY;
}

/* What it means that frames or tables were to be had, or not. */
static int taken(int error)
{
	return error == 0 ? AKVM_FAULT_NONE : error == -EDQUOT ? AKVM_FAULT_LIMIT : AKVM_FAULT_MEMORY;
}

static uint64_t file_offset(const struct akvm__vma *vma, uint64_t address)
{
	return vma->offset + (address - vma->start);
}

static bool is_data(const struct akvm__vma *vma)
{
	return vma->stable && vma->access & AKVM_WRITE;
}

/* A 2 MiB page, where the whole block lies in the region and the machine has one. False: use small ones. */
static bool map_huge(struct akvm_space *space, const struct akvm__vma *vma, uint64_t address, uint64_t *entry)
{
	uint64_t start = address & ~(AKVM__HUGE_PAGE - 1), gpa;
	struct akvm__place place;

	if (start < vma->start || vma->end - start < AKVM__HUGE_PAGE)
		return false;
	/* Tables take places in limbo of their own: admit the page last. */
	if (akvm__walk_make(space, start, 2, &place) != 0 || admit(space, AKVM__HUGE) != AKVM_FAULT_NONE)
		return false;
	if (akvm__frames_take(&space->mm->frames, AKVM__HUGE, true, space->budget, &gpa) != 0)
		return false;
	*entry = akvm__entry_make(gpa, AKVM__HUGE, vma->access, true);
	akvm__page_set(space, place, *entry);
	return true;
}

static int map_zero(struct akvm_space *space, const struct akvm__vma *vma, struct akvm__place place, uint64_t *entry)
{
	int fault = admit(space, AKVM__SMALL);
	uint64_t gpa;

	if (fault != AKVM_FAULT_NONE)
		return fault;
	fault = taken(akvm__frames_take(&space->mm->frames, AKVM__SMALL, true, space->budget, &gpa));
	if (fault != AKVM_FAULT_NONE)
		return fault;
	*entry = akvm__entry_make(gpa, AKVM__SMALL, vma->access, true);
	akvm__page_set(space, place, *entry);
	return AKVM_FAULT_NONE;
}

/* A private copy of the file's page, in place of nothing or of the file's own page. */
static int copy_file_page(struct akvm_space *space, const struct akvm__vma *vma, uint64_t address, struct akvm__place place,
			  uint64_t *entry)
{
	struct akvm__frames *frames = &space->mm->frames;
	int fault = admit(space, AKVM__SMALL);
	uint64_t gpa;

	if (fault != AKVM_FAULT_NONE)
		return fault;
	fault = taken(akvm__frames_take(frames, AKVM__SMALL, false, space->budget, &gpa));
	if (fault != AKVM_FAULT_NONE)
		return fault;
	if (akvm__file_copy(vma->file, file_offset(vma, address), akvm__frames_host(frames, gpa), AKVM__PAGE) != 0) {
		akvm__frames_drop(frames, gpa, AKVM__SMALL);
		return AKVM_FAULT_BUS;
	}
	*entry = akvm__entry_make(gpa, AKVM__SMALL, vma->access, true);
	akvm__page_set(space, place, *entry);
	akvm__mm_count(&space->mm->counters.cow_copies, 1);
	return AKVM_FAULT_NONE;
}

/* The page itself, from the file or zeroed. */
static int map_one(struct akvm_space *space, const struct akvm__vma *vma, uint64_t address, struct akvm__place place,
		   uint64_t file_pages, bool write, uint64_t *entry)
{
	uint64_t page;

	if (vma->file == NULL)
		return map_zero(space, vma, place, entry);
	page = file_offset(vma, address) / AKVM__PAGE;
	/* What the file grew by since it was opened may lie beyond its slot: such pages are copies too. */
	if (!vma->shared && (write || (page >= vma->file->pages && page < file_pages)))
		return copy_file_page(space, vma, address, place, entry);
	if (page >= file_pages || page >= vma->file->pages)
		return AKVM_FAULT_BUS;
	*entry = akvm__entry_make(vma->file->gpa + page * AKVM__PAGE, AKVM__SMALL, vma->access, vma->shared);
	akvm__page_set(space, place, *entry);
	return AKVM_FAULT_NONE;
}

/* Absent neighbours in the aligned window around the fault, as far as they come for nothing. */
static void map_around(struct akvm_space *space, const struct akvm__vma *vma, uint64_t address, struct akvm__place place,
		       uint64_t file_pages)
{
	uint32_t around = space->mm->fault_around, index = place.index;
	uint64_t limit = file_pages, first, ignored;

	bool copies = is_data(vma);

	if (copies && around > DATA_AROUND)
		around = DATA_AROUND;
	if (vma->file == NULL && around > ANONYMOUS_AROUND)
		around = ANONYMOUS_AROUND;
	if (vma->file != NULL && limit > vma->file->pages)
		limit = vma->file->pages;
	first = address - index % around * AKVM__PAGE;
	for (uint32_t i = 0; i < around; i++) {
		uint64_t at = first + i * AKVM__PAGE;

		place.index = (uint16_t)(index - index % around + i);
		if (at < vma->start || at >= vma->end || akvm__entry_get(space, place) != 0)
			continue;
		if (vma->file != NULL && file_offset(vma, at) / AKVM__PAGE >= limit)
			continue;
		if (map_one(space, vma, at, place, file_pages, copies, &ignored) != AKVM_FAULT_NONE)
			return;
	}
}

/*
 * The file has grown beyond the slot of a shared region, which must show the file itself: the region goes over to a larger
 * object. Its pages do too, as they are touched. Where there is no such object to be had, the touch will be told BUS.
 */
static void follow_growth(struct akvm_space *space, struct akvm__vma *vma, uint64_t file_pages)
{
	uint64_t shown = vma->offset + (vma->end - vma->start), ahead = 2 * file_pages * AKVM__PAGE;
	struct akvm_file *larger;

	/* Twice as much as there is: who grows a file step by step does not pay for each. */
	if (akvm__limbo_reserve(&space->limbo, 1) != 0 ||
	    akvm__files_open(&space->mm->files, vma->file->fd, vma->file->writable, ahead < shown ? ahead : shown, &larger) != 0)
		return;
	akvm__pages_clear(space, vma->start, vma->end, false);
	akvm__file_hide(vma->file);
	akvm__limbo_push(&space->limbo, AKVM__LIMBO_FILE, (uintptr_t)vma->file);
	/* Its reference goes from the call that opened it to the region. */
	akvm__file_show(larger);
	akvm__file_drop(larger);
	vma->file = larger;
	space->limbo.owed++;
}

static int populate(struct akvm_space *space, struct akvm__vma *vma, uint64_t address, bool write, struct akvm__place place,
		    uint64_t *entry)
{
	uint64_t file_pages = vma->file != NULL ? akvm__file_pages_now(vma->file) : 0;
	int fault;

	/* An entry at level 2 or above is empty: no table, so nothing is mapped in the 2 MiB around. */
	if (vma->file == NULL && place.level > 1 && map_huge(space, vma, address, entry))
		return AKVM_FAULT_NONE;
	if (vma->shared && file_offset(vma, address) / AKVM__PAGE >= vma->file->pages &&
	    file_offset(vma, address) / AKVM__PAGE < file_pages)
		follow_growth(space, vma, file_pages);
	fault = taken(akvm__walk_make(space, address, 1, &place));
	if (fault != AKVM_FAULT_NONE)
		return fault;
	fault = map_one(space, vma, address, place, file_pages, write || is_data(vma), entry);
	if (fault == AKVM_FAULT_NONE && vma->access != 0)
		map_around(space, vma, address, place, file_pages);
	return fault;
}

/* A private copy of a page whose frames others hold too. */
static int copy_page(struct akvm_space *space, const struct akvm__vma *vma, uint64_t address, struct akvm__place place,
		     uint64_t *entry)
{
	struct akvm__frames *frames = &space->mm->frames;
	uint64_t old = *entry, gpa;
	uint32_t size = akvm__entry_size(old);
	int fault;

	if (akvm__limbo_reserve(&space->limbo, 1) != 0)
		return AKVM_FAULT_MEMORY;
	fault = taken(akvm__frames_take(frames, size, false, space->budget, &gpa));
	if (fault != AKVM_FAULT_NONE && size == AKVM__HUGE && akvm__split(space, place) == 0) {
		*entry = old = akvm__walk(space, address, &place);
		size = AKVM__SMALL;
		if (akvm__frames_exclusive(frames, akvm__entry_gpa(old), size)) {
			*entry = akvm__entry_make(akvm__entry_gpa(old), size, vma->access, true);
			akvm__entry_set(space, place, *entry);
			return AKVM_FAULT_NONE;
		}
		if (akvm__limbo_reserve(&space->limbo, 1) != 0)
			return AKVM_FAULT_MEMORY;
		fault = taken(akvm__frames_take(frames, size, false, space->budget, &gpa));
	}
	if (fault != AKVM_FAULT_NONE)
		return fault;
	memcpy(akvm__frames_host(frames, gpa), akvm__frames_host(frames, akvm__entry_gpa(old)), size * AKVM__PAGE);
	akvm__page_clear(space, place);
	*entry = akvm__entry_make(gpa, size, vma->access, true);
	akvm__page_set(space, place, *entry);
	akvm__mm_count(&space->mm->counters.cow_copies, 1);
	return AKVM_FAULT_NONE;
}

/* The neighbours' turn: those that nobody else holds any more become writable, which costs an entry each; a few are copied, while
 * there is memory for it. Either is a tenth of the fault it saves. */
static void own_around(struct akvm_space *space, const struct akvm__vma *vma, uint64_t address, struct akvm__place place)
{
	struct akvm__frames *frames = &space->mm->frames;
	const struct akvm__mm_hooks *hooks = &space->mm->hooks;
	uint32_t around = space->mm->fault_around, fault = place.index, first = fault - fault % around;
	bool copies = akvm__frames_used(frames) < frames->bytes / AKVM__PAGE / 2 &&
		      hooks->settled(hooks->opaque, space, space->generation);

	for (uint32_t index = first; index < first + around; index++) {
		uint64_t at = address + index * AKVM__PAGE - fault * AKVM__PAGE, entry;

		place.index = (uint16_t)index;
		entry = akvm__entry_get(space, place);
		if (at < vma->start || at >= vma->end || !(entry & AKVM__ENTRY_PRESENT) || entry & AKVM__ENTRY_WRITE ||
		    !akvm__entry_private(entry))
			continue;
		if (akvm__frames_exclusive(frames, akvm__entry_gpa(entry), AKVM__SMALL))
			akvm__entry_set(space, place, akvm__entry_make(akvm__entry_gpa(entry), AKVM__SMALL, vma->access, true));
		else if (copies && index / COPIES_AROUND == fault / COPIES_AROUND)
			copies = copy_page(space, vma, at, place, &entry) == AKVM_FAULT_NONE;
	}
}

/* A private page becomes this space's alone, and writable if the region is. */
static int own_private(struct akvm_space *space, const struct akvm__vma *vma, uint64_t address, uint32_t flags,
		       struct akvm__place place, uint64_t *entry)
{
	const struct akvm__mm_hooks *hooks = &space->mm->hooks;
	uint64_t gpa = akvm__entry_gpa(*entry);
	uint32_t size = akvm__entry_size(*entry);
	int fault = AKVM_FAULT_NONE;

	if (akvm__frames_exclusive(&space->mm->frames, gpa, size)) {
		*entry = akvm__entry_make(gpa, size, vma->access, true);
		akvm__entry_set(space, place, *entry);
	} else {
		/* A vCPU that has not yet seen the page become read-only would write to the old copy behind our back. */
		if (flags & AKVM__PAGE_GUEST && !hooks->settled(hooks->opaque, space, space->generation))
			return AKVM_FAULT_NONE;
		fault = copy_page(space, vma, address, place, entry);
	}
	if (fault == AKVM_FAULT_NONE && size == AKVM__SMALL && flags & AKVM__PAGE_GUEST)
		own_around(space, vma, address, place);
	return fault;
}

/* Make the page at `place` writable if the region is, and this space's alone unless it is shared. */
static int own(struct akvm_space *space, const struct akvm__vma *vma, uint64_t address, uint32_t flags, struct akvm__place place,
	       uint64_t *entry)
{
	if (*entry & AKVM__ENTRY_WRITE)
		return AKVM_FAULT_NONE;
	if (vma->shared) {
		*entry = akvm__entry_make(akvm__entry_gpa(*entry), AKVM__SMALL, vma->access, true);
		akvm__entry_set(space, place, *entry);
		return AKVM_FAULT_NONE;
	}
	if (!akvm__entry_private(*entry))
		return copy_file_page(space, vma, address, place, entry);
	return own_private(space, vma, address, flags, place, entry);
}

int akvm__page_in(struct akvm_space *space, struct akvm__vma *vma, uint64_t address, uint32_t flags, uint64_t *entry)
{
	struct akvm__place place;
	int fault = AKVM_FAULT_NONE;

	address &= ~(AKVM__PAGE - 1);
	*entry = akvm__walk(space, address, &place);
	if (*entry == 0)
		fault = populate(space, vma, address, flags & AKVM__PAGE_WRITE, place, entry);
	else if (flags & AKVM__PAGE_WRITE)
		fault = own(space, vma, address, flags, place, entry);
	/* What is missing may be waiting here for edits that no vCPU has come to make. */
	if (fault == AKVM_FAULT_MEMORY && space->limbo.count > 0 && akvm__space_edits_pending(space))
		akvm__reap_request(space);
	return fault;
}

int akvm__space_fault(struct akvm_space *space, uint64_t address, uint32_t access)
{
	/* Write and execute permission imply read, as the page tables have it. */
	uint32_t need = access & AKVM_WRITE ? AKVM_WRITE : access & AKVM_EXECUTE ? AKVM_EXECUTE : ~0u;
	struct akvm__vma *vma;
	uint64_t entry;
	int fault;

	akvm__mm_count(&space->mm->counters.faults, 1);
	akvm__space_begin(space);
	vma = akvm__regions_at(&space->regions, address);
	if (vma == NULL)
		fault = AKVM_FAULT_UNMAPPED;
	else if ((vma->access & need) == 0)
		fault = AKVM_FAULT_ACCESS;
	else
		fault = akvm__page_in(space, vma, address, AKVM__PAGE_GUEST | (access & AKVM_WRITE ? AKVM__PAGE_WRITE : 0),
				      &entry);
	akvm__space_end(space);
	return fault;
}

static int drop_file_page(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address)
{
	(void)address;
	if (!akvm__entry_private(entry)) {
		akvm__page_clear(visitor->space, place);
		visitor->visited++;
	}
	return 0;
}

uint64_t akvm__space_trim(struct akvm_space *space)
{
	struct akvm__visitor visitor = { .space = space, .page = drop_file_page };

	akvm__space_begin(space);
	for (uint32_t i = 0; i < space->regions.count; i++) {
		const struct akvm__vma *vma = &space->regions.array[i];
		uint64_t bytes;

		if (vma->file == NULL)
			continue;
		bytes = akvm__file_pages_now(vma->file) * AKVM__PAGE;
		visitor.start = bytes > vma->offset ? vma->start + (bytes - vma->offset) : vma->start;
		visitor.end = vma->end;
		(void)akvm__pages_visit(&visitor);
	}
	akvm__space_end(space);
	return visitor.visited;
}
