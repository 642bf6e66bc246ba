/*
 * The whole C API of asynckvm's core: machines, address spaces and contexts that run x86-64 code in KVM guest ring 3.
 *
 * The core knows nothing of Python and nothing of Linux system call numbers. One header: C callers include it, and the
 * Python binding is generated from it (preprocessed with AKVM_CDEF defined, so it stays within what cffi parses).
 *
 * Conventions
 *   Returns:  0 or a positive result; a failure is -errno, and akvm_last_error() names the operation that failed.
 *   Thread:   "loop" is the one thread that drives a machine (the event loop's); "vcpu" the thread that owns a vCPU;
 *             "any" is safe from every thread. A machine has one loop thread at a time.
 *   Units:    addresses and lengths in bytes, times in nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef AKVM_AKVM_H
#define AKVM_AKVM_H

#ifndef AKVM_CDEF
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#define AKVM_API __attribute__((visibility("default")))
#else
#define AKVM_API
#endif

/* ---------------------------------------------------------------- machine */

struct akvm_machine;
struct akvm_space;
struct akvm_file;
struct akvm_budget;
struct akvm_answers;
struct akvm_direct_file;
struct akvm_direct_files;

/* What runs ring 3. PTRACE: a stub process for each address space, which the vCPU threads trace: for hosts without a usable KVM, and
 * the weaker wall, because the host's own kernel is what guests run on. */
enum akvm_platform { AKVM_PLATFORM_KVM, AKVM_PLATFORM_PTRACE };

/* How the machine learns what this platform really does: what can be was found by running a guest (see src/machine/probe.c). What
 * only KVM has is 0 elsewhere. */
struct akvm_capabilities {
	uint32_t platform;         /* enum akvm_platform */
	uint32_t syscall_as_fault; /* 1: SYSCALL arrives as #PF at LSTAR with user CS; 0: in ring 0 at LSTAR */
	uint32_t int80_as_ud;      /* 1: INT 0x80 arrives as #UD at the instruction; 0: through its gate */
	uint32_t host_edits_seen;  /* 1: a host store to a present PTE is seen after a CR3 load; 0: only ring-0 stores are */
	uint32_t cpuid_faulting;   /* 1: ring-3 CPUID raises #GP once MISC_FEATURES_ENABLES bit 0 is set */
	uint32_t pcid;             /* 1: CR4.PCIDE accepted and in use */
	uint32_t smep, smap, umip, fsgsbase;
	uint32_t tsc_offset_exact; /* 1: guest TSC == host TSC (offset attribute set to 0) */
	uint32_t xsave_bytes;      /* size of the XSAVE image moved by KVM */
	uint32_t physical_bits;
	uint64_t xcr0;          /* XCR0 of every vCPU */
	uint64_t round_trip_ns; /* median ring 3 -> stub -> host thread -> ring 3 */
	uint64_t kernel_base;   /* lowest address of the kernel half */
	uint32_t vcpus_max, slots_max;
	char kvm_module[32]; /* as far as the host tells: kvm_intel, kvm_amd, kvm_pvm or "" */
};

enum {
	AKVM_MACHINE_NO_PCID = 1,     /* do not use PCID even when offered (for tests) */
	AKVM_MACHINE_GUEST_EDITS = 2, /* change present PTEs by ring-0 stores even where host stores would do (for tests) */
};

struct akvm_machine_config {
	uint64_t memory_bytes;       /* guest frames; multiple of 2 MiB */
	uint32_t vcpus;              /* 1..vcpus_max; one thread each, for life */
	uint32_t contexts_max;       /* bound of live contexts; sizes the completion rings */
	uint32_t flags;              /* AKVM_MACHINE_* */
	uint32_t vcpu_spin_ns;       /* how long an idle vCPU thread polls for work before it sleeps, at most */
	int32_t kick_signal;         /* real-time signal number, 0 for the default (SIGRTMAX-2) */
	uint32_t fault_around_pages; /* 4 KiB pages mapped around a fault, power of two, 1..64 */
	uint32_t platform;           /* enum akvm_platform */
	const char *device;          /* NULL for /dev/kvm */
};

