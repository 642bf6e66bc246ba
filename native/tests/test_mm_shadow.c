/*
 * What a platform is told that keeps copies of page tables: what lies where, and what of it is no longer true. First each change by
 * itself, then random ones against a copy that is kept by these rules and must never hold what the tables do not.
 *
 * Usage: test_mm_shadow [seed [turns]].
 */
#include "mm_world.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "akvm/layout.h"
#include "t.h"

#define RW   (AKVM_READ | AKVM_WRITE)
#define BASE 0x40000000ull
#define AWAY 0x70000000ull
#define PAGE AKVM__PAGE
#define HUGE AKVM__HUGE_PAGE

static struct world world;
static struct akvm_space *space;

static void begin(void)
{
	world_open_shadowed(&world, 32 << 20, 1);
	T_EQUAL(akvm__space_create(world.mm, &space), 0);
}

static void end(void)
{
	T_EQUAL(akvm_space_destroy(space), 0);
	world_close(&world);
}

static void fault(uint64_t address, uint32_t access)
{
	T_EQUAL(akvm__space_fault(space, address, access), AKVM_FAULT_NONE);
}

/* Just this range is stale; none when both are 0. */
static void expect_stale(uint64_t start, uint64_t stop)
{
	const struct akvm__range *ranges;
	uint32_t count;

	akvm__space_lock(space);
	count = akvm__space_stale(space, &ranges);
	T_EQUAL(count, stop != 0);
	if (count) {
		T_EQUAL(ranges[0].start, start);
		T_EQUAL(ranges[0].end, stop);
	}
	akvm__space_stale_done(space);
	T_EQUAL(akvm__space_stale(space, &ranges), 0);
	akvm__space_unlock(space);
}

static bool translate(struct akvm_space *where, uint64_t address, struct akvm__translation *out)
{
	bool found;

	akvm__space_lock(where);
	found = akvm__space_translation(where, address, out);
	akvm__space_unlock(where);
	return found;
}

static void each_loss_is_noted_and_no_gain(void)
{
	struct akvm_space *child;

	begin();
	T_EQUAL(akvm_space_map(space, BASE, 8 * PAGE, RW, NULL, 0), 0);
	for (uint64_t page = 0; page < 8; page++)
		fault(BASE + page * PAGE, AKVM_WRITE);
	expect_stale(0, 0);
	T_EQUAL(akvm_space_protect(space, BASE + PAGE, 2 * PAGE, AKVM_READ), 0);
	expect_stale(BASE + PAGE, BASE + 3 * PAGE);
	T_EQUAL(akvm_space_protect(space, BASE + PAGE, 2 * PAGE, RW), 0);
	expect_stale(0, 0);
	T_EQUAL(akvm_space_protect(space, BASE, PAGE, RW | AKVM_EXECUTE), 0);
	expect_stale(0, 0);
	T_EQUAL(akvm_space_protect(space, BASE, PAGE, RW), 0);
	expect_stale(BASE, BASE + PAGE);
	T_EQUAL(akvm_space_discard(space, BASE + 3 * PAGE, PAGE), 0);
	expect_stale(BASE + 3 * PAGE, BASE + 4 * PAGE);
	T_EQUAL(akvm_space_unmap(space, BASE + 4 * PAGE, PAGE), 0);
	expect_stale(BASE + 4 * PAGE, BASE + 5 * PAGE);
	/* Nothing was there. */
	T_EQUAL(akvm_space_unmap(space, BASE + 3 * PAGE, 2 * PAGE), 0);
	expect_stale(0, 0);
	T_EQUAL(akvm_space_move(space, BASE + 5 * PAGE, AWAY, PAGE), 0);
	expect_stale(BASE + 5 * PAGE, BASE + 6 * PAGE);
	T_EQUAL(akvm_space_protect(space, BASE + 6 * PAGE, PAGE, 0), 0);
	expect_stale(BASE + 6 * PAGE, BASE + 7 * PAGE);
	/* A fork makes all of it read-only; the copy that a store then has is another page. */
	T_EQUAL(akvm_space_fork(space, &child), 0);
	akvm__space_lock(space);
	akvm__space_stale_done(space);
	akvm__space_unlock(space);
	fault(BASE + 7 * PAGE, AKVM_WRITE);
	expect_stale(BASE + 7 * PAGE, BASE + 8 * PAGE);
	T_EQUAL(akvm_space_destroy(child), 0);
	end();
}

