/*
 * When a changed entry reaches memory, and when what it let go of may be used again.
 */
#include "mm_world.h"

#include <string.h>

#include "akvm/layout.h"
#include "t.h"

#define BASE 0x40000000ull
#define RW   (AKVM_READ | AKVM_WRITE)

static struct world world;
static struct akvm_space *space;
static uint64_t payload[1024];

static void begin(bool guest_edits)
{
	world_open(&world, 32 << 20, 1, guest_edits);
	T_EQUAL(akvm__space_create(world.mm, &space), 0);
	/* Seven pages in a row, each in memory. */
	T_EQUAL(akvm_space_map(space, BASE, 7 * AKVM__PAGE, RW, NULL, 0), 0);
	for (unsigned i = 0; i < 7; i++)
		T_EQUAL(akvm__space_fault(space, BASE + i * AKVM__PAGE, AKVM_WRITE), AKVM_FAULT_NONE);
}

static void end(void)
{
	T_EQUAL(akvm_space_destroy(space), 0);
	world_close(&world);
}

static struct akvm_memory_status status(void)
{
	struct akvm_memory_status now;

	akvm__mm_status(world.mm, &now);
	return now;
}

static uint32_t take(uint32_t words, uint32_t *runs)
{
	uint32_t used;

	akvm__space_lock(space);
	used = akvm__space_edits_take(space, payload, words, runs);
	akvm__space_unlock(space);
	return used;
}

static void done(void)
{
	akvm__space_lock(space);
	akvm__space_edits_done(space);
	akvm__space_unlock(space);
}

static void absent_entries_need_no_edit(void)
{
	begin(true);
	T_CHECK(!akvm__space_edits_pending(space));
	T_EQUAL(akvm__space_generation(space), 1);
	T_EQUAL(world.interrupts, 0);
	for (unsigned i = 0; i < 7; i++)
		T_CHECK(world_walk(&world, space, BASE + i * AKVM__PAGE) & AKVM__ENTRY_WRITE);
	end();
}

static void present_entries_wait(void)
{
	uint64_t entry;
	uint32_t runs;

	begin(true);
	entry = world_walk(&world, space, BASE + AKVM__PAGE);
	T_EQUAL(akvm_space_protect(space, BASE + AKVM__PAGE, 2 * AKVM__PAGE, AKVM_READ), 0);
	/* One call, one generation, one interrupt; memory as it was. */
	T_EQUAL(akvm__space_generation(space), 2);
	T_EQUAL(world.interrupts, 1);
	T_CHECK(akvm__space_edits_pending(space));
	T_EQUAL(world_walk(&world, space, BASE + AKVM__PAGE), entry);
	T_EQUAL(akvm_space_protect(space, BASE + 4 * AKVM__PAGE, AKVM__PAGE, 0), 0);
	T_EQUAL(akvm_space_unmap(space, BASE + 2 * AKVM__PAGE, AKVM__PAGE), 0);
	/* Two runs: pages 1 and 2, with the values of now, and page 4. */
	T_EQUAL(take(1024, &runs), 4 + 3);
	T_EQUAL(runs, 2);
	T_CHECK(payload[0] >= AKVM_TABLES_WINDOW && (payload[0] & 0xfff) == 1 * 8);
	T_EQUAL(payload[1], 2);
	T_EQUAL(payload[2], entry & ~(AKVM__ENTRY_WRITE | AKVM__ENTRY_DIRTY));
	T_EQUAL(payload[3], 0);
	T_EQUAL(payload[4], payload[0] + 3 * 8);
	T_EQUAL(payload[5], 1);
	T_CHECK(!(payload[6] & AKVM__ENTRY_PRESENT));
	T_CHECK(akvm__space_edits_pending(space));
	world_apply(&world, space);
	T_CHECK(!akvm__space_edits_pending(space));
	T_EQUAL(take(1024, &runs), 0);
	T_EQUAL(runs, 0);
	end();
}

static void changes_while_under_way(void)
{
	uint32_t runs;

	begin(true);
	T_EQUAL(akvm_space_protect(space, BASE, AKVM__PAGE, 0), 0);
	T_EQUAL(take(1024, &runs), 3);
	/* Taken, not done: the entry may be absent or present in memory, so this must wait too. */
	T_EQUAL(akvm_space_protect(space, BASE, AKVM__PAGE, RW), 0);
	done();
	T_CHECK(akvm__space_edits_pending(space));
	T_EQUAL(take(1024, &runs), 3);
	T_CHECK(payload[2] & AKVM__ENTRY_WRITE);
	/* Never reported done: offered again. */
	T_EQUAL(take(1024, &runs), 3);
	done();
	T_CHECK(!akvm__space_edits_pending(space));
	end();
}

static void small_payloads(void)
{
	uint32_t runs, used, total = 0;

	begin(true);
	T_EQUAL(akvm_space_protect(space, BASE, 7 * AKVM__PAGE, AKVM_READ), 0);
	while ((used = take(5, &runs)) != 0) {
		T_CHECK(used <= 5 && runs == 1 && payload[1] == used - 2);
		total += (uint32_t)payload[1];
		done();
	}
	T_EQUAL(total, 7);
	T_EQUAL(take(2, &runs), 0);
	end();
}