/* Open the platform, create the vCPUs and their threads, and run the probe. Blocks for milliseconds. Thread: any. */
AKVM_API int akvm_machine_open(const struct akvm_machine_config *config, struct akvm_machine **machine);
/* Kick every vCPU, join every thread, release everything. Contexts and spaces of the machine die with it.
 * Returns -ETIMEDOUT, with the machine leaked rather than freed under a running thread, when a thread does not come back.
 * Thread: loop. */
AKVM_API int akvm_machine_close(struct akvm_machine *machine, uint64_t timeout_ns);
AKVM_API const struct akvm_capabilities *akvm_machine_capabilities(const struct akvm_machine *machine);
/* Stop running contexts: everything queued or running completes as AKVM_EXIT_INTERRUPTED with AKVM_INTERRUPT_CLOSE, and so
 * does all that is submitted later. Thread: loop. */
AKVM_API void akvm_machine_stop(struct akvm_machine *machine);

/* The eventfd that becomes readable when completions arrive while the doorbell is armed. A vCPU that goes on to a context whose
 * last run was brief may leave up to 15 completions for later: who sleeps with several contexts submitted looks by itself now and
 * then, every few milliseconds. */
AKVM_API int akvm_machine_doorbell(const struct akvm_machine *machine);
/* Take up to `max` completed contexts, oldest first per vCPU; writes their indices, and disarms the doorbell. Never blocks.
 * Thread: loop. */
AKVM_API uint32_t akvm_machine_drain(struct akvm_machine *machine, uint32_t *indices, uint32_t max);
/* Arm the doorbell before sleeping. Returns 1, unarmed, when completions are already there. Thread: loop. */
AKVM_API int akvm_machine_arm(struct akvm_machine *machine);
/* Poll for completions for at most spin_ns, less when a vCPU shares the calling thread's core. Returns 1 when there are some.
 * Thread: loop. */
AKVM_API int akvm_machine_poll(struct akvm_machine *machine, uint64_t spin_ns);
/* Wake a sleeping vCPU for every context that waits behind another: a vCPU which was expected to be free soon may not be. For
 * every few milliseconds while several are submitted. Thread: loop. */
AKVM_API void akvm_machine_rouse(struct akvm_machine *machine);

/* What a vCPU is doing now; a racy snapshot. Thread: any. */
struct akvm_vcpu_status {
	uint64_t started_ns; /* when the current run began; 0 when idle */
	uint64_t busy_ns;    /* total time with a context */
	uint64_t runs, exits, native_exits, kicks, stale_kicks, steals, fp_switches, operations, shootdowns, sleeps;
	uint64_t space_switches; /* loads of CR3 */
	uint64_t space_flushes;  /* those of them that kept no translation: all without PCIDs */
	uint32_t state;          /* enum akvm_vcpu_state */
	uint32_t context;        /* index of the current context, UINT32_MAX when idle */
	uint32_t generation;     /* its run generation */
	uint32_t queued;         /* contexts waiting in the mailbox */
};
enum akvm_vcpu_state { AKVM_VCPU_IDLE, AKVM_VCPU_ENTERING, AKVM_VCPU_GUEST, AKVM_VCPU_EXITING, AKVM_VCPU_DEAD };
AKVM_API int akvm_vcpu_status(const struct akvm_machine *machine, uint32_t vcpu, struct akvm_vcpu_status *status);

/* Flight recorder: the last exits of a vCPU, oldest first. Returns how many records were written. Thread: any (racy). */
enum { AKVM_FLIGHT_RECORDS = 64 };
struct akvm_flight_record {
	uint64_t when_ns, rip, address;
	uint32_t context, generation, kvm_exit_reason, kind, vector, error_code;
	int32_t host_errno;
	uint32_t interrupts;
};
AKVM_API int akvm_vcpu_flight(const struct akvm_machine *machine, uint32_t vcpu, struct akvm_flight_record *records,
			      uint32_t max);

