/*
 * The sorted array of regions against a map with one word for each page, at random. Usage: test_mm_regions [seed [turns]].
 */
#include "mm/regions.h"

#include <errno.h>
#include <string.h>

#include "t.h"

#define PAGE 4096ull
enum { PAGES = 200, FILES = 3 };

struct page {
	uint32_t access; /* 0: unmapped here */
	unsigned file;   /* 1.., or 0 */
	uint64_t offset;
	bool shared;
};

static struct akvm__regions regions;
static struct page model[PAGES];
static int files[FILES]; /* what stands for files: only their addresses are used */
static int references[FILES];

static struct akvm_file *file_of(unsigned number)
{
	return number ? (struct akvm_file *)(void *)&files[number - 1] : NULL;
}

static int *references_of(struct akvm_file *file)
{
	return &references[(int *)(void *)file - files];
}

static void joined(void *opaque, struct akvm_file *file)
{
	T_CHECK(opaque == &regions);
	--*references_of(file);
}

static void cut(uint64_t address)
{
	struct akvm_file *file = akvm__regions_split(&regions, address);

	if (file)
		++*references_of(file);
}

static void join_all(uint64_t start, uint64_t end)
{
	akvm__regions_join(&regions, akvm__regions_find(&regions, start ? start - 1 : 0), akvm__regions_find(&regions, end),
			   joined, &regions);
}

static void unmap(uint64_t start, uint64_t end)
{
	uint32_t first, last;

	cut(start);
	cut(end);
	first = akvm__regions_find(&regions, start);
	last = akvm__regions_find(&regions, end);
	for (uint32_t i = first; i < last; i++)
		if (regions.array[i].file)
			--*references_of(regions.array[i].file);
	akvm__regions_remove(&regions, first, last);
}

static bool same_mapping(const struct page *left, const struct page *right)
{
	return left->access == right->access && left->file == right->file && left->shared == right->shared &&
	       (left->file == 0 || left->offset + PAGE == right->offset);
}

static void check(void)
{
	int expected[FILES] = { 0 };
	uint64_t end = 0;

	for (uint32_t i = 0; i < regions.count; i++) {
		T_CHECK(regions.array[i].start >= end && regions.array[i].end > regions.array[i].start);
		end = regions.array[i].end;
		if (regions.array[i].file)
			expected[(int *)(void *)regions.array[i].file - files]++;
		/* Maximal: two pieces of one mapping are one region. */
		if (i > 0 && regions.array[i - 1].end == regions.array[i].start)
			T_CHECK(!same_mapping(&model[regions.array[i].start / PAGE - 1], &model[regions.array[i].start / PAGE]));
	}
	T_CHECK(memcmp(expected, references, sizeof(references)) == 0);
	for (unsigned i = 0; i < PAGES; i++) {
		const struct akvm__vma *vma = akvm__regions_at(&regions, i * PAGE + PAGE - 1);

		T_EQUAL(vma != NULL, model[i].access != 0);
		if (vma == NULL)
			continue;
		T_EQUAL(vma->access, model[i].access);
		T_EQUAL(vma->shared, model[i].shared);
		T_CHECK(vma->file == file_of(model[i].file));
		T_CHECK(vma->file == NULL || vma->offset + (i * PAGE - vma->start) == model[i].offset);
	}
}

/* What is mapped in a range, and the lowest room in it, by looking at every page. */
static void questions(unsigned long long *seed)
{
	unsigned first = 1 + (unsigned)(t_random(seed) % (PAGES - 1)),
		 end = first + (unsigned)(t_random(seed) % (PAGES - first + 1));
	unsigned length = 1 + (unsigned)(t_random(seed) % 6), step = 1u << t_random(seed) % 4, mapped = 0, found = 0;

	for (unsigned i = first; i < end; i++)
		mapped += model[i].access != 0;
	for (unsigned at = (first + step - 1) / step * step; at + length <= end && found == 0; at += step) {
		found = at;
		for (unsigned i = at; i < at + length; i++)
			if (model[i].access != 0)
				found = 0;
	}
	T_EQUAL(akvm__regions_mapped(&regions, first * PAGE, end * PAGE), mapped * PAGE);
	T_EQUAL(akvm__regions_room(&regions, first * PAGE, end * PAGE, length * PAGE, step * PAGE), found * PAGE);
}

static void change(unsigned long long *seed, unsigned first, unsigned count)
{
	uint64_t start = first * PAGE, end = (first + count) * PAGE;
	uint32_t access = 1 + (uint32_t)(t_random(seed) % 3);
	bool whole = true;

	for (unsigned i = first; i < first + count; i++)
		whole = whole && model[i].access != 0;
	T_EQUAL(akvm__regions_cover(&regions, start, end), whole);
	T_EQUAL(akvm__regions_reserve(&regions, 3), 0);
	switch (t_random(seed) % 3) {
	case 0: {
		unsigned file = (unsigned)(t_random(seed) % (FILES + 1));
		uint64_t offset = file ? t_random(seed) % 4 * PAGE + (t_random(seed) % 2 ? start : 0) : 0;
		bool shared = file && t_random(seed) % 2;
		struct akvm__vma vma = { start, end, offset, file_of(file), access, shared, false };

		unmap(start, end);
		akvm__regions_insert(&regions, &vma);
		if (file)
			references[file - 1]++;
		for (unsigned i = first; i < first + count; i++)
			model[i] = (struct page){ access, file, offset + (i - first) * PAGE, shared };
		break;
	}
	case 1:
		unmap(start, end);
		memset(&model[first], 0, count * sizeof(model[0]));
		break;
	default:
		cut(start);
		cut(end);
		for (uint32_t i = akvm__regions_find(&regions, start); i < akvm__regions_find(&regions, end); i++)
			regions.array[i].access = access;
		for (unsigned i = first; i < first + count; i++)
			model[i].access = model[i].access ? access : 0;
		break;
	}
	join_all(start, end);
}

static void as_many_as_allowed(void)
{
	akvm__regions_free(&regions);
	T_EQUAL(akvm__regions_reserve(&regions, AKVM__REGIONS_MAX + 1u), -ENOMEM);
	T_EQUAL(akvm__regions_reserve(&regions, AKVM__REGIONS_MAX), 0);
	T_EQUAL(regions.count, 0);
	akvm__regions_free(&regions);
}

int main(int argc, char **argv)
{
	unsigned long long start = argc > 1 ? strtoull(argv[1], NULL, 0) : 1, seed = start * 7919 + 12345;
	unsigned turns = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 20000;

	for (unsigned turn = 0; turn < turns; turn++) {
		unsigned first = (unsigned)(t_random(&seed) % PAGES), count = 1 + (unsigned)(t_random(&seed) % 20);

		snprintf(t_context, sizeof(t_context), "seed %llu turn %u", start, turn);
		change(&seed, first, count < PAGES - first ? count : PAGES - first);
		questions(&seed);
		check();
	}
	as_many_as_allowed();
	return 0;
}