/* More of them than there is room for, near and far: none is left out. */
static void none_is_lost_among_many(void)
{
	enum { CHANGES = 3 * AKVM__STALE_MAX };
	const struct akvm__range *ranges;
	uint64_t addresses[CHANGES];
	uint32_t count;

	begin();
	for (uint64_t i = 0; i < CHANGES; i++) {
		addresses[i] = BASE + (i * 7 % CHANGES) * 3 * HUGE;
		T_EQUAL(akvm_space_map(space, addresses[i], PAGE, RW, NULL, 0), 0);
		fault(addresses[i], AKVM_WRITE);
	}
	for (unsigned i = 0; i < CHANGES; i++)
		T_EQUAL(akvm_space_unmap(space, addresses[i], PAGE), 0);
	akvm__space_lock(space);
	count = akvm__space_stale(space, &ranges);
	T_CHECK(count > 1 && count <= AKVM__STALE_MAX);
	for (unsigned i = 0; i < CHANGES; i++) {
		bool found = false;

		for (uint32_t j = 0; j < count; j++)
			found |= addresses[i] >= ranges[j].start && addresses[i] + PAGE <= ranges[j].end;
		T_CHECK(found);
	}
	akvm__space_unlock(space);
	end();
}

/* As much around an address as lies in a row, with the same rights; and no further. */
static void translations_go_as_far_as_they_are_alike(void)
{
	int fd = world_file(8 * PAGE);
	struct akvm__translation it;
	struct akvm_file *file;

	begin();
	T_EQUAL(akvm__file_open(world.mm, fd, false, 0, &file), 0);
	T_EQUAL(akvm_space_map(space, BASE, 8 * PAGE, RW, file, 0), 0);
	T_CHECK(!translate(space, BASE, &it));
	for (uint64_t page = 1; page < 6; page++)
		fault(BASE + page * PAGE, AKVM_READ);
	T_CHECK(translate(space, BASE + 3 * PAGE + 5, &it));
	T_EQUAL(it.address, BASE + PAGE);
	T_EQUAL(it.length, 5 * PAGE);
	T_EQUAL(it.offset, PAGE);
	T_EQUAL(it.access, AKVM_READ);
	T_CHECK(it.fd >= 0 && it.fd != world.mm->frames.fd);
	/* A copy in the middle: of another file, and with more rights. */
	fault(BASE + 3 * PAGE, AKVM_WRITE);
	T_CHECK(translate(space, BASE + 3 * PAGE, &it));
	T_EQUAL(it.address, BASE + 3 * PAGE);
	T_EQUAL(it.length, PAGE);
	T_EQUAL(it.access, RW);
	T_EQUAL(it.fd, world.mm->frames.fd);
	T_CHECK(translate(space, BASE + 2 * PAGE, &it));
	T_EQUAL(it.length, 2 * PAGE);
	T_CHECK(!translate(space, BASE + 7 * PAGE, &it));
	T_CHECK(!translate(space, AWAY, &it));
	/* What a store is likely to be. */
	akvm__space_lock(space);
	T_EQUAL(akvm__space_likely_access(space, BASE + 3 * PAGE), AKVM_WRITE);
	T_EQUAL(akvm__space_likely_access(space, BASE), AKVM_READ);
	T_EQUAL(akvm__space_likely_access(space, AWAY), AKVM_READ);
	akvm__space_unlock(space);
	/* A large page, whole. */
	T_EQUAL(akvm_space_map(space, AWAY, HUGE, RW | AKVM_EXECUTE, NULL, 0), 0);
	fault(AWAY + 5 * PAGE, AKVM_WRITE);
	T_CHECK(translate(space, AWAY + 9 * PAGE, &it));
	T_EQUAL(it.address, AWAY);
	T_EQUAL(it.length, HUGE);
	T_EQUAL(it.access, RW | AKVM_EXECUTE);
	akvm_file_close(file);
	close(fd);
	end();
}

