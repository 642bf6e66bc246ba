/*
 * The end of spaces: the queue of those that need a vCPU before their memory can go back.
 *
 * Mostly destroyed spaces, whose tables must be cleared before they are reused; also living ones that let go of much memory
 * while no vCPU came by to carry out the edits. A space is freed only when nothing of it waits any more.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "host/host.h"
#include "space.h"

/* Memory that is short may be a reaping away: at most 20 ms of waiting, in a state that is an error otherwise. */
enum { REAP_NAPS = 200 };

void akvm__space_abandon(struct akvm_space *space)
{
	for (uint32_t i = 0; i < space->regions.count; i++)
		if (space->regions.array[i].file != NULL)
			akvm__file_drop(space->regions.array[i].file);
	for (uint32_t i = 0; i < space->limbo.count; i++)
		if ((space->limbo.items[i] & AKVM__LIMBO_KIND) == AKVM__LIMBO_FILE)
			akvm__file_drop((struct akvm_file *)(uintptr_t)(space->limbo.items[i] & ~AKVM__LIMBO_KIND));
	if (space->shadow != NULL)
		space->mm->hooks.forget(space->mm->hooks.opaque, space->shadow);
	akvm__regions_free(&space->regions);
	akvm__limbo_free(&space->limbo);
	pthread_mutex_destroy(&space->lock);
	free(space);
}

void akvm__space_free(struct akvm_space *space)
{
	struct akvm__mm *mm = space->mm;

	akvm__tables_drop_root(&mm->tables, space->root);
	akvm__space_join(space, NULL);
	pthread_mutex_lock(&mm->spaces_lock);
	if (space->previous != NULL)
		space->previous->next = space->next;
	else
		mm->spaces = space->next;
	if (space->next != NULL)
		space->next->previous = space->previous;
	mm->spaces_count--;
	pthread_mutex_unlock(&mm->spaces_lock);
	akvm__space_abandon(space);
}

static void enqueue(struct akvm__mm *mm, struct akvm_space *space)
{
	space->reap = AKVM__REAP_QUEUED;
	space->reap_next = NULL;
	if (mm->reap_last != NULL)
		mm->reap_last->reap_next = space;
	else
		mm->reap_first = space;
	mm->reap_last = space;
}

void akvm__reap_request(struct akvm_space *space)
{
	struct akvm__mm *mm = space->mm;
	bool queued = false;

	pthread_mutex_lock(&mm->spaces_lock);
	if (space->reap == AKVM__REAP_NONE) {
		enqueue(mm, space);
		atomic_fetch_add(&mm->reaping, 1);
		queued = true;
	}
	pthread_mutex_unlock(&mm->spaces_lock);
	if (queued)
		mm->hooks.reap(mm->hooks.opaque);
}

static struct akvm_space *dequeue(struct akvm__mm *mm)
{
	struct akvm_space *space;

	pthread_mutex_lock(&mm->spaces_lock);
	space = mm->reap_first;
	if (space != NULL) {
		mm->reap_first = space->reap_next;
		if (mm->reap_first == NULL)
			mm->reap_last = NULL;
		space->reap = AKVM__REAP_BUSY;
	}
	pthread_mutex_unlock(&mm->spaces_lock);
	return space;
}

struct akvm_space *akvm__mm_reap_next(struct akvm__mm *mm)
{
	struct akvm_space *space = dequeue(mm);

	if (space == NULL)
		return NULL;
	akvm__space_begin(space);
	if (space->dead && !space->cleared)
		akvm__space_clear(space);
	akvm__space_end(space);
	return space;
}

void akvm__mm_reap_done(struct akvm__mm *mm, struct akvm_space *space)
{
	bool again, finished;

	akvm__space_begin(space);
	finished = space->cleared && space->limbo.count == 0 && !akvm__space_edits_pending(space);
	pthread_mutex_lock(&mm->spaces_lock);
	/* Destroyed meanwhile, or a vCPU is just leaving it: another turn. */
	again = space->dead && !finished;
	if (again)
		enqueue(mm, space);
	else
		space->reap = AKVM__REAP_NONE;
	pthread_mutex_unlock(&mm->spaces_lock);
	akvm__space_end(space);
	if (again) {
		mm->hooks.reap(mm->hooks.opaque);
		return;
	}
	if (finished)
		akvm__space_free(space);
	atomic_fetch_sub(&mm->reaping, 1);
}

bool akvm__reap_wait(struct akvm__mm *mm)
{
	const struct timespec nap = { .tv_nsec = 100000 };
	bool any = false;

	for (unsigned naps = 0; naps < REAP_NAPS && atomic_load(&mm->reaping); naps++) {
		any = true;
		mm->hooks.reap(mm->hooks.opaque);
		AKVM__HOST->nanosleep(&nap, NULL);
	}
	return any;
}

int akvm_space_destroy(struct akvm_space *space)
{
	bool finished = false;

	akvm__space_begin(space);
	/* What it shows nobody sees from now on, whenever its regions go. */
	for (uint32_t i = 0; i < space->regions.count; i++)
		if (space->regions.array[i].file != NULL)
			akvm__file_hide(space->regions.array[i].file);
	space->dead = true;
	/* With host edits everything happens here and now, unless a vCPU is still on its way out. */
	if (!space->mm->tables.guest_edits) {
		akvm__space_clear(space);
		akvm__space_publish(space);
		finished = space->limbo.count == 0;
	}
	if (!finished)
		akvm__reap_request(space);
	akvm__space_end(space);
	if (finished)
		akvm__space_free(space);
	return 0;
}

uint32_t akvm__mm_reaping(struct akvm__mm *mm)
{
	return atomic_load(&mm->reaping);
}

void akvm__mm_reap_failed(struct akvm__mm *mm, struct akvm_space *space)
{
	pthread_mutex_lock(&mm->spaces_lock);
	enqueue(mm, space);
	pthread_mutex_unlock(&mm->spaces_lock);
}