struct akvm_memory_status {
	uint64_t frames_total, frames_used; /* 4 KiB each */
	uint64_t huge_mapped, small_mapped; /* pages mapped since open, by size */
	uint64_t faults, cow_copies, huge_splits, edits, tables_used, tables_total, spaces, limbo_frames, file_slots;
};
AKVM_API int akvm_memory_status(const struct akvm_machine *machine, struct akvm_memory_status *status);

/* ---------------------------------------------------------------- address spaces */

/* For akvm_space_map also: with AKVM_SHARED stores go to the file; with AKVM_STABLE nobody changes the file meanwhile, as with a
 * program's, and pages of a writable view may be copied before they are written. */
enum { AKVM_READ = 1, AKVM_WRITE = 2, AKVM_EXECUTE = 4, AKVM_SHARED = 8, AKVM_STABLE = 16 };

/* User addresses lie in [AKVM_USER_MIN, AKVM_USER_MAX). The last 15 pages of Linux's own range are a stub process's, on every
 * platform, so that programs see the same everywhere. */
#define AKVM_USER_MIN 0x10000
#define AKVM_USER_MAX 0x7fffffff0000

/* All calls below: Thread: any; safe while vCPUs run in the space. When one of them changes what a running guest could see,
 * vCPUs inside are interrupted, and no vCPU enters the space again before all have acknowledged. Page-aligned addresses and
 * lengths, else -EINVAL; ranges outside user space -EINVAL; no memory for tables or frames -ENOMEM. */
AKVM_API int akvm_space_create(struct akvm_machine *machine, struct akvm_space **space);
/* Copy-on-write copy: same regions, same contents. vCPUs that run in `space` at this moment may still store to shared pages until
 * akvm_space_settled(space): wait for that before the child runs. */
AKVM_API int akvm_space_fork(struct akvm_space *space, struct akvm_space **child);
/* No context may be attached. Frames and tables return to the machine once no vCPU can reach them. */
AKVM_API int akvm_space_destroy(struct akvm_space *space);
/* Replace whatever is mapped in [address, address+length). file NULL: zero-filled private memory. Otherwise `offset` bytes
 * into the file, page-aligned: read-only views share the host's page cache, writes go to private copies. With AKVM_SHARED they go
 * to the file, for everybody to see at once; -EACCES when it is to be written and the file was not opened so. Pages past the
 * file's end are there as soon as it has grown; until then who touches them has a bus error. */
AKVM_API int akvm_space_map(struct akvm_space *space, uint64_t address, uint64_t length, uint32_t access, struct akvm_file *file,
			    uint64_t offset);
AKVM_API int akvm_space_unmap(struct akvm_space *space, uint64_t address, uint64_t length);
/* -ENOMEM when part of the range is unmapped (as mprotect); -EACCES as in map. */
AKVM_API int akvm_space_protect(struct akvm_space *space, uint64_t address, uint64_t length, uint32_t access);
/* Drop the contents of private memory in the range: next touch sees zeroes (or the file). As madvise(MADV_DONTNEED). Shared
 * memory keeps its contents. */
AKVM_API int akvm_space_discard(struct akvm_space *space, uint64_t address, uint64_t length);
/* Move what is mapped in [from, from+length) to [to, to+length) without copying, in place of what is there; nothing is mapped at
 * `from` afterwards. As mremap(2) with MREMAP_MAYMOVE | MREMAP_FIXED: -EINVAL when the ranges overlap, -EFAULT when part of the
 * source is unmapped. After a failure all is as it was. */
AKVM_API int akvm_space_move(struct akvm_space *space, uint64_t from, uint64_t to, uint64_t length);
/* Grow the mapping that ends at `address` by what follows it: same access, same file, offsets that go on. As mremap(2) in place:
 * -EFAULT when no mapping ends there, -EINVAL when part of the range is in use. */
AKVM_API int akvm_space_extend(struct akvm_space *space, uint64_t address, uint64_t length);
/* Copy as the guest itself would: faults pages in, honours protection. Returns bytes copied, short at the first bad page;
 * -EFAULT when not even the first byte could be copied, -ENOMEM when only memory or the space's limit stood in the way.
 * `force` ignores protection (never region bounds, and not that of shared memory): for loaders. Writes to shared memory go to the
 * file and never make it longer. */
