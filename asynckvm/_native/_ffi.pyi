# Types of the compiled module, by hand, so that every line is a reviewed part of the contract.
#
# `lib` lists every function and constant of the headers in native/include/akvm, and each `Akvm...` class the fields of the C
# structure of that name; a pointer to a structure is typed as the structure. A test compares all of it with the compiled module.

from typing import Any, Final, TypeAlias

from typing_extensions import Buffer

# Pointers to pointers, to plain numbers and to bytes; what `ffi.new` returns.
CData: TypeAlias = Any

class AkvmMachine: ...
class AkvmSpace: ...
class AkvmFile: ...
class AkvmBudget: ...
class AkvmAnswers: ...
class AkvmDirectFile: ...
class AkvmDirectFiles: ...

class AkvmCapabilities:
    platform: int
    syscall_as_fault: int
    int80_as_ud: int
    host_edits_seen: int
    cpuid_faulting: int
    pcid: int
    smep: int
    smap: int
    umip: int
    fsgsbase: int
    tsc_offset_exact: int
    xsave_bytes: int
    physical_bits: int
    xcr0: int
    round_trip_ns: int
    kernel_base: int
    vcpus_max: int
    slots_max: int
    kvm_module: CData

class AkvmMachineConfig:
    memory_bytes: int
    vcpus: int
    contexts_max: int
    flags: int
    vcpu_spin_ns: int
    kick_signal: int
    fault_around_pages: int
    platform: int
    device: CData

class AkvmVcpuStatus:
    started_ns: int
    busy_ns: int
    runs: int
    exits: int
    native_exits: int
    kicks: int
    stale_kicks: int
    steals: int
    fp_switches: int
    operations: int
    shootdowns: int
    sleeps: int
    space_switches: int
    space_flushes: int
    state: int
    context: int
    generation: int
    queued: int

class AkvmFlightRecord:
    when_ns: int
    rip: int
    address: int
    context: int
    generation: int
    kvm_exit_reason: int
    kind: int
    vector: int
    error_code: int
    host_errno: int
    interrupts: int

class AkvmFound:
    status: CData
    taken: int
    target_bytes: int
    target: CData

class AkvmClockSample:
    tsc: int
    width: int
    monotonic_ns: int
    realtime_ns: int
    boottime_ns: int
    tai_ns: int

class AkvmMemoryStatus:
    frames_total: int
    frames_used: int
    huge_mapped: int
    small_mapped: int
    faults: int
    cow_copies: int
    huge_splits: int
    edits: int
    tables_used: int
    tables_total: int
    spaces: int
    limbo_frames: int
    file_slots: int

class AkvmRegion:
    start: int
    end: int
    offset: int
    access: int
    file: int

class AkvmRegisters:
    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rsp: int
    rbp: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    rflags: int

class AkvmContext:
    registers: AkvmRegisters
    fs_base: int
    gs_base: int
    address: int
    ran_ns: int
    total_ns: int
    exits: int
    native_exits: int
    started_ns: int
    kind: int
    vector: int
    error_code: int
    detail: int
    interrupts: int
    kvm_exit_reason: int
    host_errno: int
    vcpu: int
    index: int
    generation: int
    restore: int
    submitted: int
    direct_calls: CData

