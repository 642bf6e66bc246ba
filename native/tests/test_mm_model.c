/*
 * Random operations on several spaces, in both modes, against a plain model of bytes.
 *
 * Usage: test_mm_model [seed [turns]]. CPUs linger inside after they were interrupted, edits go out in odd batches that are
 * sometimes dropped half way, and memory is plentiful or scarce. At the end everything must have come back.
 */
#include "mm_world.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "t.h"

/* Two stretches of addresses: one that crosses 2 MiB blocks, one under another top-level entry. */
enum { LOW_PAGES = 1152, HIGH_PAGES = 32, PAGES = LOW_PAGES + HIGH_PAGES, SPACES = 5, ACCESS_MAX = 3 * 4096 };
#define LOW_BASE   (0x10000000ull - 64 * AKVM__PAGE)
#define HIGH_BASE  0x7f0000000000ull
#define FILE_BYTES (20 * AKVM__PAGE + 100)
enum { FILE_PAGES = 21 };

struct model_page {
	bool mapped;
	uint8_t access;
	int file_page; /* -1: anonymous; may lie beyond the file's end */
	bool shared;   /* of the other file, which all may write to */
};

struct model {
	struct akvm_space *space;
	struct model_page pages[PAGES];
	uint8_t *bytes; /* what each page holds, mapped or not */
};

static struct world world;
static struct model models[SPACES];
static struct akvm_file *file, *shared_file;
static uint8_t shared_bytes[FILE_PAGES * 4096];
static unsigned long long seed;
static bool scarce;
static unsigned forks, moves, refused;
static uint8_t buffer[AKVM__HUGE_PAGE], expected[AKVM__HUGE_PAGE];

static unsigned pick(unsigned below)
{
	return (unsigned)(t_random(&seed) % below);
}

static uint64_t address_of(unsigned page)
{
	return page < LOW_PAGES ? LOW_BASE + page * AKVM__PAGE : HIGH_BASE + (page - LOW_PAGES) * AKVM__PAGE;
}

/* Pages [first, first + count) in one stretch; often few, sometimes very many, often aligned to blocks. */
static void pick_range(unsigned *first, unsigned *count)
{
	unsigned base = 0, pages = LOW_PAGES;

	if (pick(5) == 0) {
		base = LOW_PAGES;
		pages = HIGH_PAGES;
	}
	*first = pick(pages);
	*count = 1 + pick(pick(3) == 0 ? pages : 24);
	if (base == 0 && pick(4) == 0) {
		*first = 64 + pick(2) * 512;
		*count = 512 + (pick(3) == 0 ? pick(80) : 0);
	}
	if (*count > pages - *first)
		*count = pages - *first;
	*first += base;
}

static bool beyond_file(const struct model_page *page)
{
	return page->file_page >= FILE_PAGES;
}

static uint8_t *bytes_of(struct model *model, unsigned page)
{
	const struct model_page *it = &model->pages[page];

	return it->mapped && it->shared && !beyond_file(it) ? shared_bytes + it->file_page * AKVM__PAGE
							    : model->bytes + page * AKVM__PAGE;
}

/* What is read or written goes page by page: shared ones lie elsewhere. */
static void store(struct model *model, unsigned page, uint64_t offset, uint64_t length)
{
	for (uint64_t done = 0, count; done < length; done += count, page++, offset = 0) {
		count = length - done < AKVM__PAGE - offset ? length - done : AKVM__PAGE - offset;
		memcpy(bytes_of(model, page) + offset, buffer + done, count);
	}
}

static void compare(struct model *model, unsigned page, uint64_t offset, const uint8_t *seen, uint64_t length)
{
	for (uint64_t done = 0, count; done < length; done += count, page++, offset = 0) {
		count = length - done < AKVM__PAGE - offset ? length - done : AKVM__PAGE - offset;
		T_CHECK(memcmp(bytes_of(model, page) + offset, seen + done, count) == 0);
	}
}

/* What a page holds when nobody has written to it. */
static void reset_bytes(struct model *model, unsigned page)
{
	uint8_t *bytes = model->bytes + page * AKVM__PAGE;

	if (model->pages[page].shared)
		return;
	memset(bytes, 0, AKVM__PAGE);
	if (model->pages[page].file_page >= 0 && !beyond_file(&model->pages[page]))
		for (unsigned i = 0; i < AKVM__PAGE; i++) {
			uint64_t offset = model->pages[page].file_page * AKVM__PAGE + i;

			bytes[i] = offset < FILE_BYTES ? world_file_byte(offset) : 0;
		}
}

/* -ENOMEM is an answer only when memory is scarce, and then must have changed nothing. */
static bool succeeded(int error)
{
	if (error == -ENOMEM && scarce) {
		refused++;
		return false;
	}
	T_EQUAL(error, 0);
	return true;
}