AKVM_API int64_t akvm_space_read(struct akvm_space *space, uint64_t address, void *buffer, uint64_t length);
AKVM_API int64_t akvm_space_write(struct akvm_space *space, uint64_t address, const void *buffer, uint64_t length, bool force);
/* Length of the NUL-terminated string at `address` copied to buffer without its NUL; -ENAMETOOLONG, -EFAULT. */
AKVM_API int64_t akvm_space_read_string(struct akvm_space *space, uint64_t address, char *buffer, uint64_t capacity);
/* The 4 bytes at `address`, a multiple of 4, become `desired` if they are `expected`; what they were goes to *old. Atomic towards
 * vCPUs that run, in this space and in those that share the memory. -EFAULT and -ENOMEM as write without force. On memory
 * shared through a file it must not be called while another host process may cut that very page off the file: the page is
 * made sure of, and then touched. */
AKVM_API int akvm_space_compare_exchange32(struct akvm_space *space, uint64_t address, uint32_t expected, uint32_t desired,
					   uint32_t *old);
/* For each of so many pages 1 when there is something behind it: private memory, or a file's page that was touched through this
 * space; else 0. -ENOMEM when part of the range is unmapped (as mincore). */
AKVM_API int akvm_space_present(struct akvm_space *space, uint64_t address, uint64_t pages, uint8_t *out);
struct akvm_region {
	uint64_t start, end, offset;
	uint32_t access; /* with AKVM_SHARED */
	uint32_t file;   /* 0: anonymous, else the file's number: one for each inode, as long as somebody holds it */
};
/* First region with end > address; 0 when found, -ENOENT. */
AKVM_API int akvm_space_region(struct akvm_space *space, uint64_t address, struct akvm_region *region);
/* How many bytes of the range are mapped: all of them where there is no hole. No page is looked at. */
AKVM_API uint64_t akvm_space_mapped(struct akvm_space *space, uint64_t address, uint64_t length);
/* The lowest multiple of `alignment`, a power of two, in [start, end) from which `length` bytes up to `end` are not mapped; 0 when
 * there is none. */
AKVM_API uint64_t akvm_space_room(struct akvm_space *space, uint64_t start, uint64_t end, uint64_t length, uint64_t alignment);
/* 1 when every vCPU that was inside has acknowledged all changes made so far. */
AKVM_API int akvm_space_settled(struct akvm_space *space);
/* Resident 4 KiB pages of private memory. */
AKVM_API uint64_t akvm_space_resident(struct akvm_space *space);
/* Bound of resident private pages and the page tables for them (4 KiB units); 0 for none. Faults beyond it fail with
 * AKVM_FAULT_LIMIT. Without one, a space can use up the machine's frames and tables. */
AKVM_API void akvm_space_limit(struct akvm_space *space, uint64_t pages);

/* A bound of memory for several spaces together: `pages` of 4 KiB. Charged are their page tables and the frames of their private
 * memory: each to the space that took it, once, for as long as any space maps it, so that what a fork shares costs nothing until
 * one side copies it. Files' own pages are not. A fault beyond the bound fails with AKVM_FAULT_LIMIT. -ENOMEM. Thread: any. */
AKVM_API int akvm_budget_create(struct akvm_machine *machine, uint64_t pages, struct akvm_budget **budget);
/* The caller is done with it; it goes with its last space, or with the machine. */
AKVM_API void akvm_budget_destroy(struct akvm_budget *budget);
/* -EBUSY when the space has memory or tables already. Its children by fork have the same. NULL for none, as at the start. */
AKVM_API int akvm_space_budget(struct akvm_space *space, struct akvm_budget *budget);
/* Pages charged now; memory of destroyed spaces until it is back. */
AKVM_API uint64_t akvm_budget_used(struct akvm_budget *budget);
/* Charge what the caller keeps elsewhere for the same spaces, and take it back. -ENOMEM when there is no room. */
AKVM_API int akvm_budget_charge(struct akvm_budget *budget, uint64_t pages);
AKVM_API void akvm_budget_release(struct akvm_budget *budget, uint64_t pages);

