/*
 * Copies between host buffers and guest memory, by the guest's own rules: pages fault in, protection holds, and what the
 * guest could not touch ends the copy.
 *
 * File pages are never read or written through the host's mapping of the file.
 */
#include <errno.h>
#include <string.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "space.h"

/* Bytes copied under one hold of the lock. */
#define LOCKED_BYTES_MAX AKVM__HUGE_PAGE

enum copy_kind { COPY_READ, COPY_WRITE, COPY_FORCE };

/* Nobody's force reaches others: what is shared is written only by right. */
static bool permits(const struct akvm__vma *vma, enum copy_kind kind)
{
	if (kind == COPY_READ)
		return vma->access != 0;
	return vma->access & AKVM_WRITE || (kind == COPY_FORCE && !vma->shared);
}

/* Copy within one page. 0, -EFAULT, or -ENOMEM when the page would be there but for the machine's memory or the space's limit. */
static int copy_page(struct akvm_space *space, uint64_t address, uint8_t *buffer, uint32_t length, enum copy_kind kind)
{
	struct akvm__vma *vma = akvm__regions_at(&space->regions, address);
	uint64_t entry, offset;
	uint8_t *host;
	int fault;

	if (vma == NULL || !permits(vma, kind))
		return -EFAULT;
	fault = akvm__page_in(space, vma, address, kind == COPY_READ ? 0 : AKVM__PAGE_WRITE, &entry);
	if (fault != AKVM_FAULT_NONE)
		return fault == AKVM_FAULT_MEMORY || fault == AKVM_FAULT_LIMIT ? -ENOMEM : -EFAULT;
	if (!akvm__entry_private(entry)) {
		offset = vma->offset + (address - vma->start);
		return kind == COPY_READ ? akvm__file_copy(vma->file, offset, buffer, length)
					 : akvm__file_store(vma->file, offset, buffer, length);
	}
	offset = address % (akvm__entry_size(entry) * AKVM__PAGE);
	host = akvm__frames_host(&space->mm->frames, akvm__entry_gpa(entry)) + offset;
	if (kind == COPY_READ)
		memcpy(buffer, host, length);
	else
		memcpy(host, buffer, length);
	return 0;
}

static int64_t copy(struct akvm_space *space, uint64_t address, uint8_t *buffer, uint64_t length, enum copy_kind kind)
{
	bool patient = true;
	uint64_t done = 0;
	int error = 0;

	if (length > INT64_MAX)
		length = INT64_MAX;
	while (done < length && error == 0) {
		uint64_t stop = length - done > LOCKED_BYTES_MAX ? done + LOCKED_BYTES_MAX : length;

		akvm__space_begin(space);
		while (done < stop) {
			/* An address beyond user space, wrapped or not, is in no region. */
			uint64_t at = address + done, room = AKVM__PAGE - at % AKVM__PAGE;
			uint32_t count = (uint32_t)(stop - done < room ? stop - done : room);

			error = copy_page(space, at, buffer + done, count, kind);
			if (error)
				break;
			done += count;
		}
		akvm__space_end(space);
		if (error == -ENOMEM && patient && akvm__reap_wait(space->mm)) {
			patient = false;
			error = 0;
		}
	}
	if (done == 0 && length > 0)
		return akvm__fail(kind == COPY_READ ? "read guest memory" : "write guest memory", -error);
	return (int64_t)done;
}

int64_t akvm_space_read(struct akvm_space *space, uint64_t address, void *buffer, uint64_t length)
{
	return copy(space, address, buffer, length, COPY_READ);
}

int64_t akvm_space_write(struct akvm_space *space, uint64_t address, const void *buffer, uint64_t length, bool force)
{
	/* Only read from: one routine copies both ways. */
	return copy(space, address, (uint8_t *)(uintptr_t)buffer, length, force ? COPY_FORCE : COPY_WRITE);
}

int64_t akvm_space_read_string(struct akvm_space *space, uint64_t address, char *buffer, uint64_t capacity)
{
	uint64_t done = 0;

	if (capacity > INT64_MAX)
		capacity = INT64_MAX;
	while (done < capacity) {
		uint64_t room = AKVM__PAGE - (address + done) % AKVM__PAGE;
		uint64_t count = capacity - done < room ? capacity - done : room;
		const char *nul;
		int error;

		akvm__space_begin(space);
		error = copy_page(space, address + done, (uint8_t *)buffer + done, (uint32_t)count, COPY_READ);
		akvm__space_end(space);
		if (error)
			return akvm__fail("read guest string", -error);
		nul = memchr(buffer + done, 0, count);
		if (nul != NULL)
			return nul - buffer;
		done += count;
	}
	return akvm__fail("read guest string", ENAMETOOLONG);
}
