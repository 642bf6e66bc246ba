/*
 * Host files: see files.h.
 *
 * A duplicate of the caller's descriptor is kept, so that the inode stays the one it was and its bytes can be copied with
 * pread() and pwrite(), which fail where a load or store would kill.
 */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "akvm/layout.h"
#include "host/host.h"
#include "pagetable.h"

/* Interrupted copies of one page in a row after which the host is taken to be unable to make them. */
enum { COPY_ATTEMPTS = 1000 };
/* A memory slot costs the host's kernel 1/512 of its length: what an object may have, and of that ahead of the file's length. */
#define SLOT_BYTES_MAX  (16ull << 30)
#define AHEAD_BYTES_MAX (1ull << 30)
/* Objects without references that are kept: making a slot, and taking it away, costs more than starting a small program. */
enum { IDLE_MAX = 32 };
#define IDLE_BYTES_MAX (64ull << 20)

int akvm__files_create(struct akvm__files *files, const struct akvm__mm_hooks *hooks, uint32_t slots_max)
{
	memset(files, 0, sizeof(*files));
	pthread_mutex_init(&files->lock, NULL);
	files->hooks = hooks;
	files->slots_max = slots_max;
	files->slots_next = AKVM_SLOT_FILES;
	files->slots_free = AKVM__HOST->calloc(slots_max ? slots_max : 1, sizeof(*files->slots_free));
	if (files->slots_free == NULL) {
		akvm__files_free(files);
		return akvm__fail("allocate slot numbers", ENOMEM);
	}
	return 0;
}

static void release_host(struct akvm_file *file)
{
	if (file->host != NULL)
		AKVM__HOST->munmap(file->host, file->pages * AKVM__PAGE);
	if (file->fd >= 0)
		AKVM__HOST->close(file->fd);
	file->host = NULL;
	file->fd = -1;
}

void akvm__files_free(struct akvm__files *files)
{
	for (uint32_t i = 0; i < AKVM__FILE_BUCKETS; i++) {
		for (struct akvm_file *file = files->buckets[i], *next; file != NULL; file = next) {
			next = file->next;
			release_host(file);
			file->files = NULL;
			if (file->references == 0)
				free(file);
		}
	}
	free(files->slots_free);
	pthread_mutex_destroy(&files->lock);
	memset(files, 0, sizeof(*files));
}

static struct akvm_file **bucket_of(struct akvm__files *files, uint64_t device, uint64_t inode)
{
	return &files->buckets[((inode ^ device * 31) * 0x9e3779b97f4a7c15ull) >> 56];
}

static int take_slot(struct akvm__files *files, uint32_t *slot)
{
	if (files->slots_free_count > 0)
		*slot = files->slots_free[--files->slots_free_count];
	else if (files->slots_next < files->slots_max)
		*slot = files->slots_next++;
	else
		return -ENOSPC;
	files->slots_used++;
	return 0;
}

static void drop_slot(struct akvm__files *files, uint32_t slot)
{
	files->slots_free[files->slots_free_count++] = slot;
	files->slots_used--;
}

/* Lowest gap that fits; links the file there. */
static int place(struct akvm__files *files, struct akvm_file *file)
{
	struct akvm_file **link = &files->lowest;
	uint64_t gpa = AKVM_GPA_FILES;

	for (; *link != NULL && (*link)->gpa - gpa < file->gpa_bytes; link = &(*link)->above)
		gpa = (*link)->gpa + (*link)->gpa_bytes;
	if (file->gpa_bytes > AKVM__GPA_FILES_END - gpa)
		return -ENOSPC;
	file->gpa = gpa;
	file->above = *link;
	*link = file;
	return 0;
}

static void unplace(struct akvm__files *files, struct akvm_file *file)
{
	struct akvm_file **link = &files->lowest;

	while (*link != NULL && *link != file)
		link = &(*link)->above;
	if (*link == file)
		*link = file->above;
}

/* Map the file and give it a slot. */
static int back(struct akvm__files *files, struct akvm_file *file)
{
	int protection = file->writable ? PROT_READ | PROT_WRITE : PROT_READ, error;
	void *host = AKVM__HOST->mmap(NULL, file->pages * AKVM__PAGE, protection, MAP_SHARED, file->fd, 0);

	if (host == MAP_FAILED)
		return akvm__fail("mmap file", errno);
	file->host = host;
	(void)AKVM__HOST->madvise(host, file->pages * AKVM__PAGE, MADV_DONTFORK);
	error = take_slot(files, &file->slot);
	if (error)
		return akvm__fail("slot for file", -error);
	error = place(files, file);
	if (error) {
		drop_slot(files, file->slot);
		return akvm__fail("guest-physical room for file", -error);
	}
	error = files->hooks->set_slot(files->hooks->opaque, file->slot, !file->writable, file->gpa, host,
				       file->pages * AKVM__PAGE);
	if (error) {
		unplace(files, file);
		drop_slot(files, file->slot);
	}
	return error;
}

