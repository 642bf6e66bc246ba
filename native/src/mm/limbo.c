/*
 * The waiting room of one space: see limbo.h. A plain vector whose capacity always covers what is owed.
 */
#include "limbo.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"

void akvm__limbo_free(struct akvm__limbo *limbo)
{
	free(limbo->items);
	memset(limbo, 0, sizeof(*limbo));
}

int akvm__limbo_reserve(struct akvm__limbo *limbo, uint32_t extra)
{
	uint64_t need = (uint64_t)limbo->count + limbo->owed + extra, capacity = limbo->capacity ? limbo->capacity : 64;
	uint64_t *items;

	if (need <= limbo->capacity)
		return 0;
	while (capacity < need)
		capacity *= 2;
	if (capacity > UINT32_MAX)
		return -ENOMEM;
	items = AKVM__HOST->realloc(limbo->items, capacity * sizeof(*items));
	if (items == NULL)
		return -ENOMEM;
	limbo->items = items;
	limbo->capacity = (uint32_t)capacity;
	return 0;
}

void akvm__limbo_push(struct akvm__limbo *limbo, enum akvm__limbo_kind kind, uint64_t address)
{
	assert(limbo->owed > 0 && limbo->count < limbo->capacity);
	limbo->owed--;
	limbo->items[limbo->count++] = address | kind;
	limbo->frames += kind == AKVM__LIMBO_SMALL ? 1 : kind == AKVM__LIMBO_HUGE ? 512 : 0;
}

void akvm__limbo_shift(struct akvm__limbo *limbo)
{
	for (uint32_t i = 0; i < limbo->sealed; i++) {
		uint64_t kind = limbo->items[i] & AKVM__LIMBO_KIND;

		limbo->frames -= kind == AKVM__LIMBO_SMALL ? 1 : kind == AKVM__LIMBO_HUGE ? 512 : 0;
	}
	limbo->count -= limbo->sealed;
	memmove(limbo->items, limbo->items + limbo->sealed, limbo->count * sizeof(*limbo->items));
	limbo->sealed = 0;
}