/* A host file mapped once per machine and shared by all spaces, with a descriptor of its own. Same inode, same object
 * (reference counted), one for reading and one, from a descriptor open for both and not for appending (-EINVAL), that shared
 * mappings may write to. Only regular files, memfds among them.
 * `bytes` is what the mapping is expected to need, if that is more than the file's length now (0: it is not): so much, at most
 * 1 GiB, in whole 2 MiB, is ready for a file that grows, at the price of 1/512 of it in host kernel memory. Asking for more than
 * there is makes a larger object, which takes over as references to the old one go. What grows beyond is private copies to a
 * private view; a shared one is moved over to a larger object when it is touched. No object is larger than 16 GiB: what lies
 * beyond is copies to a private view and a bus error to a shared one. Small read-only objects outlive their last reference for a
 * while, a few dozen of them, with their descriptors: programs are started again and again from the same files. Thread: any. */
AKVM_API int akvm_file_open(struct akvm_machine *machine, int fd, bool writable, uint64_t bytes, struct akvm_file **file);
AKVM_API void akvm_file_close(struct akvm_file *file);
/* Who holds the object: handles not closed yet, and regions of spaces, those included whose end no vCPU has seen yet. */
AKVM_API uint32_t akvm_file_references(struct akvm_file *file);
/* Regions of all spaces that show the object now. */
AKVM_API uint32_t akvm_file_mappings(struct akvm_file *file);
/* What regions of it have as `file`. Never 0. */
AKVM_API uint32_t akvm_file_number(const struct akvm_file *file);

/* ---------------------------------------------------------------- contexts */

/* General registers in the order of struct kvm_regs. */
struct akvm_registers {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, rflags;
};

enum akvm_exit_kind {
	AKVM_EXIT_NONE,
	AKVM_EXIT_SYSCALL,     /* vector 256: SYSCALL; vector 0x80: INT 0x80. RIP is past the instruction */
	AKVM_EXIT_FAULT,       /* vector, error_code, address (CR2 for #PF), detail: enum akvm_fault */
	AKVM_EXIT_INTERRUPTED, /* interrupts: AKVM_INTERRUPT_* */
	AKVM_EXIT_OPERATION,   /* a ring-0 operation ended; detail 0 ok, else -errno in host_errno */
	AKVM_EXIT_ERROR,       /* this core or the host failed: kvm_exit_reason, host_errno, detail: enum akvm_failure */
};
enum akvm_fault {
	AKVM_FAULT_NONE,
	AKVM_FAULT_UNMAPPED, /* no region there (SEGV_MAPERR) */
	AKVM_FAULT_ACCESS,   /* region forbids it (SEGV_ACCERR) */
	AKVM_FAULT_BUS,      /* file shorter than the mapping (SIGBUS, BUS_ADRERR) */
	AKVM_FAULT_MEMORY,   /* the machine has no frame or table left */
	AKVM_FAULT_LIMIT,    /* the space's own limit is reached, or its budget's */
};
enum akvm_failure {
	AKVM_FAILURE_NONE,
	AKVM_FAILURE_RUN,   /* KVM_RUN failed: host_errno */
	AKVM_FAILURE_EXIT,  /* KVM_RUN returned an exit reason that must not happen */
	AKVM_FAILURE_RING0, /* an exception inside the stubs */
	AKVM_FAILURE_STATE, /* registers at the exit make no sense */
	AKVM_FAILURE_HOST,  /* another host call failed: host_errno */
};
enum {
	AKVM_INTERRUPT_BOUNCE = 1,
	AKVM_INTERRUPT_PREEMPT = 2,
	AKVM_INTERRUPT_CANCEL = 4,
	AKVM_INTERRUPT_TIMEOUT = 8,
	AKVM_INTERRUPT_SHOOTDOWN = 16,
	AKVM_INTERRUPT_CLOSE = 32,
};
/* How a run enters the guest, and goes on after a system call that was answered on the vCPU thread. Where it goes on after
 * anything else resolved there, nothing is lost whatever this says. */
