/*
 * Four-level page tables of one space: what entries mean, how they are found, made, split and taken away.
 *
 * All of it works on intended values, with the space's lock held; when a value reaches the tables the CPU walks is edits.c's.
 */
#ifndef AKVM_MM_PAGETABLE_H
#define AKVM_MM_PAGETABLE_H

#include "akvm/akvm.h"
#include "tables.h"

#define AKVM__PAGE      4096ull
#define AKVM__HUGE_PAGE 0x200000ull

/* Intel SDM vol. 3, 4.5: 4-level paging. */
#define AKVM__ENTRY_PRESENT    0x001ull
#define AKVM__ENTRY_WRITE      0x002ull
#define AKVM__ENTRY_USER       0x004ull
#define AKVM__ENTRY_ACCESSED   0x020ull
#define AKVM__ENTRY_DIRTY      0x040ull
#define AKVM__ENTRY_HUGE       0x080ull
#define AKVM__ENTRY_PARKED     0x200ull /* ours: not present, but holds a private page (of a region without any access) */
#define AKVM__ENTRY_NO_EXECUTE (1ull << 63)
#define AKVM__ENTRY_ADDRESS    0x000ffffffffff000ull

struct akvm__place {
	uint32_t table;
	uint16_t index;
	uint16_t level; /* 1: 4 KiB entries, 2: 2 MiB, 3, 4: the root */
};

/* A walk over the entries in use that map [start, end), each wholly inside. */
struct akvm__visitor {
	struct akvm_space *space;
	uint64_t start, end;
	int (*page)(struct akvm__visitor *visitor, struct akvm__place place, uint64_t entry, uint64_t address);
	uint32_t access; /* for the caller's page() */
	struct akvm_space *child;
	bool keep_files, keep_tables;
	uint64_t distance;
	uint64_t visited;
};

uint64_t akvm__entry_get(const struct akvm_space *space, struct akvm__place place);
uint32_t akvm__entry_size(uint64_t entry); /* AKVM__SMALL or AKVM__HUGE */
uint64_t akvm__entry_gpa(uint64_t entry);
bool akvm__entry_private(uint64_t entry); /* maps frames, not a file's slot */
/* The entry that maps `gpa` in a region with `access`; not writable unless `writable` too. */
uint64_t akvm__entry_make(uint64_t gpa, uint32_t size, uint32_t access, bool writable);

/* The lowest existing entry for `address`; zero when nothing is mapped there. */
uint64_t akvm__walk(const struct akvm_space *space, uint64_t address, struct akvm__place *place);
/* The entry at `level` for `address`, with the tables above it made; no larger page may be there. -ENOMEM, or
 * -EDQUOT when a table would go beyond the space's limit. */
int akvm__walk_make(struct akvm_space *space, uint64_t address, uint32_t level, struct akvm__place *place);
/* Turn the 2 MiB page at `place` into 512 small ones. -ENOMEM. */
int akvm__split(struct akvm_space *space, struct akvm__place place);
/* The same for the one, if any, that has `address` strictly inside. */
int akvm__split_at(struct akvm_space *space, uint64_t address);

/* Map private frames or a file's page where nothing is. Private ones need a reserved place in limbo. */
void akvm__page_set(struct akvm_space *space, struct akvm__place place, uint64_t entry);
/* Take away whatever page is there; frames go to limbo. */
void akvm__page_clear(struct akvm_space *space, struct akvm__place place);

/* Visit; stops at the first page() that fails and returns its error. Tables left without entries are taken away, unless
 * keep_tables. */
int akvm__pages_visit(struct akvm__visitor *visitor);
/* The table that `entry`, which is about to change, points to has no entries: it goes. */
void akvm__table_drop(struct akvm_space *space, uint64_t entry);
/* Take away the pages of [start, end), which no large page straddles; with keep_files only the private ones. */
void akvm__pages_clear(struct akvm_space *space, uint64_t start, uint64_t end, bool keep_files);

#endif