static void do_map(struct model *model)
{
	struct model_page page = { true, (uint8_t)pick(8), -1, false };
	unsigned first, count;
	int error;

	pick_range(&first, &count);
	if (pick(4))
		page.access |= AKVM_READ | AKVM_WRITE;
	if (pick(4) == 0) {
		page.file_page = (int)pick(FILE_PAGES);
		page.shared = pick(2);
	}
	error = akvm_space_map(model->space, address_of(first), count * AKVM__PAGE, page.access | (page.shared ? AKVM_SHARED : 0),
			       page.file_page < 0 ? NULL
			       : page.shared      ? shared_file
						  : file,
			       page.file_page < 0 ? 0 : (uint64_t)page.file_page * AKVM__PAGE);
	if (!succeeded(error))
		return;
	for (unsigned i = first; i < first + count; i++) {
		model->pages[i] = page;
		reset_bytes(model, i);
		page.file_page += page.file_page >= 0;
	}
}

static void do_unmap(struct model *model)
{
	unsigned first, count;

	pick_range(&first, &count);
	if (!succeeded(akvm_space_unmap(model->space, address_of(first), count * AKVM__PAGE)))
		return;
	for (unsigned i = first; i < first + count; i++)
		model->pages[i].mapped = false;
}

static bool covered(const struct model *model, unsigned first, unsigned count)
{
	for (unsigned i = first; i < first + count; i++)
		if (!model->pages[i].mapped)
			return false;
	return true;
}

static void do_protect(struct model *model)
{
	uint32_t access = pick(3) ? AKVM_READ | pick(8) : pick(8);
	unsigned first, count;
	int error;

	pick_range(&first, &count);
	/* Mostly without holes: with one it only fails. */
	for (unsigned tries = 0; tries < 8 && !model->pages[first].mapped; tries++)
		pick_range(&first, &count);
	while (count > 1 && pick(8) && !covered(model, first, count))
		count = count / 2;
	error = akvm_space_protect(model->space, address_of(first), count * AKVM__PAGE, access);
	if (!covered(model, first, count)) {
		T_EQUAL(error, -ENOMEM);
		return;
	}
	if (succeeded(error))
		for (unsigned i = first; i < first + count; i++)
			model->pages[i].access = (uint8_t)access;
}

static void do_move(struct model *model)
{
	unsigned from, to, count, limit;
	int error;

	pick_range(&from, &count);
	pick_range(&to, &limit);
	for (unsigned tries = 0; tries < 8 && !covered(model, from, count); tries++)
		pick_range(&from, &count);
	limit = to < LOW_PAGES ? LOW_PAGES : PAGES;
	if (count > limit - to)
		count = limit - to;
	error = akvm_space_move(model->space, address_of(from), address_of(to), count * AKVM__PAGE);
	if (from < to + count && to < from + count)
		T_EQUAL(error, -EINVAL);
	else if (!covered(model, from, count))
		T_EQUAL(error, -EFAULT);
	else if (succeeded(error)) {
		moves++;
		memcpy(&model->pages[to], &model->pages[from], count * sizeof(model->pages[0]));
		memcpy(model->bytes + to * AKVM__PAGE, model->bytes + from * AKVM__PAGE, count * AKVM__PAGE);
		for (unsigned i = from; i < from + count; i++)
			model->pages[i].mapped = false;
	}
}

static void do_discard(struct model *model)
{
	unsigned first, count;
	int error;

	pick_range(&first, &count);
	/* With a hole it works on the rest, as madvise() does; out of memory it does nothing. Both are -ENOMEM. */
	if (scarce && !covered(model, first, count))
		return;
	error = akvm_space_discard(model->space, address_of(first), count * AKVM__PAGE);
	if (!covered(model, first, count))
		T_EQUAL(error, -ENOMEM);
	else if (!succeeded(error))
		return;
	for (unsigned i = first; i < first + count; i++)
		reset_bytes(model, i);
}

/* Bytes of [page, offset ...) that `may` allow; in *fault what ends them. */
static uint64_t reach(const struct model *model, unsigned page, uint64_t offset, uint64_t length, uint32_t need, bool force,
		      int *fault)
{
	uint64_t done = 0;

	for (*fault = AKVM_FAULT_NONE; done < length; page++) {
		bool last = page == LOW_PAGES - 1 || page == PAGES - 1;
		const struct model_page *it = &model->pages[page];
		uint64_t room = AKVM__PAGE - offset;

		if (!it->mapped)
			*fault = AKVM_FAULT_UNMAPPED;
		else if (!(force && !it->shared) && !(need == AKVM_READ ? it->access : it->access & need))
			*fault = AKVM_FAULT_ACCESS;
		else if (beyond_file(it))
			*fault = AKVM_FAULT_BUS;
		if (*fault != AKVM_FAULT_NONE)
			return done;
		done += length - done < room ? length - done : room;
		offset = 0;
		if (last && done < length) {
			*fault = AKVM_FAULT_UNMAPPED;
			return done;
		}
	}
	return done;
}