enum akvm_restore {
	AKVM_RESTORE_AUTO,    /* SYSRET when it restores everything, else IRET */
	AKVM_RESTORE_FULL,    /* IRET */
	AKVM_RESTORE_PARTIAL, /* SYSRET: RCX and R11 are lost */
};

/* System calls on direct files, see below. */
enum akvm_direct_call { AKVM_DIRECT_READ, AKVM_DIRECT_PREAD, AKVM_DIRECT_SEEK, AKVM_DIRECT_CALLS };

/* A guest thread as data. The caller may read and write it whenever it is not submitted; the first 20 words are the registers
 * the guest runs with, the rest is filled in at the exit. */
struct akvm_context {
	struct akvm_registers registers;
	uint64_t fs_base, gs_base;
	uint64_t address;      /* CR2 of a page fault; guest-physical address of a host failure */
	uint64_t ran_ns;       /* this run, on its vCPU */
	uint64_t total_ns;     /* all runs */
	uint64_t exits;        /* exits that reached the caller */
	uint64_t native_exits; /* exits resolved on the vCPU thread */
	uint64_t started_ns;   /* when this run began */
	uint32_t kind;         /* enum akvm_exit_kind */
	uint32_t vector;
	uint32_t error_code;
	uint32_t detail;
	uint32_t interrupts;
	uint32_t kvm_exit_reason;
	int32_t host_errno;
	uint32_t vcpu;       /* where it ran */
	uint32_t index;      /* constant: names the context in completions */
	uint32_t generation; /* counts runs */
	uint32_t restore;    /* enum akvm_restore, set by the caller */
	uint32_t submitted;  /* 1 from submit until drained */
	/* By enum akvm_direct_call: those that the caller never saw. Counted as they happen. */
	uint64_t direct_calls[AKVM_DIRECT_CALLS];
};

/* -EAGAIN when contexts_max are alive. Thread: loop. */
AKVM_API int akvm_context_create(struct akvm_machine *machine, struct akvm_context **context);
/* -EBUSY while submitted. Thread: loop. */
AKVM_API int akvm_context_destroy(struct akvm_context *context);
/* The space it runs in; NULL detaches. -EBUSY while submitted. Thread: loop. */
AKVM_API int akvm_context_attach(struct akvm_context *context, struct akvm_space *space);
/* Queue it for a vCPU (which an idle vCPU may take over). -EBUSY when already submitted, -EINVAL without a space,
 * -ENOSPC when that mailbox is full. Thread: loop. */
AKVM_API int akvm_context_submit(struct akvm_context *context, uint32_t vcpu);
/* Make run `generation` return with AKVM_EXIT_INTERRUPTED. A stale generation is ignored, and so is one that arrives when the run
 * has ended but was not drained yet: the caller remembers it if it must not be lost. -errno when the host did not take the
 * kick: the reason is noted, and calling again kicks again. Never blocks. Thread: loop. */
AKVM_API int akvm_context_interrupt(struct akvm_context *context, uint32_t generation, uint32_t reasons);
/* FP/vector state as an XSAVE image of capabilities.xsave_bytes (standard format). -EBUSY while submitted; set refuses
 * an image with components outside XCR0 or a non-zero reserved header (-EINVAL). Thread: loop. */
AKVM_API int akvm_context_get_xsave(struct akvm_context *context, void *image, uint32_t bytes);
AKVM_API int akvm_context_set_xsave(struct akvm_context *context, const void *image, uint32_t bytes);

/* System calls with a constant answer (the caller says which numbers): resolved on the vCPU thread. Thread: loop; may be
 * changed only while no context using it is submitted. */
enum { AKVM_ANSWERS_MAX = 512 };
AKVM_API int akvm_answers_create(struct akvm_answers **answers);
AKVM_API int akvm_answers_set(struct akvm_answers *answers, uint32_t number, int64_t value);
AKVM_API int akvm_answers_clear(struct akvm_answers *answers, uint32_t number);
AKVM_API void akvm_answers_destroy(struct akvm_answers *answers);
AKVM_API int akvm_context_answers(struct akvm_context *context, struct akvm_answers *answers);

