/*
 * Direct files: a guest's reads of regular files of the host, answered on the thread of its vCPU. Most of what programs read is in
 * the host's page cache, and copying it takes far less time than waking the loop to have it copied.
 *
 * A file's position is that of the host's own open file, moved by the host's own read(2) and lseek(2): so everybody who has the
 * file open, in whatever process, agrees on it. The host makes each of its calls atomic; the file's lock does that for a guest's
 * call that takes several. Source: read(2), pread(2), lseek(2), and mm/filemap.c for what a bad address leaves done.
 *
 * A reference, not the lock, is what keeps a host descriptor open: its number cannot become another file's under a reader.
 */
#include "vcpu/direct_files.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "host/host.h"
#include "mm/mm.h"
#include "vcpu/vcpu.h"

enum { FIRST_PLACES = 16, PARTS = 64 };

struct akvm_direct_file {
	int fd;
	_Atomic uint32_t references;
	_Atomic bool waits; /* its file system cannot say beforehand whether a read has to */
	/* Who moves the position, and is not done with that in one call of the host. A vCPU only tries to take it, and not when
	 * somebody waits for it: a guest that reads and reads has it back before who waits has woken up. */
	pthread_mutex_t lock;
	_Atomic uint32_t waiting;
};

struct akvm_direct_files {
	uint64_t numbers[AKVM_DIRECT_CALLS];
	_Atomic uint32_t references;
	/* Guards what is below. */
	pthread_mutex_t lock;
	uint32_t places;
	struct akvm_direct_file **files;
};

/* ---------------------------------------------------------------- files */

int akvm_direct_file_create(int fd, struct akvm_direct_file **created)
{
	struct akvm_direct_file *file = AKVM__HOST->calloc(1, sizeof(*file));

	if (!file)
		return akvm__fail("allocate direct file", ENOMEM);
	file->fd = fd;
	atomic_init(&file->references, 1);
	pthread_mutex_init(&file->lock, NULL);
	*created = file;
	return 0;
}

void akvm_direct_file_release(struct akvm_direct_file *file)
{
	if (atomic_fetch_sub(&file->references, 1) != 1)
		return;
	AKVM__HOST->close(file->fd);
	pthread_mutex_destroy(&file->lock);
	free(file);
}

void akvm_direct_file_lock(struct akvm_direct_file *file)
{
	atomic_fetch_add(&file->waiting, 1);
	pthread_mutex_lock(&file->lock);
	atomic_fetch_sub(&file->waiting, 1);
}

void akvm_direct_file_unlock(struct akvm_direct_file *file)
{
	pthread_mutex_unlock(&file->lock);
}

/* ---------------------------------------------------------------- tables */

int akvm_direct_files_create(const uint64_t *numbers, struct akvm_direct_files **created)
{
	struct akvm_direct_files *files = AKVM__HOST->calloc(1, sizeof(*files));

	if (!files)
		return akvm__fail("allocate direct files", ENOMEM);
	for (unsigned call = 0; call < AKVM_DIRECT_CALLS; call++)
		files->numbers[call] = numbers[call];
	atomic_init(&files->references, 1);
	pthread_mutex_init(&files->lock, NULL);
	*created = files;
	return 0;
}

void akvm_direct_files_release(struct akvm_direct_files *files)
{
	if (atomic_fetch_sub(&files->references, 1) != 1)
		return;
	for (uint32_t place = 0; place < files->places; place++)
		if (files->files[place])
			akvm_direct_file_release(files->files[place]);
	pthread_mutex_destroy(&files->lock);
	free(files->files);
	free(files);
}

/* Precondition: lock held. */
static int grow(struct akvm_direct_files *files, uint32_t descriptor)
{
	uint32_t places = files->places ? files->places : FIRST_PLACES;
	struct akvm_direct_file **larger;

	while (places <= descriptor)
		places *= 2;
	larger = AKVM__HOST->realloc(files->files, places * sizeof(*larger));
	if (!larger)
		return -ENOMEM;
	for (uint32_t place = files->places; place < places; place++)
		larger[place] = NULL;
	files->files = larger;
	files->places = places;
	return 0;
}