class _Lib:
    AKVM_ANSWERS_MAX: int
    AKVM_DIRECT_BYTES_MAX: int
    AKVM_DIRECT_CALLS: int
    AKVM_DIRECT_FILES_MAX: int
    AKVM_DIRECT_PREAD: int
    AKVM_DIRECT_READ: int
    AKVM_DIRECT_SEEK: int
    AKVM_EXECUTE: int
    AKVM_EXIT_ERROR: int
    AKVM_EXIT_FAULT: int
    AKVM_EXIT_INTERRUPTED: int
    AKVM_EXIT_NONE: int
    AKVM_EXIT_OPERATION: int
    AKVM_EXIT_SYSCALL: int
    AKVM_FAILURE_EXIT: int
    AKVM_FAILURE_HOST: int
    AKVM_FAILURE_NONE: int
    AKVM_FAILURE_RING0: int
    AKVM_FAILURE_RUN: int
    AKVM_FAILURE_STATE: int
    AKVM_FAULT_ACCESS: int
    AKVM_FAULT_BUS: int
    AKVM_FAULT_LIMIT: int
    AKVM_FAULT_MEMORY: int
    AKVM_FAULT_NONE: int
    AKVM_FAULT_UNMAPPED: int
    AKVM_FLIGHT_RECORDS: int
    AKVM_INTERRUPT_BOUNCE: int
    AKVM_INTERRUPT_CANCEL: int
    AKVM_INTERRUPT_CLOSE: int
    AKVM_INTERRUPT_PREEMPT: int
    AKVM_INTERRUPT_SHOOTDOWN: int
    AKVM_INTERRUPT_TIMEOUT: int
    AKVM_MACHINE_GUEST_EDITS: int
    AKVM_MACHINE_NO_PCID: int
    AKVM_OPERATION_FLUSH: int
    AKVM_OPERATION_NOTHING: int
    AKVM_OPERATION_READ_MSR: int
    AKVM_OPERATION_WRITE_MSR: int
    AKVM_READ: int
    AKVM_RESTORE_AUTO: int
    AKVM_RESTORE_FULL: int
    AKVM_RESTORE_PARTIAL: int
    AKVM_SHARED: int
    AKVM_STABLE: int
    AKVM_USER_MAX: int
    AKVM_USER_MIN: int
    AKVM_VCPU_DEAD: int
    AKVM_VCPU_ENTERING: int
    AKVM_VCPU_EXITING: int
    AKVM_VCPU_GUEST: int
    AKVM_PLATFORM_KVM: int
    AKVM_PLATFORM_PTRACE: int
    AKVM_VCPU_IDLE: int
    AKVM_WRITE: int
    def akvm_machine_open(self, config: AkvmMachineConfig, machine: CData, /) -> int: ...
    def akvm_machine_close(self, machine: AkvmMachine, timeout_ns: int, /) -> int: ...
    def akvm_machine_capabilities(self, machine: AkvmMachine, /) -> AkvmCapabilities: ...
    def akvm_machine_stop(self, machine: AkvmMachine, /) -> None: ...
    def akvm_machine_doorbell(self, machine: AkvmMachine, /) -> int: ...
    def akvm_machine_drain(self, machine: AkvmMachine, indices: CData, max: int, /) -> int: ...
    def akvm_machine_rouse(self, machine: AkvmMachine, /) -> None: ...
    def akvm_machine_arm(self, machine: AkvmMachine, /) -> int: ...
    def akvm_machine_poll(self, machine: AkvmMachine, spin_ns: int, /) -> int: ...
    def akvm_vcpu_status(self, machine: AkvmMachine, vcpu: int, status: AkvmVcpuStatus, /) -> int: ...
    def akvm_vcpu_flight(self, machine: AkvmMachine, vcpu: int, records: AkvmFlightRecord, max: int, /) -> int: ...
    def akvm_memory_status(self, machine: AkvmMachine, status: AkvmMemoryStatus, /) -> int: ...
    def akvm_space_create(self, machine: AkvmMachine, space: CData, /) -> int: ...
    def akvm_space_fork(self, space: AkvmSpace, child: CData, /) -> int: ...
    def akvm_space_destroy(self, space: AkvmSpace, /) -> int: ...
    def akvm_space_map(self, space: AkvmSpace, address: int, length: int, access: int, file: AkvmFile, offset: int, /) -> int: ...
    def akvm_space_unmap(self, space: AkvmSpace, address: int, length: int, /) -> int: ...
    def akvm_space_protect(self, space: AkvmSpace, address: int, length: int, access: int, /) -> int: ...
    def akvm_space_discard(self, space: AkvmSpace, address: int, length: int, /) -> int: ...
    def akvm_space_read(self, space: AkvmSpace, address: int, buffer: CData, length: int, /) -> int: ...
    def akvm_space_write(self, space: AkvmSpace, address: int, buffer: CData, length: int, force: bool, /) -> int: ...
    def akvm_space_read_string(self, space: AkvmSpace, address: int, buffer: CData, capacity: int, /) -> int: ...
    def akvm_space_move(self, space: AkvmSpace, from_: int, to: int, length: int, /) -> int: ...
    def akvm_space_extend(self, space: AkvmSpace, address: int, length: int, /) -> int: ...
    def akvm_space_compare_exchange32(
        self, space: AkvmSpace, address: int, expected: int, desired: int, old: CData, /
    ) -> int: ...
    def akvm_space_present(self, space: AkvmSpace, address: int, pages: int, out: CData, /) -> int: ...
    def akvm_space_mapped(self, space: AkvmSpace, address: int, length: int, /) -> int: ...
    def akvm_space_region(self, space: AkvmSpace, address: int, region: AkvmRegion, /) -> int: ...
    def akvm_space_room(self, space: AkvmSpace, start: int, end: int, length: int, alignment: int, /) -> int: ...
    def akvm_space_settled(self, space: AkvmSpace, /) -> int: ...
    def akvm_space_resident(self, space: AkvmSpace, /) -> int: ...
    def akvm_space_limit(self, space: AkvmSpace, pages: int, /) -> None: ...
    def akvm_budget_create(self, machine: AkvmMachine, pages: int, budget: CData, /) -> int: ...
    def akvm_budget_destroy(self, budget: AkvmBudget, /) -> None: ...
    def akvm_space_budget(self, space: AkvmSpace, budget: AkvmBudget, /) -> int: ...
    def akvm_budget_used(self, budget: AkvmBudget, /) -> int: ...
    def akvm_budget_charge(self, budget: AkvmBudget, pages: int, /) -> int: ...
    def akvm_budget_release(self, budget: AkvmBudget, pages: int, /) -> None: ...
    def akvm_file_open(self, machine: AkvmMachine, fd: int, writable: bool, bytes: int, file: CData, /) -> int: ...
    def akvm_file_close(self, file: AkvmFile, /) -> None: ...
    def akvm_file_references(self, file: AkvmFile, /) -> int: ...
    def akvm_file_mappings(self, file: AkvmFile, /) -> int: ...
    def akvm_file_number(self, file: AkvmFile, /) -> int: ...
    def akvm_context_create(self, machine: AkvmMachine, context: CData, /) -> int: ...
    def akvm_context_destroy(self, context: AkvmContext, /) -> int: ...
    def akvm_context_attach(self, context: AkvmContext, space: AkvmSpace, /) -> int: ...
    def akvm_context_submit(self, context: AkvmContext, vcpu: int, /) -> int: ...
    def akvm_context_interrupt(self, context: AkvmContext, generation: int, reasons: int, /) -> int: ...
    def akvm_context_get_xsave(self, context: AkvmContext, image: CData, bytes: int, /) -> int: ...
    def akvm_context_set_xsave(self, context: AkvmContext, image: CData, bytes: int, /) -> int: ...
    def akvm_answers_create(self, answers: CData, /) -> int: ...
    def akvm_answers_set(self, answers: AkvmAnswers, number: int, value: int, /) -> int: ...
    def akvm_answers_clear(self, answers: AkvmAnswers, number: int, /) -> int: ...
    def akvm_answers_destroy(self, answers: AkvmAnswers, /) -> None: ...
    def akvm_context_answers(self, context: AkvmContext, answers: AkvmAnswers, /) -> int: ...
    def akvm_direct_file_create(self, fd: int, file: CData, /) -> int: ...
    def akvm_direct_file_release(self, file: AkvmDirectFile, /) -> None: ...
    def akvm_direct_file_lock(self, file: AkvmDirectFile, /) -> None: ...
    def akvm_direct_file_unlock(self, file: AkvmDirectFile, /) -> None: ...
    def akvm_direct_files_create(self, numbers: CData, files: CData, /) -> int: ...
    def akvm_direct_files_release(self, files: AkvmDirectFiles, /) -> None: ...
    def akvm_direct_files_set(self, files: AkvmDirectFiles, descriptor: int, file: AkvmDirectFile, /) -> int: ...
    def akvm_context_direct_files(self, context: AkvmContext, files: AkvmDirectFiles, /) -> int: ...
    def akvm_context_operate(self, context: AkvmContext, vcpu: int, operation: int, /) -> int: ...
    def akvm_clock_sample(self, sample: AkvmClockSample, /) -> None: ...
    def akvm_last_error(self) -> CData: ...
    def akvm_version(self) -> CData: ...
    def akvm_beneath_look(self, root: int, path: bytes, follow: bool, found: AkvmFound, /) -> int: ...
    def akvm_beneath_open(self, root: int, path: bytes, flags: int, device: int, inode: int, /) -> int: ...
    def akvm_fd_status(self, fd: int, status: CData, /) -> int: ...
    def akvm_fd_entries(self, fd: int, buffer: CData, capacity: int, /) -> int: ...

class _Buffer(Buffer):
    def __getitem__(self, index: int | slice, /) -> bytes: ...
    def __setitem__(self, index: int | slice, value: Buffer, /) -> None: ...
    def __len__(self) -> int: ...

class _FFI:
    NULL: Final[CData]
    error: Final[type[Exception]]
    def new(self, cdecl: str, init: Any = ..., /) -> CData: ...
    def cast(self, cdecl: str, source: Any, /) -> CData: ...
    def buffer(self, cdata: CData, size: int = ..., /) -> _Buffer: ...
    def from_buffer(self, cdecl: str, python_buffer: Buffer, require_writable: bool = ..., /) -> CData: ...
    def memmove(self, dest: CData, src: CData, n: int, /) -> None: ...
    def string(self, cdata: CData, maxlen: int = ..., /) -> bytes: ...
    def unpack(self, cdata: CData, length: int, /) -> Any: ...
    def gc(self, cdata: CData, destructor: Any, size: int = ..., /) -> CData: ...
    def sizeof(self, cdecl: CData, /) -> int: ...
    def offsetof(self, cdecl: str, field: str, /) -> int: ...
    def typeof(self, cdecl: CData, /) -> Any: ...

ffi: Final[_FFI]
lib: Final[_Lib]
