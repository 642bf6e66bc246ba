/*
 * What ring 3 can have in its registers, whoever put it there.
 */
#include "vcpu/vcpu.h"

/* CF PF AF ZF SF TF DF OF NT RF AC ID: what ring 3 may set for itself. IF is always on and bit 1 always set. */
enum { USER_FLAGS = 0x254dd5, FIXED_FLAGS = 0x202 };

bool akvm__canonical(uint64_t address)
{
	/* 48 bits: all above bit 46 equal to bit 47. Five-level paging is never switched on. */
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

uint64_t akvm__user_flags(uint64_t flags)
{
	return (flags & USER_FLAGS) | FIXED_FLAGS;
}
