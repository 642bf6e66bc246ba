/*
 * Every place in native/src that calls the host: the errnos it is given by test_host_faults.c, and what must come of them.
 *
 * tests/meta/test_host_calls.py compares the first five columns with the source: file, function, call, what is asked for, how
 * often the function has it. Then: errnos; what shows while the machine opens, failing once and for ever; what shows later, once
 * and for ever; the errno that shows, if it is another; the operation that the caller is told, NULL for any name.
 */
#include "host_plan.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "t.h"

#define ERRNOS(...)         \
	{                   \
		__VA_ARGS__ \
	}
/* Reached only when another call has failed, or cannot fail on Linux: just seen to be called. */
#define NO_ERRNOS \
	{         \
		0 \
	}
#define SITE(file, function, call, request, ...) { #file, #function, #call, #request, __VA_ARGS__, PLATFORM },

/* clang-format off */
const struct plan_site plan_sites[] = {
#define PLATFORM PLAN_ANY
	SITE(machine/machine.c, akvm_machine_open, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate machine")
	SITE(machine/machine.c, akvm_machine_open, sched_getaffinity, , 1, ERRNOS(EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(machine/machine.c, create_contexts, calloc, , 2, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate contexts")
	SITE(machine/machine.c, create_vcpus, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate vCPUs")
#undef PLATFORM
#define PLATFORM PLAN_KVM
	SITE(kvm/driver.c, close_machine, close, , 2, ERRNOS(EINTR, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)

	SITE(kvm/device.c, akvm__device_open, open, , 1, ERRNOS(ENOENT, EACCES, EMFILE, ENODEV), MUST, MUST, NEVER, NEVER, 0, "open the KVM device")
	SITE(kvm/device.c, akvm__device_open, ioctl, KVM_GET_API_VERSION, 1, ERRNOS(ENOTTY, EIO), MUST, MUST, NEVER, NEVER, 0, "KVM_GET_API_VERSION")
	SITE(kvm/device.c, akvm__device_open, find_entry, , 1, ERRNOS(ENOENT, EACCES), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(kvm/device.c, akvm__device_open, ioctl, KVM_GET_VCPU_MMAP_SIZE, 1, ERRNOS(EINVAL, EIO), MUST, MUST, NEVER, NEVER, 0, "KVM_GET_VCPU_MMAP_SIZE")
	SITE(kvm/device.c, check, ioctl, KVM_CHECK_EXTENSION, 1, ERRNOS(EIO, EINVAL), MUST, MUST, NEVER, NEVER, 0, NULL)
	SITE(kvm/device.c, akvm__vm_create, ioctl, KVM_CREATE_VM, 1, ERRNOS(EINTR), NEVER, MUST, NEVER, NEVER, 0, "KVM_CREATE_VM")
	SITE(kvm/device.c, akvm__vm_create, ioctl, KVM_CREATE_VM, 1, ERRNOS(ENOMEM, EMFILE, EBUSY), MUST, MUST, NEVER, NEVER, 0, "KVM_CREATE_VM")
	SITE(kvm/device.c, akvm__vm_create, ioctl, KVM_SET_TSS_ADDR, 1, ERRNOS(EINVAL, EIO), MUST, MUST, NEVER, NEVER, 0, "KVM_SET_TSS_ADDR")
	/* A slot that cannot be removed stays, with its file, for whoever opens that file next. */
	SITE(kvm/device.c, akvm__vm_set_slot, ioctl, KVM_SET_USER_MEMORY_REGION, 1, ERRNOS(ENOMEM, EINVAL, EEXIST), MUST, MUST, MUST, MUST, 0, "KVM_SET_USER_MEMORY_REGION")

	SITE(kvm/cpuid.c, akvm__cpuid_create, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate CPUID table")
	SITE(kvm/cpuid.c, akvm__cpuid_create, ioctl, KVM_GET_SUPPORTED_CPUID, 1, ERRNOS(E2BIG, ENOMEM, EFAULT), MUST, MUST, NEVER, NEVER, 0, "KVM_GET_SUPPORTED_CPUID")

	SITE(kvm/kernel_image.c, akvm__kernel_image_create, mmap, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "mmap kernel image")
	SITE(kvm/kernel_image.c, akvm__kernel_image_create, madvise, MADV_DONTFORK, 1, ERRNOS(ENOMEM, EAGAIN), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(kvm/kernel_image.c, akvm__kernel_image_free, munmap, , 1, ERRNOS(ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)

#undef PLATFORM
#define PLATFORM PLAN_ANY
	SITE(machine/probe.c, wait_for_exit, sched_yield, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)

	SITE(mm/mm.c, akvm__mm_create, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate memory manager")
	SITE(mm/budget.c, akvm__budget_create, calloc, , 1, ERRNOS(ENOMEM), NEVER, NEVER, MUST, MUST, 0, "create budget")
	SITE(mm/budget.c, find_place, realloc, , 1, ERRNOS(ENOMEM), NEVER, NEVER, MUST, MUST, 0, "create budget")
	SITE(mm/files.c, akvm__files_create, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate slot numbers")
	SITE(mm/files.c, retire, fstat, , 1, ERRNOS(EBADF, EIO, EOVERFLOW), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(mm/files.c, describe, fstat, , 1, ERRNOS(EBADF, EIO, EOVERFLOW), NEVER, NEVER, MUST, MUST, 0, "fstat file")
	SITE(mm/files.c, describe, status_flags, , 1, ERRNOS(EBADF), NEVER, NEVER, MUST, MUST, 0, "fcntl file")
	SITE(mm/files.c, open_new, calloc, , 1, ERRNOS(ENOMEM), NEVER, NEVER, MUST, MUST, 0, "allocate file")
	SITE(mm/files.c, open_new, duplicate, , 1, ERRNOS(EMFILE), NEVER, NEVER, MUST, MUST, 0, "dup file")
	SITE(mm/files.c, back, mmap, , 1, ERRNOS(ENOMEM, ENODEV, EACCES), NEVER, NEVER, MUST, MUST, 0, "mmap file")
	SITE(mm/files.c, back, madvise, MADV_DONTFORK, 1, ERRNOS(ENOMEM, EAGAIN), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	/* A file that cannot be asked or read is to the guest what a file cut short is: SIGBUS. */
	SITE(mm/files.c, akvm__file_pages_now, fstat, , 1, ERRNOS(EIO), NEVER, NEVER, MUST, MUST, EFAULT, NULL)
	SITE(mm/files.c, akvm__file_copy, pread, , 1, ERRNOS(EINTR), NEVER, NEVER, NEVER, MUST, EFAULT, NULL)
	SITE(mm/files.c, akvm__file_copy, pread, , 1, ERRNOS(EIO, ENOMEM), NEVER, NEVER, MUST, MUST, EFAULT, NULL)
	SITE(mm/files.c, held, fstat, , 1, ERRNOS(EIO), NEVER, NEVER, MUST, MUST, EFAULT, NULL)
	SITE(mm/files.c, akvm__file_store, pwrite, , 1, ERRNOS(EINTR), NEVER, NEVER, NEVER, MUST, EFAULT, NULL)
	SITE(mm/files.c, akvm__file_store, pwrite, , 1, ERRNOS(EIO, ENOSPC), NEVER, NEVER, MUST, MUST, EFAULT, NULL)
	SITE(mm/files.c, akvm__file_compare_exchange, madvise, MADV_POPULATE_WRITE, 1, ERRNOS(EFAULT, ENOMEM, EINVAL), NEVER, NEVER, MUST, MUST, EFAULT, NULL)
	SITE(mm/files.c, release_host, munmap, , 1, ERRNOS(ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(mm/files.c, release_host, close, , 1, ERRNOS(EINTR, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)

	SITE(mm/frames.c, akvm__frames_create, calloc, , 3, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate frame counts")
	SITE(mm/frames.c, akvm__arena_map, mmap, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, NULL)
	SITE(mm/frames.c, akvm__arena_map, madvise, MADV_DONTFORK, 1, ERRNOS(ENOMEM, EAGAIN), MUST, MUST, NEVER, NEVER, 0, NULL)
	SITE(mm/frames.c, akvm__arena_map, madvise, MADV_HUGEPAGE, 1, ERRNOS(EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(mm/frames.c, akvm__arena_map, munmap, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(mm/frames.c, trim, munmap, , 1, ERRNOS(ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(mm/frames.c, akvm__frames_free, munmap, , 1, ERRNOS(ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	/* The block keeps its host memory and is reused all the same. */
	SITE(mm/frames.c, return_block, madvise, MADV_DONTNEED, 1, ERRNOS(ENOMEM, EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(mm/tables.c, akvm__tables_create, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate table records")
	SITE(mm/tables.c, akvm__tables_create, mmap, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "mmap table mirror")
	SITE(mm/tables.c, akvm__tables_free, munmap, , 2, ERRNOS(ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)

	SITE(mm/space.c, akvm__space_new, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, MUST, MUST, 0, NULL)
	SITE(mm/limbo.c, akvm__limbo_reserve, realloc, , 1, ERRNOS(ENOMEM), MUST, MUST, MUST, MUST, 0, NULL)
	SITE(mm/regions.c, akvm__regions_reserve, realloc, , 1, ERRNOS(ENOMEM), MUST, MUST, MUST, MUST, 0, NULL)
	/* Only a pause between looks at what others are about to free. */
	SITE(mm/reap.c, akvm__reap_wait, nanosleep, , 1, ERRNOS(EINTR), NEVER, NEVER, NEVER, MAY, ENOMEM, NULL)

	SITE(ring/ring.c, akvm__ring_create, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate ring")
	SITE(ring/doorbell.c, akvm__doorbell_create, eventfd, , 1, ERRNOS(EMFILE, ENFILE, ENOMEM), MUST, MUST, NEVER, NEVER, 0, "eventfd")
	/* The loop looks by itself now and then. */
	SITE(ring/doorbell.c, akvm__doorbell_ring, write, , 1, ERRNOS(EINTR, EAGAIN, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ring/doorbell.c, akvm__doorbell_free, close, , 1, ERRNOS(EINTR, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)

	SITE(vcpu/context.c, akvm_context_create, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, MUST, MUST, 0, "allocate context")
	SITE(vcpu/context.c, akvm_context_create, aligned_alloc, , 1, ERRNOS(ENOMEM), MUST, MUST, MUST, MUST, 0, "allocate XSAVE image")
	SITE(vcpu/context.c, akvm_answers_create, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, MUST, MUST, 0, "allocate answers")

	/* What the host refuses is the caller's to answer, as if it were no direct file. */
	SITE(vcpu/direct_files.c, akvm_direct_file_create, calloc, , 1, ERRNOS(ENOMEM), NEVER, NEVER, MUST, MUST, 0, "allocate direct file")
	SITE(vcpu/direct_files.c, akvm_direct_file_release, close, , 1, ERRNOS(EINTR, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(vcpu/direct_files.c, akvm_direct_files_create, calloc, , 1, ERRNOS(ENOMEM), NEVER, NEVER, MUST, MUST, 0, "allocate direct files")
	SITE(vcpu/direct_files.c, grow, realloc, , 1, ERRNOS(ENOMEM), NEVER, NEVER, MUST, MUST, 0, "allocate direct files")
	SITE(vcpu/direct_files.c, read_straight, preadv2, , 1, ERRNOS(EAGAIN, EOPNOTSUPP, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(vcpu/direct_files.c, read_bounced, preadv2, , 1, ERRNOS(EIO, EINTR), NEVER, NEVER, MUST, MUST, EAGAIN, NULL)
	SITE(vcpu/direct_files.c, read_bounced, lseek, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(vcpu/direct_files.c, with_position, lseek, , 1, ERRNOS(EINVAL, EOVERFLOW), NEVER, NEVER, MUST, MUST, EAGAIN, NULL)

#undef PLATFORM
#define PLATFORM PLAN_KVM
	SITE(kvm/fpstate.c, akvm__kvm_take_vector_state, ioctl, KVM_GET_XSAVE2, 1, ERRNOS(EIO, EFAULT), MAY, MAY, MUST, MUST, 0, NULL)
	SITE(kvm/fpstate.c, akvm__kvm_take_vector_state, ioctl, KVM_GET_XSAVE, 1, ERRNOS(EIO, EFAULT), MAY, MAY, MUST, MUST, 0, NULL)
	SITE(kvm/fpstate.c, akvm__kvm_load_fp, ioctl, KVM_SET_XSAVE, 1, ERRNOS(EINVAL, ENOMEM, EINTR), MUST, MUST, MUST, MUST, 0, NULL)

#undef PLATFORM
#define PLATFORM PLAN_ANY
	SITE(vcpu/kick.c, akvm__kick_setup, sigaction, , 1, ERRNOS(EINVAL), MUST, MUST, NEVER, NEVER, 0, "sigaction")
	SITE(vcpu/kick.c, install, sigaction, , 1, ERRNOS(EINVAL), MUST, MUST, NEVER, NEVER, 0, "sigaction")
#undef PLATFORM
#define PLATFORM PLAN_KVM
	/* Kicked again by whoever waits. While none gets through, a guest that computes stays where it is. */
	SITE(kvm/driver.c, kick, thread_kill, , 1, ERRNOS(EPERM, EAGAIN), NEVER, NEVER, MAY, MAY, 0, NULL)

#undef PLATFORM
#define PLATFORM PLAN_ANY
	SITE(vcpu/thread.c, akvm__vcpu_start, thread_create, , 1, ERRNOS(EAGAIN, ENOMEM, EPERM), MUST, MUST, NEVER, NEVER, 0, "start vCPU thread")
	SITE(vcpu/thread.c, thread_main, thread_name, , 1, ERRNOS(EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(vcpu/thread.c, thread_main, thread_id, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(vcpu/thread.c, akvm__vcpu_join, thread_join, , 1, ERRNOS(ETIMEDOUT, EINVAL), NEVER, NEVER, NEVER, MAY, ETIMEDOUT, "close with a vCPU thread that does not come back")

	/* The contexts it was to run are untouched; the vCPU is reset again before the next. */
	SITE(vcpu/vcpu.c, akvm__vcpu_create, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate vCPU")
	SITE(vcpu/vcpu.c, akvm__vcpu_create, aligned_alloc, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate bounce buffer")
#undef PLATFORM
#define PLATFORM PLAN_KVM
	SITE(kvm/vcpu.c, akvm__kvm_vcpu_open, ioctl, KVM_CREATE_VCPU, 1, ERRNOS(ENOMEM, EMFILE, EINVAL), MUST, MUST, NEVER, NEVER, 0, "KVM_CREATE_VCPU")
	SITE(kvm/vcpu.c, akvm__kvm_vcpu_open, mmap, , 1, ERRNOS(ENOMEM, EAGAIN), MUST, MUST, NEVER, NEVER, 0, "mmap kvm_run")
	SITE(kvm/vcpu.c, akvm__kvm_vcpu_open, madvise, MADV_DONTFORK, 1, ERRNOS(EINVAL, ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_vcpu_open, ioctl, KVM_SET_CPUID2, 1, ERRNOS(EINVAL, E2BIG), MUST, MUST, NEVER, NEVER, 0, "KVM_SET_CPUID2")
	SITE(kvm/vcpu.c, akvm__kvm_reset, ioctl, KVM_GET_SREGS, 1, ERRNOS(EINTR), MUST, MUST, NEVER, MUST, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_reset, ioctl, KVM_GET_SREGS, 1, ERRNOS(EIO, ENOMEM), MUST, MUST, MAY, MUST, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_reset, ioctl, KVM_SET_SREGS, 1, ERRNOS(EINVAL, EIO), MUST, MUST, MAY, MUST, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_reset, ioctl, KVM_SET_REGS, 1, ERRNOS(EINVAL, EIO), MUST, MUST, MAY, MUST, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_reset, ioctl, KVM_SET_VCPU_EVENTS, 1, ERRNOS(EINVAL, EIO), MUST, MUST, MAY, MUST, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_reset, ioctl, KVM_SET_MP_STATE, 1, ERRNOS(EINVAL, ENXIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_reset, ioctl, KVM_SET_XCRS, 1, ERRNOS(EINVAL, EIO), MUST, MUST, MAY, MUST, 0, NULL)
	SITE(kvm/vcpu.c, set_msrs, ioctl, KVM_SET_MSRS, 1, ERRNOS(EFAULT, ENOMEM), MUST, MUST, MAY, MUST, 0, NULL)
	SITE(kvm/vcpu.c, set_tsc, ioctl, KVM_SET_DEVICE_ATTR, 1, ERRNOS(ENXIO, EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(kvm/vcpu.c, set_tsc, ioctl, KVM_SET_MSRS, 1, ERRNOS(EFAULT, ENOMEM), MUST, MUST, NEVER, NEVER, 0, "KVM_SET_MSRS TSC")
	SITE(kvm/vcpu.c, finish_input, ioctl, KVM_RUN, 1, ERRNOS(EIO, EFAULT), NEVER, NEVER, MUST, MUST, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_vcpu_close, munmap, , 1, ERRNOS(ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(kvm/vcpu.c, akvm__kvm_vcpu_close, close, , 1, ERRNOS(EINTR, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)

	/* Clearing the tables of a dead space is tried again. */
	SITE(kvm/run.c, akvm__kvm_run_once, ioctl, KVM_RUN, 1, ERRNOS(EINTR, EAGAIN), NEVER, MUST, NEVER, MUST, 0, NULL)
	SITE(kvm/run.c, akvm__kvm_run_once, ioctl, KVM_RUN, 1, ERRNOS(EFAULT, ENOMEM, ENOSPC, EINVAL, EIO), MUST, MUST, MAY, MUST, 0, NULL)
	/* What is not known is forgotten: the vCPU is reset, and the guest's instruction raises its event again. */
	SITE(kvm/run.c, read_events, ioctl, KVM_GET_VCPU_EVENTS, 1, ERRNOS(EIO, ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(kvm/run.c, clear_events, ioctl, KVM_SET_VCPU_EVENTS, 1, ERRNOS(EIO, EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
#undef PLATFORM
#define PLATFORM PLAN_ANY
	SITE(vcpu/space_entry.c, wait_for_others, sched_yield, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
/* Of the other platform. While a machine opens it runs a guest: what then fails in a stub is its opening's failure. */
#undef PLATFORM
#define PLATFORM PLAN_PTRACE
	SITE(mm/frames.c, share, memfd, , 1, ERRNOS(EMFILE, ENOMEM), MUST, MUST, NEVER, NEVER, 0, "memfd frames")
	SITE(mm/frames.c, share, mmap, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "mmap frames")
	SITE(mm/frames.c, share, madvise, MADV_DONTFORK, 1, ERRNOS(ENOMEM, EAGAIN), MUST, MUST, NEVER, NEVER, 0, "mmap frames")
	SITE(mm/frames.c, akvm__frames_free, close, , 1, ERRNOS(EINTR, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(mm/frames.c, return_block, madvise, MADV_REMOVE, 1, ERRNOS(ENOMEM, EOPNOTSUPP), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, open_stubs, calloc, , 2, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "allocate stubs")
	SITE(ptrace/driver.c, open_stubs, sched_getaffinity, , 1, ERRNOS(EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, open_stubs, memfd, , 2, ERRNOS(EMFILE, ENOMEM), MUST, MUST, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, open_stubs, mmap, , 1, ERRNOS(ENOMEM), MUST, MUST, NEVER, NEVER, 0, "mmap stubs")
	SITE(ptrace/driver.c, open_stubs, madvise, MADV_DONTFORK, 1, ERRNOS(ENOMEM, EAGAIN), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, loop_rests, sigaction, , 2, ERRNOS(EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, close_stubs, munmap, , 1, ERRNOS(ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, close_stubs, close, , 2, ERRNOS(EINTR, EIO), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, kick_task, process_kill, , 1, ERRNOS(EPERM, EAGAIN), NEVER, NEVER, MAY, MAY, 0, NULL)
	SITE(ptrace/driver.c, kick_task, thread_kill, , 1, ERRNOS(EPERM, EAGAIN), NEVER, NEVER, MAY, MAY, 0, NULL)
	/* Without it everything works, as long as nobody waits for any child. */
	SITE(ptrace/driver.c, tick, timer_create, , 1, ERRNOS(EAGAIN, ENOMEM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, tick, timer_set, , 1, ERRNOS(EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/driver.c, vcpu_close, timer_delete, , 1, ERRNOS(EINVAL), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/place.c, place, sched_setaffinity, , 1, ERRNOS(EINVAL, EPERM), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	/* Asked only when a mapper takes long. */
	SITE(ptrace/mapper.c, akvm__process_is_gone, peek_exit, , 1, ERRNOS(ECHILD), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/mapper.c, akvm__mapper_run, futex, FUTEX_WAKE, 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/mapper.c, akvm__mapper_run, futex, FUTEX_WAIT, 1, ERRNOS(EINTR, EAGAIN, ETIMEDOUT), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	/* Where a clone's pid is told: without it the process stays unknown, and is nobody's until the program ends. */
	SITE(ptrace/mapper.c, akvm__mapper_value, lseek, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/mapper.c, akvm__mapper_page, process_id, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	/* Children of ours that are there, and SIGKILL: refused by no rule of kill(2) or wait(2). */
	SITE(ptrace/mapper.c, akvm__process_kill, process_kill, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/mapper.c, akvm__processes_reap, wait, , 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	/* Tried again when other stubs have made room. */
	SITE(ptrace/mapper.c, akvm__processes_reap, nanosleep, , 1, ERRNOS(EINTR), NEVER, NEVER, NEVER, NEVER, 0, NULL)
	SITE(ptrace/mapper.c, akvm__zygote_start, fork_stub, , 1, ERRNOS(EAGAIN), NEVER, MUST, MAY, MUST, 0, NULL)
	SITE(ptrace/mapper.c, akvm__zygote_start, fork_stub, , 1, ERRNOS(ENOMEM), MUST, MUST, MUST, MUST, 0, NULL)
	SITE(ptrace/stub.c, create_stub, calloc, , 1, ERRNOS(ENOMEM), MUST, MUST, MUST, MUST, 0, NULL)
	SITE(ptrace/stub.c, akvm__stub_task, futex, FUTEX_WAKE, 1, NO_ERRNOS, NEVER, NEVER, NEVER, NEVER, 0, NULL)
	/* The stub is thrown away, and the context that was in it told so, unless only an explanation was wanted. */
	SITE(ptrace/task.c, trace, ptrace, , 1, ERRNOS(EIO, EPERM), MUST, MUST, MUST, MUST, 0, NULL)
	/* One that somebody killed is made anew, where nothing has run in it. */
	SITE(ptrace/task.c, trace, ptrace, , 1, ERRNOS(ESRCH), MAY, MUST, MAY, MUST, 0, NULL)
	SITE(ptrace/task.c, akvm__task_wait, wait, , 1, ERRNOS(ECHILD), MAY, MUST, MAY, MUST, ESRCH, NULL)
#undef PLATFORM
	{ 0 },
};
/* clang-format on */

static const struct {
	unsigned long request;
	const char *name;
} requests[] = {
#define REQUEST(name)       \
	{                   \
		name, #name \
	}
	REQUEST(KVM_GET_API_VERSION),
	REQUEST(KVM_CHECK_EXTENSION),
	REQUEST(KVM_GET_VCPU_MMAP_SIZE),
	REQUEST(KVM_CREATE_VM),
	REQUEST(KVM_GET_SUPPORTED_CPUID),
	REQUEST(KVM_SET_TSS_ADDR),
	REQUEST(KVM_SET_USER_MEMORY_REGION),
	REQUEST(KVM_CREATE_VCPU),
	REQUEST(KVM_RUN),
	REQUEST(KVM_SET_CPUID2),
	REQUEST(KVM_GET_SREGS),
	REQUEST(KVM_SET_SREGS),
	REQUEST(KVM_SET_REGS),
	REQUEST(KVM_GET_VCPU_EVENTS),
	REQUEST(KVM_SET_VCPU_EVENTS),
	REQUEST(KVM_SET_MP_STATE),
	REQUEST(KVM_SET_XCRS),
	REQUEST(KVM_SET_MSRS),
	REQUEST(KVM_SET_DEVICE_ATTR),
	REQUEST(KVM_GET_XSAVE),
	REQUEST(KVM_GET_XSAVE2),
	REQUEST(KVM_SET_XSAVE),
	REQUEST(MADV_DONTFORK),
	REQUEST(MADV_HUGEPAGE),
	REQUEST(MADV_DONTNEED),
	REQUEST(MADV_POPULATE_WRITE),
	REQUEST(MADV_REMOVE),
	{ PLAN_FUTEX + FUTEX_WAIT, "FUTEX_WAIT" },
	{ PLAN_FUTEX + FUTEX_WAKE, "FUTEX_WAKE" },
#undef REQUEST
};

static const char *request_name(unsigned long request)
{
	for (size_t i = 0; request && i < sizeof(requests) / sizeof(requests[0]); i++)
		if (requests[i].request == request)
			return requests[i].name;
	return "";
}

bool plan_same(const struct plan_site *left, const struct plan_site *right)
{
	return !strcmp(left->function, right->function) && !strcmp(left->call, right->call) &&
	       !strcmp(left->request, right->request);
}

const struct plan_site *plan_find(const char *function, const char *call, unsigned long request)
{
	const struct plan_site wanted = { .function = function, .call = call, .request = request_name(request) };

	for (const struct plan_site *site = plan_sites; site->file; site++)
		if (plan_same(site, &wanted))
			return site;
	fprintf(stderr, "%s calls %s %s, which host_plan.c does not know\n", function, call, wanted.request);
	t_fail(__FILE__, __LINE__, "every call is planned");
}

const struct plan_site *plan_row(const struct plan_site *site, int error)
{
	for (const struct plan_site *row = plan_sites; row->file; row++)
		for (unsigned i = 0; i < PLAN_ERRORS; i++)
			if (plan_same(row, site) && row->errors[i] == error)
				return row;
	t_fail(__FILE__, __LINE__, "a row for the errno");
}