int akvm_direct_files_set(struct akvm_direct_files *files, uint32_t descriptor, struct akvm_direct_file *file)
{
	struct akvm_direct_file *old = NULL;
	int error = 0;

	if (descriptor >= AKVM_DIRECT_FILES_MAX)
		return akvm__fail("descriptor of a direct file", EINVAL);
	pthread_mutex_lock(&files->lock);
	if (file && descriptor >= files->places)
		error = grow(files, descriptor);
	if (!error && descriptor < files->places) {
		if (file)
			atomic_fetch_add(&file->references, 1);
		old = files->files[descriptor];
		files->files[descriptor] = file;
	}
	pthread_mutex_unlock(&files->lock);
	if (old)
		akvm_direct_file_release(old);
	return error ? akvm__fail("allocate direct files", -error) : 0;
}

int akvm_context_direct_files(struct akvm_context *public, struct akvm_direct_files *files)
{
	struct akvm__context *context = akvm__context(public);
	struct akvm_direct_files *old = context->direct_files;

	if (public->submitted)
		return akvm__fail("change direct files of a running context", EBUSY);
	if (files)
		atomic_fetch_add(&files->references, 1);
	context->direct_files = files;
	if (old)
		akvm_direct_files_release(old);
	return 0;
}

/* With a reference to it, or NULL. */
static struct akvm_direct_file *find(struct akvm_direct_files *files, uint32_t descriptor)
{
	struct akvm_direct_file *file = NULL;

	pthread_mutex_lock(&files->lock);
	if (descriptor < files->places)
		file = files->files[descriptor];
	if (file)
		atomic_fetch_add(&file->references, 1);
	pthread_mutex_unlock(&files->lock);
	return file;
}

/* ---------------------------------------------------------------- calls */

/* As an offset: from the position on, which moves. So preadv2(2) has it. */
enum { POSITION = -1 };

/* What a guest asks for. */
struct reading {
	struct akvm_direct_file *file;
	struct akvm_space *space;
	uint64_t address, count;
	int64_t offset;
};

static int64_t offset_after(const struct reading *reading, uint64_t done)
{
	return reading->offset == POSITION ? POSITION : reading->offset + (int64_t)done;
}

/*
 * After the first `done` bytes some more, or -errno and nothing was done. The host's kernel stores them where the guest has them,
 * as far as the guest's pages are there to be stored to: meanwhile they must stay, so this is for what is in the page cache.
 */
static int64_t read_straight(const struct reading *reading, uint64_t done)
{
	struct iovec parts[PARTS];
	int64_t got = -EAGAIN;
	uint32_t count;

	if (atomic_load_explicit(&reading->file->waits, memory_order_relaxed))
		return got;
	akvm__space_lock(reading->space);
	count = akvm__space_own_parts(reading->space, reading->address + done, reading->count - done, parts, PARTS);
	if (count > 0) {
		got = AKVM__HOST->preadv2(reading->file->fd, parts, (int)count, offset_after(reading, done), RWF_NOWAIT);
		got = got < 0 ? -errno : got;
	}
	akvm__space_unlock(reading->space);
	if (got == -EOPNOTSUPP)
		atomic_store_explicit(&reading->file->waits, true, memory_order_relaxed);
	return got;
}

/* The same by way of a buffer, for any page, and for what the disk has. `*ended`: there will be no more. */
static int64_t read_bounced(struct akvm__vcpu *vcpu, const struct reading *reading, uint64_t done, bool *ended)
{
	uint64_t left = reading->count - done;
	size_t piece = left < AKVM_BOUNCE_BYTES ? left : AKVM_BOUNCE_BYTES;
	struct iovec part = { .iov_base = vcpu->bounce, .iov_len = piece };
	int64_t got, stored;

	got = AKVM__HOST->preadv2(reading->file->fd, &part, 1, offset_after(reading, done), 0);
	if (got <= 0)
		return got < 0 ? -errno : 0;
	stored = akvm_space_write(reading->space, reading->address + done, vcpu->bounce, (uint64_t)got, false);
	if (stored < got && reading->offset == POSITION)
		AKVM__HOST->lseek(reading->file->fd, (stored > 0 ? stored : 0) - got, SEEK_CUR);
	*ended = stored < (int64_t)piece;
	return stored;
}