/* False when its slot cannot be removed: it stays, file and all, for the next one who opens it. Nothing may take its place. */
static bool destroy(struct akvm__files *files, struct akvm_file *file)
{
	struct akvm_file **link = bucket_of(files, file->device, file->inode);

	if (file->pages > 0) {
		if (files->hooks->set_slot(files->hooks->opaque, file->slot, !file->writable, file->gpa, file->host, 0) != 0)
			return false;
		unplace(files, file);
		drop_slot(files, file->slot);
	}
	while (*link != file)
		link = &(*link)->next;
	*link = file->next;
	release_host(file);
	free(file);
	return true;
}

/* Off the list of idle ones, if it is there. */
static void unlink_idle(struct akvm__files *files, struct akvm_file *file)
{
	struct akvm_file **link = &files->idle;

	while (*link != NULL && *link != file)
		link = &(*link)->idle;
	if (*link == NULL)
		return;
	*link = file->idle;
	files->idle_count--;
}

/* The one that has been idle for longest goes. False when there is none, or it cannot. */
static bool evict(struct akvm__files *files)
{
	struct akvm_file *file = files->idle;

	if (file == NULL)
		return false;
	unlink_idle(files, file);
	return destroy(files, file);
}

/* The last reference is gone. Kept are small read-only objects of files that have a name: they cost the host little, and what
 * was deleted gives its room back. */
static void retire(struct akvm__files *files, struct akvm_file *file)
{
	struct akvm_file **link = &files->idle;
	struct stat status;

	if (file->writable || file->pages == 0 || file->gpa_bytes > IDLE_BYTES_MAX || AKVM__HOST->fstat(file->fd, &status) != 0 ||
	    status.st_nlink == 0) {
		(void)destroy(files, file);
		return;
	}
	while (*link != NULL)
		link = &(*link)->idle;
	*link = file;
	file->idle = NULL;
	if (++files->idle_count > IDLE_MAX)
		(void)evict(files);
}

static int open_new(struct akvm__files *files, int fd, const struct akvm_file *like, uint32_t number, struct akvm_file **out)
{
	struct akvm_file *file = AKVM__HOST->calloc(1, sizeof(*file)), **bucket;
	int error = 0;

	if (file == NULL)
		return akvm__fail("allocate file", ENOMEM);
	*file = *like;
	file->fd = AKVM__HOST->duplicate(fd);
	if (file->fd < 0)
		error = akvm__fail("dup file", errno);
	else if (file->pages > 0)
		error = back(files, file);
	if (error) {
		release_host(file);
		free(file);
		return error;
	}
	file->files = files;
	file->references = 1;
	file->number = number ? number : ++files->number;
	if (file->number == 0)
		file->number = ++files->number;
	bucket = bucket_of(files, file->device, file->inode);
	file->next = *bucket;
	*bucket = file;
	*out = file;
	return 0;
}

/* What the object must be at least; its GPA is not yet known. */
static int describe(int fd, bool writable, uint64_t bytes, struct akvm_file *like)
{
	struct stat status;
	int flags = 0;

	if (AKVM__HOST->fstat(fd, &status) != 0)
		return akvm__fail("fstat file", errno);
	if (!S_ISREG(status.st_mode))
		return akvm__fail("open file: not a regular file", EINVAL);
	if (writable)
		flags = AKVM__HOST->status_flags(fd);
	if (flags < 0)
		return akvm__fail("fcntl file", errno);
	/* pwrite() would go to the end of the file, whatever the offset. */
	if (writable && ((flags & O_ACCMODE) != O_RDWR || flags & O_APPEND))
		return akvm__fail("open file: not for reading and writing anywhere", EINVAL);
	if (bytes > AHEAD_BYTES_MAX)
		bytes = AHEAD_BYTES_MAX;
	if (bytes < (uint64_t)status.st_size)
		bytes = (uint64_t)status.st_size;
	if (bytes > SLOT_BYTES_MAX)
		bytes = SLOT_BYTES_MAX;
	bytes = (bytes + AKVM__HUGE_PAGE - 1) & ~(AKVM__HUGE_PAGE - 1);
	*like = (struct akvm_file){
		.device = status.st_dev,
		.inode = status.st_ino,
		.pages = bytes / AKVM__PAGE,
		.gpa_bytes = bytes,
		.writable = writable,
	};
	return 0;
}

int akvm__files_open(struct akvm__files *files, int fd, bool writable, uint64_t bytes, struct akvm_file **out)
{
	struct akvm_file *file, like;
	uint32_t number = 0;
	int error = describe(fd, writable, bytes, &like);

	if (error)
		return error;
	pthread_mutex_lock(&files->lock);
	/* Later ones come first, and are larger. */
	for (file = *bucket_of(files, like.device, like.inode); file != NULL; file = file->next) {
		if (file->device != like.device || file->inode != like.inode)
			continue;
		number = file->number;
		if (file->writable == writable && file->pages >= like.pages)
			break;
	}
	if (file != NULL) {
		if (file->references++ == 0)
			unlink_idle(files, file);
		*out = file;
	} else {
		do
			error = open_new(files, fd, &like, number, out);
		while (error && evict(files));
	}
	pthread_mutex_unlock(&files->lock);
	return error;
}

