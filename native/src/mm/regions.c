/*
 * The sorted array of regions: see regions.h. Lookups are binary searches; edits move the tail of the array.
 */
#include "regions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"

void akvm__regions_free(struct akvm__regions *regions)
{
	free(regions->array);
	memset(regions, 0, sizeof(*regions));
}

int akvm__regions_reserve(struct akvm__regions *regions, uint32_t extra)
{
	uint32_t need = regions->count + extra, capacity = regions->capacity ? regions->capacity : 16;
	struct akvm__vma *array;

	if (need <= regions->capacity)
		return 0;
	if (need > AKVM__REGIONS_MAX)
		return -ENOMEM;
	while (capacity < need)
		capacity *= 2;
	array = AKVM__HOST->realloc(regions->array, capacity * sizeof(*array));
	if (array == NULL)
		return -ENOMEM;
	regions->array = array;
	regions->capacity = capacity;
	return 0;
}

uint32_t akvm__regions_find(const struct akvm__regions *regions, uint64_t address)
{
	uint32_t low = 0, high = regions->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (regions->array[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

struct akvm__vma *akvm__regions_at(const struct akvm__regions *regions, uint64_t address)
{
	uint32_t index = akvm__regions_find(regions, address);

	if (index == regions->count || regions->array[index].start > address)
		return NULL;
	return &regions->array[index];
}

uint64_t akvm__regions_room(const struct akvm__regions *regions, uint64_t start, uint64_t end, uint64_t length,
			    uint64_t alignment)
{
	for (uint32_t index = akvm__regions_find(regions, start);; index++) {
		uint64_t aligned = (start + alignment - 1) & ~(alignment - 1);

		if (aligned < start || aligned >= end || end - aligned < length)
			return 0;
		start = aligned;
		if (index == regions->count ||
		    (regions->array[index].start >= start && regions->array[index].start - start >= length))
			return start;
		if (regions->array[index].end > start)
			start = regions->array[index].end;
	}
}

bool akvm__regions_cover(const struct akvm__regions *regions, uint64_t start, uint64_t end)
{
	for (uint32_t index = akvm__regions_find(regions, start); start < end; index++) {
		if (index == regions->count || regions->array[index].start > start)
			return false;
		start = regions->array[index].end;
	}
	return true;
}

uint64_t akvm__regions_mapped(const struct akvm__regions *regions, uint64_t start, uint64_t end)
{
	uint64_t mapped = 0;

	for (uint32_t index = akvm__regions_find(regions, start); index < regions->count; index++) {
		const struct akvm__vma *vma = &regions->array[index];

		if (vma->start >= end)
			break;
		mapped += (vma->end < end ? vma->end : end) - (vma->start > start ? vma->start : start);
	}
	return mapped;
}

static void open_gap(struct akvm__regions *regions, uint32_t index)
{
	memmove(&regions->array[index + 1], &regions->array[index], (regions->count - index) * sizeof(*regions->array));
	regions->count++;
}

struct akvm_file *akvm__regions_split(struct akvm__regions *regions, uint64_t address)
{
	struct akvm__vma *vma = akvm__regions_at(regions, address);

	if (vma == NULL || vma->start == address)
		return NULL;
	open_gap(regions, (uint32_t)(vma - regions->array));
	vma[1].start = vma[0].end = address;
	if (vma->file == NULL)
		return NULL;
	vma[1].offset += address - vma[0].start;
	return vma->file;
}

void akvm__regions_remove(struct akvm__regions *regions, uint32_t first, uint32_t last)
{
	if (first == last)
		return;
	memmove(&regions->array[first], &regions->array[last], (regions->count - last) * sizeof(*regions->array));
	regions->count -= last - first;
}

uint32_t akvm__regions_insert(struct akvm__regions *regions, const struct akvm__vma *vma)
{
	uint32_t index = akvm__regions_find(regions, vma->start);

	open_gap(regions, index);
	regions->array[index] = *vma;
	return index;
}

void akvm__regions_move(struct akvm__regions *regions, uint32_t first, uint32_t last, uint64_t distance)
{
	uint32_t moved = last - first, index;
	/* They wait behind the others: what closes up and makes way again ends before that. */
	struct akvm__vma *array = regions->array, *aside = array + regions->count;

	memcpy(aside, array + first, moved * sizeof(*array));
	akvm__regions_remove(regions, first, last);
	for (uint32_t i = 0; i < moved; i++) {
		aside[i].start += distance;
		aside[i].end += distance;
	}
	index = akvm__regions_find(regions, aside->start);
	memmove(array + index + moved, array + index, (regions->count - index) * sizeof(*array));
	memcpy(array + index, aside, moved * sizeof(*array));
	regions->count += moved;
}

static bool one_mapping(const struct akvm__vma *left, const struct akvm__vma *right)
{
	if (left->end != right->start || left->access != right->access || left->file != right->file ||
	    left->shared != right->shared || left->stable != right->stable)
		return false;
	return left->file == NULL || left->offset + (left->end - left->start) == right->offset;
}

void akvm__regions_join(struct akvm__regions *regions, uint32_t first, uint32_t last,
			void (*joined)(void *opaque, struct akvm_file *file), void *opaque)
{
	uint32_t kept = first;

	if (last >= regions->count)
		last = regions->count - 1;
	if (regions->count == 0 || first >= last)
		return;
	for (uint32_t next = first + 1; next <= last; next++) {
		struct akvm__vma *left = &regions->array[kept], *right = &regions->array[next];

		if (one_mapping(left, right)) {
			left->end = right->end;
			if (right->file != NULL)
				joined(opaque, right->file);
		} else {
			regions->array[++kept] = *right;
		}
	}
	akvm__regions_remove(regions, kept + 1, last + 1);
}
