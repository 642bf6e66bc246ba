/*
 * Host files that guests map: one object, one host mapping and one memory slot for each inode and way to open it.
 *
 * The only place that asks the host about file contents. The mapping itself is for the guest's eyes: the host does not copy
 * through it, because a file may be truncated at any moment and the host would die of SIGBUS where a guest only faults.
 */
#ifndef AKVM_MM_FILES_H
#define AKVM_MM_FILES_H

#include <pthread.h>

#include "mm.h"

enum { AKVM__FILE_BUCKETS = 256 };
/* Files stay below 2^39, which every processor with nested paging can address. */
#define AKVM__GPA_FILES_END (1ull << 39)

struct akvm_file {
	/* Constant. */
	struct akvm__files *files; /* NULL once the machine is gone */
	uint64_t device, inode;
	uint64_t gpa, pages; /* the slot, which may be longer than the file; 0 pages: no slot */
	uint64_t gpa_bytes;
	uint8_t *host;
	uint32_t number, slot; /* the number is the same for all objects of the inode */
	int fd;
	bool writable;
	/* Guarded by the files lock. */
	uint32_t references;     /* of callers and of regions */
	uint32_t mappings;       /* regions */
	struct akvm_file *next;  /* in its bucket */
	struct akvm_file *above; /* the file at the next higher GPA */
	struct akvm_file *idle;  /* without references: the next one that is, in the order they became so */
};

struct akvm__files {
	const struct akvm__mm_hooks *hooks;
	uint32_t slots_max;
	/* The lock guards what is below. */
	pthread_mutex_t lock;
	struct akvm_file *buckets[AKVM__FILE_BUCKETS];
	struct akvm_file *lowest;
	struct akvm_file *idle;
	uint32_t idle_count;
	uint32_t *slots_free; /* stack of numbers given back */
	uint32_t slots_free_count;
	uint32_t slots_next; /* numbers from here on were never used */
	uint32_t slots_used;
	uint32_t number; /* of the last file opened */
};

int akvm__files_create(struct akvm__files *files, const struct akvm__mm_hooks *hooks, uint32_t slots_max);
/* Slots are left to the virtual machine's own end; objects callers still hold live on, empty. */
void akvm__files_free(struct akvm__files *files);
/* The object that backs as much as the file holds now and `bytes`, or a new one. */
int akvm__files_open(struct akvm__files *files, int fd, bool writable, uint64_t bytes, struct akvm_file **file);
/* A region shows it, and holds it until that is dropped. */
void akvm__file_show(struct akvm_file *file);
/* The region is gone; its reference may wait in limbo still. */
void akvm__file_hide(struct akvm_file *file);
void akvm__file_drop(struct akvm_file *file);
/* Length of the file now, in started pages. 0 when the host does not tell. */
uint64_t akvm__file_pages_now(const struct akvm_file *file);
/* Copy `length` bytes at `offset`, all inside one page. Bytes past the end of the file are zero as long as the page holds any
 * of the file; -EFAULT for a page that does not, and for one the host cannot read. */
int akvm__file_copy(const struct akvm_file *file, uint64_t offset, void *buffer, uint32_t length);
/* Store inside one page of a writable file. Bytes past the end are dropped as long as the page holds any of the file; -EFAULT as in
 * copy, and when the host has no room. */
int akvm__file_store(const struct akvm_file *file, uint64_t offset, const void *buffer, uint32_t length);
/* Compare and exchange one aligned word of a writable file through the host's mapping of it; what it was goes to *word. The one
 * place that touches the mapping: the host is asked to have the page there first, which fails where a touch would kill, and
 * guests cut no file short meanwhile if whoever does it for them also calls this. -EFAULT as in store. */
int akvm__file_compare_exchange(const struct akvm_file *file, uint64_t offset, uint32_t *word, uint32_t desired);
/* Slots of files that somebody holds. */
uint32_t akvm__files_slots(struct akvm__files *files);

#endif
