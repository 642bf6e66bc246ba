/*
 * Process-context identifiers (SDM vol. 3A §4.10.1): 1 is the kernel root's, 2 to 9 are lent to spaces, least recently used
 * first. Owner thread only, so no lock: a space that dies is never looked up again, because ids are not reused.
 */
#include "kvm/kvm.h"

#include <string.h>

/* Returns the PCID; *flush says that what it holds is stale. The caller loads CR3 with bit 63 clear then. */
uint64_t akvm__pcids_assign(struct akvm__pcids *pcids, uint64_t space_id, uint64_t generation, bool *flush)
{
	unsigned slot = 0;

	for (unsigned i = 0; i < AKVM_PCIDS; i++) {
		if (pcids->space_id[i] == space_id) {
			slot = i;
			break;
		}
		if (pcids->used[i] < pcids->used[slot])
			slot = i;
	}
	*flush = pcids->space_id[slot] != space_id || pcids->generation[slot] != generation;
	pcids->space_id[slot] = space_id;
	pcids->generation[slot] = generation;
	pcids->used[slot] = ++pcids->clock;
	return AKVM_PCID_FIRST + slot;
}

void akvm__pcids_drop(struct akvm__pcids *pcids)
{
	memset(pcids, 0, sizeof(*pcids));
}