void akvm__file_show(struct akvm_file *file)
{
	pthread_mutex_lock(&file->files->lock);
	file->references++;
	file->mappings++;
	pthread_mutex_unlock(&file->files->lock);
}

void akvm__file_hide(struct akvm_file *file)
{
	pthread_mutex_lock(&file->files->lock);
	file->mappings--;
	pthread_mutex_unlock(&file->files->lock);
}

void akvm__file_drop(struct akvm_file *file)
{
	struct akvm__files *files = file->files;

	if (files == NULL) {
		if (--file->references == 0)
			free(file);
		return;
	}
	pthread_mutex_lock(&files->lock);
	if (--file->references == 0)
		retire(files, file);
	pthread_mutex_unlock(&files->lock);
}

void akvm_file_close(struct akvm_file *file)
{
	if (file != NULL)
		akvm__file_drop(file);
}

uint32_t akvm_file_references(struct akvm_file *file)
{
	struct akvm__files *files = file->files;
	uint32_t references;

	if (files == NULL)
		return file->references;
	pthread_mutex_lock(&files->lock);
	references = file->references;
	pthread_mutex_unlock(&files->lock);
	return references;
}

uint32_t akvm_file_number(const struct akvm_file *file)
{
	return file->number;
}

uint32_t akvm_file_mappings(struct akvm_file *file)
{
	struct akvm__files *files = file->files;
	uint32_t mappings;

	if (files == NULL)
		return 0;
	pthread_mutex_lock(&files->lock);
	mappings = file->mappings;
	pthread_mutex_unlock(&files->lock);
	return mappings;
}

uint64_t akvm__file_pages_now(const struct akvm_file *file)
{
	struct stat status;

	if (AKVM__HOST->fstat(file->fd, &status) != 0 || status.st_size <= 0)
		return 0;
	return ((uint64_t)status.st_size + AKVM__PAGE - 1) / AKVM__PAGE;
}

int akvm__file_copy(const struct akvm_file *file, uint64_t offset, void *buffer, uint32_t length)
{
	uint32_t done = 0;

	for (uint32_t attempts = 0; done < length;) {
		ssize_t count = AKVM__HOST->pread(file->fd, (uint8_t *)buffer + done, length - done, (off_t)(offset + done));

		if (count < 0 && (errno != EINTR || ++attempts == COPY_ATTEMPTS))
			return -EFAULT;
		if (count == 0)
			break;
		if (count > 0)
			done += (uint32_t)count;
	}
	if (done == length)
		return 0;
	if (done == 0 && offset / AKVM__PAGE >= akvm__file_pages_now(file))
		return -EFAULT;
	memset((uint8_t *)buffer + done, 0, length - done);
	return 0;
}

/* Bytes of [offset, offset + length), inside one page, that the file holds now; -EFAULT when it holds none of the page. */
static int64_t held(const struct akvm_file *file, uint64_t offset, uint32_t length)
{
	struct stat status;
	uint64_t size;

	if (AKVM__HOST->fstat(file->fd, &status) != 0)
		return -EFAULT;
	size = (uint64_t)status.st_size;
	if (size <= (offset & ~(AKVM__PAGE - 1)))
		return -EFAULT;
	if (size <= offset)
		return 0;
	return size - offset < length ? (int64_t)(size - offset) : length;
}

int akvm__file_store(const struct akvm_file *file, uint64_t offset, const void *buffer, uint32_t length)
{
	int64_t left = held(file, offset, length);

	if (left < 0)
		return -EFAULT;
	for (uint32_t attempts = 0; left > 0;) {
		ssize_t count = AKVM__HOST->pwrite(file->fd, buffer, (size_t)left, (off_t)offset);

		if (count == 0 || (count < 0 && (errno != EINTR || ++attempts == COPY_ATTEMPTS)))
			return -EFAULT;
		if (count < 0)
			continue;
		buffer = (const uint8_t *)buffer + count;
		offset += (uint64_t)count;
		left -= count;
	}
	return 0;
}

int akvm__file_compare_exchange(const struct akvm_file *file, uint64_t offset, uint32_t *word, uint32_t desired)
{
	uint32_t *place;

	if (offset / AKVM__PAGE >= file->pages)
		return -EFAULT;
	place = (uint32_t *)(void *)(file->host + offset);
	if (AKVM__HOST->madvise(file->host + offset / AKVM__PAGE * AKVM__PAGE, AKVM__PAGE, MADV_POPULATE_WRITE) != 0)
		return -EFAULT;
	(void)__atomic_compare_exchange_n(place, word, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return 0;
}

uint32_t akvm__files_slots(struct akvm__files *files)
{
	uint32_t used;

	pthread_mutex_lock(&files->lock);
	used = files->slots_used - files->idle_count;
	pthread_mutex_unlock(&files->lock);
	return used;
}
