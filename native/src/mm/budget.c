/*
 * Budgets: see budget.h. A budget that nobody holds any more stays until what was charged to it is back.
 */
#include "budget.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"

void akvm__budgets_create(struct akvm__budgets *budgets)
{
	memset(budgets, 0, sizeof(*budgets));
	pthread_mutex_init(&budgets->lock, NULL);
}

void akvm__budgets_free(struct akvm__budgets *budgets)
{
	for (uint32_t i = 0; i < budgets->count; i++)
		free(budgets->array[i]);
	free(budgets->array);
	pthread_mutex_destroy(&budgets->lock);
	memset(budgets, 0, sizeof(*budgets));
}

/* A place of the array that is free; 0 when there is none to be had. */
static uint32_t find_place(struct akvm__budgets *budgets)
{
	uint32_t number = 1, wanted = budgets->count ? budgets->count * 2 : 16;
	struct akvm_budget **array;

	while (number < budgets->count && budgets->array[number] != NULL)
		number++;
	if (number < budgets->count || number > AKVM__BUDGETS_MAX)
		return number < budgets->count ? number : 0;
	array = AKVM__HOST->realloc(budgets->array, wanted * sizeof(struct akvm_budget *));
	if (array == NULL)
		return 0;
	memset(array + budgets->count, 0, (wanted - budgets->count) * sizeof(struct akvm_budget *));
	budgets->array = array;
	budgets->count = wanted;
	return number;
}

int akvm__budget_create(struct akvm__budgets *budgets, uint64_t pages, struct akvm_budget **out)
{
	struct akvm_budget *budget = AKVM__HOST->calloc(1, sizeof(*budget));
	uint32_t number;

	if (budget == NULL)
		return -ENOMEM;
	pthread_mutex_lock(&budgets->lock);
	number = find_place(budgets);
	if (number != 0)
		budgets->array[number] = budget;
	pthread_mutex_unlock(&budgets->lock);
	if (number == 0) {
		free(budget);
		return -ENOMEM;
	}
	budget->budgets = budgets;
	budget->number = (uint16_t)number;
	budget->limit = pages;
	budget->holders = 1;
	*out = budget;
	return 0;
}

/* With the lock held. */
static void free_if_unused(struct akvm_budget *budget)
{
	if (budget->holders != 0 || budget->used != 0)
		return;
	budget->budgets->array[budget->number] = NULL;
	free(budget);
}

void akvm__budget_hold(struct akvm_budget *budget)
{
	if (budget == NULL)
		return;
	pthread_mutex_lock(&budget->budgets->lock);
	budget->holders++;
	pthread_mutex_unlock(&budget->budgets->lock);
}

void akvm__budget_drop(struct akvm_budget *budget)
{
	struct akvm__budgets *budgets;

	if (budget == NULL)
		return;
	budgets = budget->budgets;
	pthread_mutex_lock(&budgets->lock);
	budget->holders--;
	free_if_unused(budget);
	pthread_mutex_unlock(&budgets->lock);
}

bool akvm__budget_charge(struct akvm_budget *budget, uint64_t pages, bool force)
{
	bool room;

	if (budget == NULL)
		return true;
	pthread_mutex_lock(&budget->budgets->lock);
	room = force || (budget->used <= budget->limit && pages <= budget->limit - budget->used);
	if (room)
		budget->used += pages;
	pthread_mutex_unlock(&budget->budgets->lock);
	return room;
}

static void release(struct akvm_budget *budget, uint64_t pages)
{
	assert(budget->used >= pages);
	budget->used -= pages;
	free_if_unused(budget);
}

void akvm__budget_release(struct akvm_budget *budget, uint64_t pages)
{
	struct akvm__budgets *budgets;

	if (budget == NULL)
		return;
	budgets = budget->budgets;
	pthread_mutex_lock(&budgets->lock);
	release(budget, pages);
	pthread_mutex_unlock(&budgets->lock);
}

void akvm__budget_release_number(struct akvm__budgets *budgets, uint16_t number, uint64_t pages)
{
	if (number == 0 || pages == 0)
		return;
	pthread_mutex_lock(&budgets->lock);
	release(budgets->array[number], pages);
	pthread_mutex_unlock(&budgets->lock);
}

void akvm_budget_destroy(struct akvm_budget *budget)
{
	akvm__budget_drop(budget);
}

uint64_t akvm_budget_used(struct akvm_budget *budget)
{
	uint64_t used;

	pthread_mutex_lock(&budget->budgets->lock);
	used = budget->used;
	pthread_mutex_unlock(&budget->budgets->lock);
	return used;
}

int akvm_budget_charge(struct akvm_budget *budget, uint64_t pages)
{
	return akvm__budget_charge(budget, pages, false) ? 0 : akvm__fail("memory budget", ENOMEM);
}

void akvm_budget_release(struct akvm_budget *budget, uint64_t pages)
{
	akvm__budget_release(budget, pages);
}