/*
 * Bytes read, 0 at the file's end; or -errno, and nothing was done: also when there is an address that the host cannot store to,
 * or no memory, for which the caller knows better what to do. Short only as read(2) is short for a regular file.
 */
static int64_t read_all(struct akvm__vcpu *vcpu, const struct reading *reading)
{
	bool ended = false;
	uint64_t done = 0;

	while (done < reading->count && !ended) {
		int64_t got = read_straight(reading, done);

		if (got < 0)
			got = read_bounced(vcpu, reading, done, &ended);
		if (got < 0 && done == 0)
			return got;
		if (got <= 0)
			break;
		done += (uint64_t)got;
	}
	return (int64_t)done;
}

/* What the host's position says is the guest's answer: whoever has the lock may be about to put it right. */
static int64_t with_position(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm_direct_file *file,
			     enum akvm_direct_call call)
{
	const struct akvm_registers *registers = &context->pub.registers;
	int64_t result;

	if (atomic_load(&file->waiting) || pthread_mutex_trylock(&file->lock))
		return -EAGAIN;
	if (call == AKVM_DIRECT_SEEK) {
		result = AKVM__HOST->lseek(file->fd, (off_t)registers->rsi, (int)registers->rdx);
		result = result < 0 ? -errno : result;
	} else {
		struct reading reading = { file, context->space, registers->rsi, registers->rdx, POSITION };

		result = read_all(vcpu, &reading);
	}
	pthread_mutex_unlock(&file->lock);
	return result;
}

static int64_t at_offset(struct akvm__vcpu *vcpu, struct akvm__context *context, struct akvm_direct_file *file)
{
	const struct akvm_registers *registers = &context->pub.registers;
	struct reading reading = { file, context->space, registers->rsi, registers->rdx, (int64_t)registers->r10 };

	if (reading.offset < 0 || reading.offset > INT64_MAX - AKVM_DIRECT_BYTES_MAX)
		return -EINVAL;
	return read_all(vcpu, &reading);
}

static bool simple(enum akvm_direct_call call, const struct akvm_registers *registers)
{
	uint32_t whence = (uint32_t)registers->rdx;

	if (call == AKVM_DIRECT_SEEK)
		return whence == SEEK_SET || whence == SEEK_CUR || whence == SEEK_END;
	return registers->rdx <= AKVM_DIRECT_BYTES_MAX;
}

bool akvm__direct_call(struct akvm__vcpu *vcpu, struct akvm__context *context)
{
	struct akvm_registers *registers = &context->pub.registers;
	struct akvm_direct_files *files = context->direct_files;
	enum akvm_direct_call call = AKVM_DIRECT_READ;
	struct akvm_direct_file *file;
	uint64_t *count;
	int64_t result;

	if (!files)
		return false;
	while (call < AKVM_DIRECT_CALLS && files->numbers[call] != registers->rax)
		call++;
	if (call == AKVM_DIRECT_CALLS || !simple(call, registers))
		return false;
	file = find(files, (uint32_t)registers->rdi);
	if (!file)
		return false;
	if (call == AKVM_DIRECT_PREAD)
		result = at_offset(vcpu, context, file);
	else
		result = with_position(vcpu, context, file, call);
	akvm_direct_file_release(file);
	if (result < 0)
		return false;
	registers->rax = (uint64_t)result;
	count = &context->pub.direct_calls[call];
	/* The loop may look at it meanwhile. */
	__atomic_store_n(count, *count + 1, __ATOMIC_RELAXED);
	return true;
}