static void a_shadow_is_forgotten_once(void)
{
	struct akvm_space *other;
	int mark;

	begin();
	T_EQUAL(akvm__space_create(world.mm, &other), 0);
	T_CHECK(*akvm__space_shadow(other) == NULL);
	*akvm__space_shadow(other) = &mark;
	T_EQUAL(akvm_space_destroy(other), 0);
	world_reap(&world);
	T_EQUAL(world.forgotten, 1);
	T_CHECK(world.forgot == &mark);
	end();
	T_EQUAL(world.forgotten, 1);
}

/* ---------------------------------------------------------------- the model */

enum { LOW_PAGES = 1100, HIGH_PAGES = 40, PAGES = LOW_PAGES + HIGH_PAGES, SPACES = 3, FILE_PAGES = 24 };
#define LOW_BASE  (0x10000000ull - 64 * PAGE)
#define HIGH_BASE 0x7f0000000000ull

struct copy {
	struct akvm_space *space;
	struct {
		int fd;
		uint32_t access; /* 0: nothing is held */
		uint64_t offset;
	} pages[PAGES];
};

static struct copy copies[SPACES];
static struct akvm_file *files[2];
static unsigned long long seed;
static unsigned long long held, dropped;

static unsigned pick(unsigned below)
{
	return (unsigned)(t_random(&seed) % below);
}

static uint64_t address_of(unsigned page)
{
	return page < LOW_PAGES ? LOW_BASE + page * PAGE : HIGH_BASE + (page - LOW_PAGES) * PAGE;
}

static void pick_range(unsigned *first, unsigned *count)
{
	unsigned limit;

	*first = pick(5) ? pick(4) ? pick(LOW_PAGES) : 64 + pick(2) * 512 : LOW_PAGES + pick(HIGH_PAGES);
	limit = (*first < LOW_PAGES ? LOW_PAGES : PAGES) - *first;
	*count = 1 + pick(pick(4) ? 24 : 600);
	if (*count > limit)
		*count = limit;
}

/* As before an entry: what is stale goes out of the copy. */
static void refresh(struct copy *copy)
{
	const struct akvm__range *ranges;
	uint32_t count;

	akvm__space_lock(copy->space);
	count = akvm__space_stale(copy->space, &ranges);
	for (unsigned page = 0; page < PAGES; page++)
		for (uint32_t i = 0; i < count; i++)
			if (copy->pages[page].access && address_of(page) >= ranges[i].start && address_of(page) < ranges[i].end) {
				copy->pages[page].access = 0;
				dropped++;
			}
	akvm__space_stale_done(copy->space);
	akvm__space_unlock(copy->space);
}

static void check(struct copy *copy)
{
	for (unsigned page = 0; page < PAGES; page++) {
		struct akvm__translation it;

		if (!copy->pages[page].access)
			continue;
		T_CHECK(translate(copy->space, address_of(page), &it));
		T_CHECK(it.address <= address_of(page) && address_of(page) < it.address + it.length);
		T_EQUAL(it.fd, copy->pages[page].fd);
		T_EQUAL(it.offset + (address_of(page) - it.address), copy->pages[page].offset);
		T_EQUAL(copy->pages[page].access & ~it.access, 0);
		held++;
	}
}

/* As when a guest faults: served, then copied with all that is alike around it. */
static void touch(struct copy *copy)
{
	static const uint32_t accesses[] = { AKVM_READ, AKVM_WRITE, AKVM_WRITE, AKVM_EXECUTE };
	struct akvm__translation it;
	unsigned page, count;
	uint8_t byte, seen;

	pick_range(&page, &count);
	refresh(copy);
	if (akvm__space_fault(copy->space, address_of(page), accesses[pick(4)]) != AKVM_FAULT_NONE)
		return;
	/* Serving it may have taken something away. */
	refresh(copy);
	if (!translate(copy->space, address_of(page), &it))
		return;
	for (unsigned i = 0; i < PAGES; i++) {
		if (address_of(i) < it.address || address_of(i) >= it.address + it.length)
			continue;
		copy->pages[i].fd = it.fd;
		copy->pages[i].access = it.access;
		copy->pages[i].offset = it.offset + (address_of(i) - it.address);
	}
	/* And what lies there is what the space has. */
	T_EQUAL(pread(it.fd, &byte, 1, (off_t)(it.offset + (address_of(page) - it.address))), 1);
	if (akvm_space_read(copy->space, address_of(page), &seen, 1) == 1)
		T_EQUAL(byte, seen);
}

