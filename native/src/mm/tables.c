/*
 * The arena of page-table pages: see tables.h.
 *
 * Roots have a pool of their own: a vCPU whose CR3 still names the root of a dead space must find the kernel half there, so a
 * root's upper half never changes and the page never becomes anything else.
 */
#include "tables.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "akvm/layout.h"
#include "frames.h"
#include "host/host.h"
#include "pagetable.h"

int akvm__tables_create(struct akvm__tables *tables, uint64_t bytes)
{
	void *arena = NULL, *mirror;
	int error;

	memset(tables, 0, sizeof(*tables));
	pthread_mutex_init(&tables->lock, NULL);
	tables->bytes = bytes;
	tables->total = (uint32_t)(bytes / AKVM__PAGE);
	tables->free = tables->roots_free = AKVM__NO_TABLE;
	tables->tables = AKVM__HOST->calloc(tables->total, sizeof(*tables->tables));
	if (tables->tables == NULL) {
		akvm__tables_free(tables);
		return akvm__fail("allocate table records", ENOMEM);
	}
	error = akvm__arena_map(bytes, "mmap tables", &arena);
	if (error) {
		akvm__tables_free(tables);
		return error;
	}
	tables->real = arena;
	mirror = AKVM__HOST->mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mirror == MAP_FAILED) {
		error = akvm__fail("mmap table mirror", errno);
		akvm__tables_free(tables);
		return error;
	}
	tables->mirror = mirror;
	akvm__tables_guest_edits(tables, true);
	return 0;
}

void akvm__tables_free(struct akvm__tables *tables)
{
	if (tables->real != NULL)
		AKVM__HOST->munmap(tables->real, tables->bytes);
	if (tables->mirror != NULL)
		AKVM__HOST->munmap(tables->mirror, tables->bytes);
	free(tables->tables);
	pthread_mutex_destroy(&tables->lock);
	memset(tables, 0, sizeof(*tables));
}

static int take(struct akvm__tables *tables, uint32_t *table)
{
	if (tables->free != AKVM__NO_TABLE) {
		*table = tables->free;
		tables->free = tables->tables[*table].next_free;
	} else if (tables->next_unused < tables->total) {
		*table = tables->next_unused++;
	} else {
		return -ENOMEM;
	}
	tables->used++;
	return 0;
}

int akvm__tables_take(struct akvm__tables *tables, uint32_t *table)
{
	int error;

	pthread_mutex_lock(&tables->lock);
	error = take(tables, table);
	pthread_mutex_unlock(&tables->lock);
	return error;
}

static void complete_root(struct akvm__tables *tables, uint32_t table)
{
	uint64_t *real = akvm__tables_real(tables, table);

	__atomic_store_n(&real[510], tables->kernel[0], __ATOMIC_RELEASE);
	__atomic_store_n(&real[511], tables->kernel[1], __ATOMIC_RELEASE);
}

int akvm__tables_take_root(struct akvm__tables *tables, uint32_t *table)
{
	int error = -ENOMEM;

	pthread_mutex_lock(&tables->lock);
	if (tables->roots_free != AKVM__NO_TABLE) {
		*table = tables->roots_free;
		tables->roots_free = tables->tables[*table].next_free;
		tables->used++;
		error = 0;
	} else if (tables->roots < tables->total / 4) {
		error = take(tables, table);
		if (error == 0) {
			tables->roots++;
			complete_root(tables, *table);
		}
	}
	pthread_mutex_unlock(&tables->lock);
	return error;
}

/* A stale entry in a recycled page would join one space to another's memory: look, rather than trust. */
static bool is_clear(const struct akvm__tables *tables, uint32_t table, uint32_t entries)
{
	const uint64_t *real = akvm__tables_real(tables, table);

	for (uint32_t i = 0; i < entries; i++)
		if (__atomic_load_n(&real[i], __ATOMIC_RELAXED) != 0)
			return false;
	return true;
}

void akvm__tables_drop(struct akvm__tables *tables, uint32_t table)
{
	if (!is_clear(tables, table, AKVM__ENTRIES))
		return;
	pthread_mutex_lock(&tables->lock);
	tables->tables[table].next_free = tables->free;
	tables->free = table;
	tables->used--;
	pthread_mutex_unlock(&tables->lock);
}

void akvm__tables_drop_root(struct akvm__tables *tables, uint32_t table)
{
	if (!is_clear(tables, table, AKVM__USER_ENTRIES))
		return;
	pthread_mutex_lock(&tables->lock);
	tables->tables[table].next_free = tables->roots_free;
	tables->roots_free = table;
	tables->used--;
	pthread_mutex_unlock(&tables->lock);
}

void akvm__tables_kernel_half(struct akvm__tables *tables, uint32_t root, uint64_t entry_510, uint64_t entry_511)
{
	tables->kernel[0] = entry_510;
	tables->kernel[1] = entry_511;
	complete_root(tables, root);
}

void akvm__tables_guest_edits(struct akvm__tables *tables, bool guest_edits)
{
	tables->guest_edits = guest_edits;
	tables->intended = guest_edits ? tables->mirror : tables->real;
}

uint32_t akvm__tables_used(struct akvm__tables *tables)
{
	uint32_t used;

	pthread_mutex_lock(&tables->lock);
	used = tables->used;
	pthread_mutex_unlock(&tables->lock);
	return used;
}

uint64_t akvm__tables_gpa(uint32_t table)
{
	return AKVM_GPA_TABLES + (uint64_t)table * AKVM__PAGE;
}

uint32_t akvm__tables_index(uint64_t entry)
{
	return (uint32_t)(((entry & AKVM__ENTRY_ADDRESS) - AKVM_GPA_TABLES) / AKVM__PAGE);
}

uint64_t *akvm__tables_real(const struct akvm__tables *tables, uint32_t table)
{
	return tables->real + (size_t)table * AKVM__ENTRIES;
}

uint64_t *akvm__tables_intended(const struct akvm__tables *tables, uint32_t table)
{
	return tables->intended + (size_t)table * AKVM__ENTRIES;
}