static void limbo_waits_for_edits(void)
{
	struct akvm_memory_status before;
	uint32_t runs;

	begin(true);
	before = status();
	T_EQUAL(akvm_space_unmap(space, BASE, 7 * AKVM__PAGE), 0);
	T_EQUAL(akvm_space_resident(space), 0);
	T_EQUAL(status().limbo_frames, 7);
	T_EQUAL(status().frames_used, before.frames_used);
	T_EQUAL(status().tables_used, before.tables_used);
	while (take(1024, &runs)) {
		for (uint32_t at = 0; runs-- > 0; at += 2 + (uint32_t)payload[at + 1]) {
			uint64_t *entry = world.mm->tables.real + (payload[at] - AKVM_TABLES_WINDOW) / 8;

			memcpy(entry, &payload[at + 2], payload[at + 1] * 8);
		}
		T_EQUAL(status().limbo_frames, 7);
		/* In memory now, but somebody is still inside. */
		world.unsettled = true;
		done();
	}
	T_EQUAL(status().limbo_frames, 7);
	world.unsettled = false;
	T_CHECK(akvm_space_settled(space));
	T_EQUAL(status().limbo_frames, 0);
	T_EQUAL(status().frames_used, 0);
	T_EQUAL(status().tables_used, before.tables_used - 3);
	end();
}

static void a_table_that_is_not_clear_is_lost(void)
{
	uint64_t before, used;
	uint32_t runs;

	begin(true);
	before = status().tables_used;
	T_EQUAL(akvm_space_unmap(space, BASE, 7 * AKVM__PAGE), 0);
	/* A vCPU that says done and has stored nothing. */
	while (take(1024, &runs))
		done();
	used = status().tables_used;
	T_EQUAL(used, before);
	T_EQUAL(status().limbo_frames, 0);
	akvm__mm_free(world.mm);
	free(world.shadow);
}

static void host_edits_are_immediate(void)
{
	struct world_cpu *cpu = &world.cpus[1];
	uint64_t value = 7, count;
	uint32_t runs;

	begin(false);
	T_EQUAL(world_access(&world, cpu, space, BASE, &value, 8, AKVM_WRITE, &count), AKVM_FAULT_NONE);
	T_EQUAL(akvm_space_unmap(space, BASE, AKVM__PAGE), 0);
	T_EQUAL(akvm__space_generation(space), 2);
	T_EQUAL(world.interrupts, 1);
	T_CHECK(!akvm__space_edits_pending(space));
	T_EQUAL(take(1024, &runs), 0);
	T_EQUAL(world_walk(&world, space, BASE), 0);
	/* The CPU inside may still use its translation, so the frame stays. */
	T_CHECK(!akvm_space_settled(space));
	T_EQUAL(status().limbo_frames, 1);
	T_EQUAL(status().frames_used, 7);
	world_leave(cpu);
	T_CHECK(akvm_space_settled(space));
	T_EQUAL(status().limbo_frames, 0);
	T_EQUAL(status().frames_used, 6);
	end();
}

static void later_batches_wait_longer(void)
{
	struct world_cpu *cpu = &world.cpus[0], *late = &world.cpus[1];

	begin(false);
	world_enter(&world, cpu, space);
	T_EQUAL(akvm_space_unmap(space, BASE, AKVM__PAGE), 0);
	cpu->generation = akvm__space_generation(space);
	late->space = space;
	late->generation = cpu->generation;
	/* Both have seen the first change, neither the second. */
	T_EQUAL(akvm_space_unmap(space, BASE + AKVM__PAGE, 2 * AKVM__PAGE), 0);
	T_EQUAL(status().limbo_frames, 2);
	world_leave(cpu);
	T_EQUAL(akvm_space_resident(space), 4);
	T_EQUAL(status().limbo_frames, 2);
	world_leave(late);
	T_EQUAL(akvm_space_resident(space), 4);
	T_EQUAL(status().limbo_frames, 0);
	end();
}

/* Nobody enters, and the host maps and unmaps: a vCPU is asked to come before memory runs out. */
static void idle_spaces_are_drained(void)
{
	begin(true);
	for (unsigned i = 0; i < 200; i++) {
		uint8_t byte = 1;

		T_EQUAL(akvm_space_map(space, 2 * BASE, 0x200000, RW, NULL, 0), 0);
		T_EQUAL(akvm_space_write(space, 2 * BASE + i * 64, &byte, 1, false), 1);
		if (world.reaps)
			world_reap(&world);
	}
	T_CHECK(status().limbo_frames < status().frames_total / 2);
	/* Asked for while it waits to be drained, destroyed before: freed once. */
	T_EQUAL(akvm_space_unmap(space, 2 * BASE, 0x200000), 0);
	akvm__reap_request(space);
	end();
}

static void destroyed_while_being_reaped(void)
{
	struct akvm_space *reaped;

	begin(true);
	T_EQUAL(akvm_space_unmap(space, BASE, AKVM__PAGE), 0);
	akvm__reap_request(space);
	reaped = akvm__mm_reap_next(world.mm);
	T_CHECK(reaped == space);
	T_CHECK(akvm__mm_reap_next(world.mm) == NULL);
	T_EQUAL(akvm_space_destroy(space), 0);
	world_apply(&world, reaped);
	akvm__mm_reap_done(world.mm, reaped);
	world_close(&world);
}

int main(void)
{
	T_RUN(absent_entries_need_no_edit);
	T_RUN(present_entries_wait);
	T_RUN(changes_while_under_way);
	T_RUN(small_payloads);
	T_RUN(limbo_waits_for_edits);
	T_RUN(a_table_that_is_not_clear_is_lost);
	T_RUN(host_edits_are_immediate);
	T_RUN(later_batches_wait_longer);
	T_RUN(idle_spaces_are_drained);
	T_RUN(destroyed_while_being_reaped);
	return 0;
}
