/*
 * A step of host_steps.c: calls on direct files. What the host refuses reaches the caller instead.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host_faults.h"
#include "host_guest.h"
#include "host_work.h"
#include "t.h"

enum { DESCRIPTOR = 5 };

/* One call on DESCRIPTOR, with system call 0 as `call`; whether the vCPU's thread answered it. */
static bool direct_call(struct work *work, struct work_guest *guest, struct akvm_direct_file *file, unsigned call,
			uint64_t address, uint64_t count)
{
	uint64_t numbers[AKVM_DIRECT_CALLS] = { UINT64_MAX, UINT64_MAX, UINT64_MAX };
	struct akvm_context *context = guest->context;
	struct akvm_direct_files *files;
	bool answered = false;

	numbers[call] = 0;
	if (work_refused(akvm_direct_files_create(numbers, &files), 0))
		return false;
	T_EQUAL(akvm_context_direct_files(context, files), 0);
	if (!work_refused(akvm_direct_files_set(files, DESCRIPTOR, file), 0)) {
		context->registers.rbx = 1;
		context->registers.rdx = count;
		context->registers.r10 = 0;
		work_submit(context, 0, GUEST_SYSCALLS, DESCRIPTOR, address);
		work_wait(work, context, false);
		answered = context->kind == AKVM_EXIT_FAULT && context->vector == GUEST_BREAKPOINT;
		if (context->kind == AKVM_EXIT_ERROR)
			faults_show(context->host_errno, NULL);
		else if (!answered && context->kind == AKVM_EXIT_SYSCALL)
			faults_show(EAGAIN, NULL);
		else
			T_CHECK(answered || work->rescued);
	}
	T_EQUAL(akvm_context_direct_files(context, NULL), 0);
	akvm_direct_files_release(files);
	return answered;
}

void work_direct(struct work *work)
{
	int fd = memfd_create("direct", MFD_CLOEXEC);
	const uint64_t end = GUEST_DATA + GUEST_DATA_PAGES * GUEST_PAGE, value = 77;
	struct akvm_direct_file *file;
	struct work_guest guest;

	T_EQUAL(pwrite(fd, &value, sizeof(value), 0), sizeof(value));
	if (!work_guest_open(work, &guest)) {
		T_EQUAL(close(fd), 0);
		return;
	}
	if (work_refused(akvm_direct_file_create(fd, &file), 0)) {
		T_EQUAL(close(fd), 0);
	} else {
		faults_give(fd);
		if (direct_call(work, &guest, file, AKVM_DIRECT_READ, GUEST_DATA, 4096))
			work_peek(guest.space, GUEST_DATA, 77);
		if (direct_call(work, &guest, file, AKVM_DIRECT_PREAD, GUEST_DATA + 8, 8))
			work_peek(guest.space, GUEST_DATA + 8, 77);
		direct_call(work, &guest, file, AKVM_DIRECT_SEEK, 0, SEEK_SET);
		/* Part of it fits, and the rest is left in the file. */
		T_EQUAL(lseek(fd, 0, SEEK_SET), 0);
		if (direct_call(work, &guest, file, AKVM_DIRECT_READ, end - 4, 8))
			T_EQUAL(lseek(fd, 0, SEEK_CUR), 4);
		akvm_direct_file_release(file);
	}
	work_guest_close(work, &guest);
}