static void pick_access(const struct model *model, unsigned *page, uint64_t *offset, uint64_t *length)
{
	unsigned count;

	pick_range(page, &count);
	for (unsigned tries = 0; tries < 8 && !model->pages[*page].mapped; tries++)
		pick_range(page, &count);
	/* A few pages are touched again and again, by all spaces. */
	if (pick(2))
		*page = *page < LOW_PAGES ? *page / 96 * 96 : LOW_PAGES;
	*offset = pick(AKVM__PAGE);
	*length = 1 + pick(pick(4) ? 64 : ACCESS_MAX);
}

static void fill(uint64_t length)
{
	for (uint64_t i = 0; i < length; i++)
		buffer[i] = (uint8_t)t_random(&seed);
}

static void do_host(struct model *model)
{
	bool write = pick(8) < 5, force = write && pick(4) == 0;
	uint64_t offset, length, want;
	unsigned page;
	int fault;
	int64_t done;

	pick_access(model, &page, &offset, &length);
	fill(length);
	want = reach(model, page, offset, length, write ? AKVM_WRITE : AKVM_READ, force, &fault);
	done = write ? akvm_space_write(model->space, address_of(page) + offset, buffer, length, force)
		     : akvm_space_read(model->space, address_of(page) + offset, buffer, length);
	if (done == -EFAULT || (done == -ENOMEM && scarce))
		done = 0;
	T_CHECK(done >= 0 && (uint64_t)done <= want && ((uint64_t)done == want || scarce));
	if (write)
		store(model, page, offset, (uint64_t)done);
	else
		compare(model, page, offset, buffer, (uint64_t)done);
}

static void do_guest(struct model *model, uint32_t access)
{
	struct world_cpu *cpu = &world.cpus[pick(WORLD_CPUS)];
	uint64_t offset, length, want, done;
	int fault, got;
	unsigned page;

	pick_access(model, &page, &offset, &length);
	fill(length);
	want = reach(model, page, offset, length, access, false, &fault);
	got = world_access(&world, cpu, model->space, address_of(page) + offset, buffer, length, access, &done);
	if (got == AKVM_FAULT_MEMORY && scarce) {
		refused++;
		T_CHECK(done <= want);
	} else {
		T_EQUAL(got, fault);
		T_EQUAL(done, want);
	}
	if (access & AKVM_WRITE)
		store(model, page, offset, done);
	else
		compare(model, page, offset, buffer, done);
}

static struct model *unused_model(void)
{
	for (unsigned i = 0; i < SPACES; i++)
		if (models[i].space == NULL)
			return &models[i];
	return NULL;
}

static void do_fork(struct model *model)
{
	struct model *child = unused_model();

	if (child == NULL || !succeeded(akvm_space_fork(model->space, &child->space)))
		return;
	forks++;
	memcpy(child->pages, model->pages, sizeof(child->pages));
	memcpy(child->bytes, model->bytes, PAGES * AKVM__PAGE);
	/* A caller lets neither run before the parent has settled: those inside acknowledge now. */
	for (unsigned i = 0; i < WORLD_CPUS; i++)
		if (world.cpus[i].space == model->space)
			world_leave(&world.cpus[i]);
}

static void do_destroy(struct model *model)
{
	for (unsigned i = 0; i < WORLD_CPUS; i++)
		if (world.cpus[i].space == model->space)
			world_leave(&world.cpus[i]);
	T_EQUAL(akvm_space_destroy(model->space), 0);
	model->space = NULL;
	memset(model->pages, 0, sizeof(model->pages));
}

/* Every region and every byte the space offers, through the host's door. */
static void verify(struct model *model)
{
	unsigned page = 0;

	while (page < PAGES) {
		unsigned limit = page < LOW_PAGES ? LOW_PAGES : PAGES, end = page + 1;
		const struct model_page *it = &model->pages[page];
		int64_t done;

		if (it->mapped && it->access && !beyond_file(it)) {
			while (end < limit && end - page < 512 && model->pages[end].mapped && model->pages[end].access &&
			       !beyond_file(&model->pages[end]))
				end++;
			done = akvm_space_read(model->space, address_of(page), expected, (end - page) * AKVM__PAGE);
			T_CHECK(done == (int64_t)((end - page) * AKVM__PAGE) || scarce);
			if (done > 0)
				compare(model, page, 0, expected, (uint64_t)done);
		} else {
			struct akvm_region region;
			bool found = akvm_space_region(model->space, address_of(page), &region) == 0;

			T_EQUAL(it->mapped, found && region.start <= address_of(page));
			T_CHECK(!it->mapped || (region.access == (it->access | (it->shared ? AKVM_SHARED : 0u)) &&
						(region.file != 0) == (it->file_page >= 0)));
			T_EQUAL(akvm_space_read(model->space, address_of(page), expected, 1), -EFAULT);
		}
		page = end;
	}
}