static void write_by_the_host(struct copy *copy)
{
	unsigned page, count;
	uint8_t bytes[64];

	pick_range(&page, &count);
	memset(bytes, (int)pick(256), sizeof(bytes));
	(void)akvm_space_write(copy->space, address_of(page) + pick(PAGE), bytes, sizeof(bytes), pick(4) == 0);
}

static void change(struct copy *copy)
{
	unsigned first, count, to, limit, shared = pick(2);
	struct akvm_space *where = copy->space;
	uint64_t address, bytes;
	int error = 0;

	pick_range(&first, &count);
	address = address_of(first);
	bytes = count * PAGE;
	switch (pick(8)) {
	case 0:
	case 1:
		error = akvm_space_map(where, address, bytes, pick(4) ? RW | pick(8) : pick(8), NULL, 0);
		break;
	case 2:
		if (count > FILE_PAGES)
			bytes = FILE_PAGES * PAGE;
		error = akvm_space_map(where, address, bytes, AKVM_READ | pick(8) | (shared ? AKVM_SHARED : 0), files[shared], 0);
		break;
	case 3:
		error = akvm_space_unmap(where, address, bytes);
		break;
	case 4:
	case 5:
		error = akvm_space_protect(where, address, bytes, pick(3) ? AKVM_READ | pick(8) : pick(8));
		break;
	case 6:
		error = akvm_space_discard(where, address, bytes);
		break;
	default:
		pick_range(&to, &limit);
		error = akvm_space_move(where, address, address_of(to), (count < limit ? count : limit) * PAGE);
	}
	T_CHECK(error == 0 || error == -ENOMEM || error == -EFAULT || error == -EINVAL);
}

/* Parent and child then share what they have, read-only. */
static void replace_by_fork(struct copy *copy)
{
	struct copy *child = &copies[pick(SPACES)];

	if (child == copy)
		return;
	T_EQUAL(akvm_space_destroy(child->space), 0);
	memset(child, 0, sizeof(*child));
	if (akvm_space_fork(copy->space, &child->space) != 0)
		T_EQUAL(akvm__space_create(world.mm, &child->space), 0);
	world_reap(&world);
}

static void model(unsigned long long start, unsigned turns)
{
	int fds[2] = { world_file(FILE_PAGES * PAGE), world_file(FILE_PAGES * PAGE) };

	seed = start * 2654435761u + 88172645463325252ull;
	held = dropped = 0;
	world_open_shadowed(&world, 64 << 20, 16);
	for (unsigned i = 0; i < 2; i++)
		T_EQUAL(akvm__file_open(world.mm, fds[i], i == 1, 0, &files[i]), 0);
	memset(copies, 0, sizeof(copies));
	for (unsigned i = 0; i < SPACES; i++)
		T_EQUAL(akvm__space_create(world.mm, &copies[i].space), 0);
	for (unsigned turn = 0; turn < turns; turn++) {
		struct copy *copy = &copies[pick(SPACES)];
		unsigned choice = pick(100);

		snprintf(t_context, sizeof(t_context), "seed %llu turn %u", start, turn);
		if (choice < 60)
			touch(copy);
		else if (choice < 70)
			write_by_the_host(copy);
		else if (choice < 98)
			change(copy);
		else
			replace_by_fork(copy);
		if (pick(4) == 0) {
			refresh(copy);
			check(copy);
		}
	}
	for (unsigned i = 0; i < SPACES; i++) {
		refresh(&copies[i]);
		check(&copies[i]);
		T_EQUAL(akvm_space_destroy(copies[i].space), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		akvm_file_close(files[i]);
		close(fds[i]);
	}
	world_close(&world);
	printf("%s: %llu translations held, %llu dropped\n", t_context, held, dropped);
	T_CHECK(turns < 1000 || (held > 10000 && dropped > 1000));
	t_context[0] = 0;
}

int main(int argc, char **argv)
{
	unsigned long long start = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	unsigned turns = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 4000;

	T_RUN(each_loss_is_noted_and_no_gain);
	T_RUN(none_is_lost_among_many);
	T_RUN(translations_go_as_far_as_they_are_alike);
	T_RUN(a_shadow_is_forgotten_once);
	model(start, turns);
	model(start + 1, turns);
	return 0;
}