/* ---------------------------------------------------------------- direct files */

/* Regular files of the host that a guest reads by descriptor without the caller: the thread of the vCPU answers read(2), pread64(2)
 * and lseek(2) on them, as long as nothing unusual is met. Then, and when more than AKVM_DIRECT_BYTES_MAX bytes are asked for, the
 * call reaches the caller as any other, and nothing was done. A file's position is that of the host's open file. A read that the
 * host's page cache does not serve keeps the vCPU's thread, and nobody else, until the disk has answered. */
enum { AKVM_DIRECT_FILES_MAX = 4096, AKVM_DIRECT_BYTES_MAX = 1 << 20 };

/* `fd`, which must be open for reading, becomes the object's own: it is closed when the caller has released the object, no table
 * has it and no call on it is under way. -ENOMEM, and it stays the caller's. Thread: any. */
AKVM_API int akvm_direct_file_create(int fd, struct akvm_direct_file **file);
AKVM_API void akvm_direct_file_release(struct akvm_direct_file *file);
/* Between the two no guest moves the position. Waits for one call of a guest at most. Thread: any. */
AKVM_API void akvm_direct_file_lock(struct akvm_direct_file *file);
AKVM_API void akvm_direct_file_unlock(struct akvm_direct_file *file);

/* Which descriptors are direct files, none at first. `numbers`: those of the system calls, by enum akvm_direct_call. -ENOMEM.
 * Contexts hold it too. Thread: any. */
AKVM_API int akvm_direct_files_create(const uint64_t *numbers, struct akvm_direct_files **files);
AKVM_API void akvm_direct_files_release(struct akvm_direct_files *files);
/* NULL: the descriptor is no direct file any more. A call that began before ends with the file it began with, as close(2) has it.
 * -EINVAL for a descriptor of AKVM_DIRECT_FILES_MAX and above, -ENOMEM for one that is new. Thread: any; guests may run. */
AKVM_API int akvm_direct_files_set(struct akvm_direct_files *files, uint32_t descriptor, struct akvm_direct_file *file);
/* The table for a context's calls; NULL for none, as at the start. -EBUSY while submitted. Thread: loop. */
AKVM_API int akvm_context_direct_files(struct akvm_context *context, struct akvm_direct_files *files);

/* ---------------------------------------------------------------- ring-0 operations */

/* A short idempotent routine run in guest ring 0 on one vCPU. Submitted like a context, but it goes before those that
 * wait there and preempts the one that runs. Completed with AKVM_EXIT_OPERATION: rcx and rdx:rax carry MSR number and value.
 * Interrupted ones complete as AKVM_EXIT_INTERRUPTED and may be submitted again. */
enum akvm_operation {
	AKVM_OPERATION_READ_MSR,  /* registers.rcx -> rdx:rax; vector 13 when the MSR does not exist */
	AKVM_OPERATION_WRITE_MSR, /* registers.rcx, rdx:rax */
	AKVM_OPERATION_FLUSH,     /* reload CR3: drop this vCPU's non-global translations */
	AKVM_OPERATION_NOTHING,   /* enter ring 0 and come back: a probe of the round trip */
};
AKVM_API int akvm_context_operate(struct akvm_context *context, uint32_t vcpu, uint32_t operation);

/* ---------------------------------------------------------------- clocks */

/* The time stamp counter, and what the host's clocks show at that moment. The counter was read within `width` ticks of
 * CLOCK_MONOTONIC; the other clocks are that one and their distance from it. */
struct akvm_clock_sample {
	uint64_t tsc, width;
	uint64_t monotonic_ns, realtime_ns, boottime_ns, tai_ns;
};
/* Every store before the call is visible before the counter is read. Thread: any. */
AKVM_API void akvm_clock_sample(struct akvm_clock_sample *sample);

/* Name of the host operation behind the calling thread's last failure ("KVM_CREATE_VM", "mmap frames", ...). */
AKVM_API const char *akvm_last_error(void);
AKVM_API const char *akvm_version(void);

#endif
