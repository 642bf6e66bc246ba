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

/* Where the byte at an address is: in a frame, or at an offset of a file. */
struct found {
	uint8_t *host;
	const struct akvm_file *file; /* NULL: in a frame */
	uint64_t offset;
};

/* 0, -EFAULT, or -ENOMEM when the page would be there but for the machine's memory or the space's limit. */
static int find(struct akvm_space *space, uint64_t address, enum copy_kind kind, struct found *found)
{
	struct akvm__vma *vma = akvm__regions_at(&space->regions, address);
	uint64_t entry;
	int fault;

	if (vma == NULL || !permits(vma, kind))
		return -EFAULT;
	fault = akvm__page_in(space, vma, address, kind == COPY_READ ? 0 : AKVM__PAGE_WRITE, &entry);
	if (fault != AKVM_FAULT_NONE)
		return fault == AKVM_FAULT_MEMORY || fault == AKVM_FAULT_LIMIT ? -ENOMEM : -EFAULT;
	if (akvm__entry_private(entry)) {
		found->file = NULL;
		found->offset = address % (akvm__entry_size(entry) * AKVM__PAGE);
		found->host = akvm__frames_host(&space->mm->frames, akvm__entry_gpa(entry)) + found->offset;
	} else {
		found->file = vma->file;
		found->offset = vma->offset + (address - vma->start);
	}
	return 0;
}

/* Copy within one page; errors as find(). */
static int copy_page(struct akvm_space *space, uint64_t address, uint8_t *buffer, uint32_t length, enum copy_kind kind)
{
	struct found found;
	int error = find(space, address, kind, &found);

	if (error)
		return error;
	if (found.file != NULL)
		return kind == COPY_READ ? akvm__file_copy(found.file, found.offset, buffer, length)
					 : akvm__file_store(found.file, found.offset, buffer, length);
	if (kind == COPY_READ)
		memcpy(buffer, found.host, length);
	else
		memcpy(found.host, buffer, length);
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

uint32_t akvm__space_own_parts(struct akvm_space *space, uint64_t address, uint64_t length, struct iovec *parts, uint32_t max)
{
	const uint64_t own = AKVM__ENTRY_PRESENT | AKVM__ENTRY_WRITE;
	uint32_t count = 0;

	while (length > 0 && address < AKVM_USER_MAX) {
		struct akvm__place place;
		uint64_t entry = akvm__walk(space, address, &place), offset, room;
		uint8_t *host;

		if ((entry & own) != own || !akvm__entry_private(entry))
			break;
		offset = address % (akvm__entry_size(entry) * AKVM__PAGE);
		room = akvm__entry_size(entry) * AKVM__PAGE - offset;
		room = room < length ? room : length;
		host = akvm__frames_host(&space->mm->frames, akvm__entry_gpa(entry)) + offset;
		if (count > 0 && (uint8_t *)parts[count - 1].iov_base + parts[count - 1].iov_len == host)
			parts[count - 1].iov_len += room;
		else if (count < max)
			parts[count++] = (struct iovec){ .iov_base = host, .iov_len = room };
		else
			break;
		address += room;
		length -= room;
	}
	return count;
}

static int compare_exchange(struct akvm_space *space, uint64_t address, uint32_t *word, uint32_t desired)
{
	struct found found;
	int error = find(space, address, COPY_WRITE, &found);

	if (error == 0 && found.file != NULL)
		return akvm__file_compare_exchange(found.file, found.offset, word, desired);
	if (error == 0)
		(void)__atomic_compare_exchange_n((uint32_t *)(void *)found.host, word, desired, false, __ATOMIC_SEQ_CST,
						  __ATOMIC_SEQ_CST);
	return error;
}

int akvm_space_compare_exchange32(struct akvm_space *space, uint64_t address, uint32_t expected, uint32_t desired, uint32_t *old)
{
	int error = -ENOMEM;

	if (address % sizeof(*old) != 0)
		return akvm__fail("compare and exchange guest memory", EINVAL);
	for (unsigned tries = 0; error == -ENOMEM && tries < 2; tries++) {
		if (tries > 0 && !akvm__reap_wait(space->mm))
			break;
		*old = expected;
		akvm__space_begin(space);
		error = compare_exchange(space, address, old, desired);
		akvm__space_end(space);
	}
	return error ? akvm__fail("compare and exchange guest memory", -error) : 0;
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
