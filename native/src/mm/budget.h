/*
 * Budgets: how many pages a group of spaces may have together.
 *
 * A frame is charged to the budget of the space that took it, once, for as long as anybody maps it: a child's copy-on-write share
 * costs nothing until it copies. A table page is charged to its space's budget. Only counting lives here.
 */
#ifndef AKVM_MM_BUDGET_H
#define AKVM_MM_BUDGET_H

#include <pthread.h>

#include "akvm/akvm.h"

enum { AKVM__BUDGETS_MAX = 65535 };

struct akvm__budgets;

struct akvm_budget {
	/* Constant. */
	struct akvm__budgets *budgets;
	uint16_t number; /* never 0 */
	/* Guarded by the budgets lock. */
	uint64_t limit, used;
	uint32_t holders; /* the caller's handle, and spaces */
};

struct akvm__budgets {
	pthread_mutex_t lock; /* innermost */
	struct akvm_budget **array;
	uint32_t count; /* of places in the array, the first of them never used */
};

void akvm__budgets_create(struct akvm__budgets *budgets);
void akvm__budgets_free(struct akvm__budgets *budgets);
/* -ENOMEM. */
int akvm__budget_create(struct akvm__budgets *budgets, uint64_t pages, struct akvm_budget **budget);
/* One holder more, or less: the budget goes with the last one, once nothing is charged to it. NULL is nobody's. */
void akvm__budget_hold(struct akvm_budget *budget);
void akvm__budget_drop(struct akvm_budget *budget);
/* False, and nothing charged, when that would be too much. With `force` it never is. No budget has no bound. */
bool akvm__budget_charge(struct akvm_budget *budget, uint64_t pages, bool force);
void akvm__budget_release(struct akvm_budget *budget, uint64_t pages);
/* The same for what was charged to a number; 0 is nobody's. */
void akvm__budget_release_number(struct akvm__budgets *budgets, uint16_t number, uint64_t pages);

#endif
