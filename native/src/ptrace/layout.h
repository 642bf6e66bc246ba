/*
 * What a stub process keeps for itself at the end of user space, shared by C and assembly (guest/stub_process.S).
 *
 * Three things, none of which a guest can write to except the last: the code; a page of commands, which the host writes through a
 * mapping of its own; and the stack on which the host kernel tells what it knows about a fault.
 */
#ifndef AKVM_PTRACE_LAYOUT_H
#define AKVM_PTRACE_LAYOUT_H

#define AKVM_STUB_CODE_AT     0x7fffffff0000
#define AKVM_STUB_CODE_BYTES  0x1000
#define AKVM_STUB_PAGE_AT     0x7fffffff1000
#define AKVM_STUB_PAGE_BYTES  0x1000
#define AKVM_STUB_STACK_AT    0x7fffffff2000
#define AKVM_STUB_STACK_BYTES 0xc000 /* of a signal's frame: more than AMX needs */
#define AKVM_STUB_TOP         0x7fffffffe000

/* Offsets in the code: what a task sets by itself because its tracer may not: the bases of FS and GS from RAX and RBX, then RFLAGS
 * from the stack, where it is one of two constants. */
#define AKVM_STUB_SET_BASES 0xe00
#define AKVM_STUB_SET_FLAGS 0xe10
#define AKVM_STUB_FLAGS     0xe20
#define AKVM_STUB_FLAGS_ID  0xe28

/* The page of commands: struct akvm__commands. */
#define AKVM_COMMANDS_TURN   0 /* rises with each batch; the mapper waits for it */
#define AKVM_COMMANDS_COUNT  4
#define AKVM_COMMANDS_ANSWER 8  /* written by the mapper, by way of the file */
#define AKVM_COMMANDS_SEIZED 12 /* rises when the host has seized a new task */
#define AKVM_COMMANDS_HOST   16 /* process id of the host */
#define AKVM_COMMANDS_FILE   20 /* its descriptor of the file of all such pages */
#define AKVM_COMMANDS_VALUES 24 /* its descriptor of the file whose position tells a value */
#define AKVM_COMMANDS_AT     32 /* where in the file this page is */
#define AKVM_COMMANDS_CALLS  64
#define AKVM_COMMANDS_MAX    71
#define AKVM_CALL_BYTES      56 /* number, six arguments */

#define AKVM_ANSWER_NONE      0
#define AKVM_ANSWER_DONE      1
#define AKVM_ANSWER_NO_MEMORY 2
#define AKVM_ANSWER_REFUSED   3

/* Added to a value told by a file's position, so that errors are no negative ones. */
#define AKVM_VALUE_BIAS 0x10000

#endif