/* What vCPUs do by themselves: leave, or fail in the middle of edits. */
static void do_vcpu(struct model *model)
{
	if (pick(5) < 2)
		world_leave(&world.cpus[pick(WORLD_CPUS)]);
	else
		world_drop_edits(&world, model->space);
}

/* Which, up to what share of a hundred; without one, what the guest does. */
static const struct {
	unsigned upto;
	void (*run)(struct model *model);
	uint32_t access;
} steps[] = {
	{ 7, do_map, 0 },           { 9, do_unmap, 0 }, { 12, do_move, 0 },      { 18, do_protect, 0 },
	{ 20, do_discard, 0 },      { 36, do_host, 0 }, { 57, NULL, AKVM_READ }, { 83, NULL, AKVM_WRITE },
	{ 87, NULL, AKVM_EXECUTE }, { 91, do_fork, 0 }, { 93, do_destroy, 0 },   { 98, do_vcpu, 0 },
	{ 100, verify, 0 },
};

static void step(void)
{
	struct model *model = &models[pick(SPACES)];
	unsigned choice = pick(100), operation = 0;

	if (model->space == NULL) {
		if (succeeded(akvm__space_create(world.mm, &model->space)))
			do_map(model);
		return;
	}
	while (choice >= steps[operation].upto)
		operation++;
	if (steps[operation].run != NULL)
		steps[operation].run(model);
	else
		do_guest(model, steps[operation].access);
	world_check_stale(&world);
	if (world.reaps && pick(4) == 0)
		world_reap(&world);
}

static void run(unsigned long long start, unsigned turns, bool guest_edits, uint64_t memory_bytes)
{
	struct akvm_memory_status status;
	int fd = world_file(FILE_BYTES), shared_fd = world_file(FILE_PAGES * AKVM__PAGE);

	seed = start * 2654435761u + 88172645463325252ull;
	scarce = memory_bytes < (64 << 20);
	forks = moves = refused = 0;
	world_open(&world, memory_bytes, 16, guest_edits);
	world.random = seed | 1;
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &file), 0);
	T_EQUAL(akvm__file_open(world.mm, shared_fd, true, 0, &shared_file), 0);
	T_EQUAL(pread(shared_fd, shared_bytes, sizeof(shared_bytes), 0), sizeof(shared_bytes));
	for (unsigned i = 0; i < SPACES; i++)
		models[i].bytes = calloc(PAGES, AKVM__PAGE);
	for (unsigned turn = 0; turn < turns; turn++) {
		snprintf(t_context, sizeof(t_context), "seed %llu turn %u %s edits %s", start, turn,
			 guest_edits ? "guest" : "host", scarce ? "scarce" : "ample");
		step();
	}
	akvm__mm_status(world.mm, &status);
	for (unsigned i = 0; i < SPACES; i++) {
		if (models[i].space != NULL) {
			verify(&models[i]);
			do_destroy(&models[i]);
		}
		free(models[i].bytes);
	}
	T_EQUAL(pread(shared_fd, buffer, sizeof(shared_bytes), 0), sizeof(shared_bytes));
	T_CHECK(memcmp(buffer, shared_bytes, sizeof(shared_bytes)) == 0);
	akvm_file_close(file);
	akvm_file_close(shared_file);
	close(fd);
	close(shared_fd);
	world_close(&world);
	printf("%s: %llu faults, %llu huge, %llu small, %llu splits, %llu copies, %llu edits, %u forks, %u moves, %u refused\n",
	       t_context, (unsigned long long)status.faults, (unsigned long long)status.huge_mapped,
	       (unsigned long long)status.small_mapped, (unsigned long long)status.huge_splits,
	       (unsigned long long)status.cow_copies, (unsigned long long)status.edits, forks, moves, refused);
	/* The run exercised what it is for. */
	if (turns >= 1000)
		T_CHECK(status.small_mapped && status.cow_copies && forks && moves && (status.edits != 0) == guest_edits &&
			(scarce ? refused > 0 : status.huge_mapped > 0 && status.huge_splits > 0));
}

int main(int argc, char **argv)
{
	unsigned long long start = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	unsigned turns = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 3000;

	run(start, turns, false, 64 << 20);
	run(start, turns, true, 64 << 20);
	run(start, turns, false, 4 << 20);
	run(start, turns, true, 4 << 20);
	return 0;
}
