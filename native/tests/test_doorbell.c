/*
 * The doorbell: one write per arming, no write unarmed, and a loop that sleeps is woken, even after a write that failed.
 */
#include "ring/doorbell.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "rig.h"
#include "ring/ring.h"

enum { MESSAGES = 20000, WAIT_MS = 30000 };

static bool rung(const struct akvm__doorbell *doorbell)
{
	struct pollfd bell = { .fd = doorbell->fd, .events = POLLIN };
	uint64_t rings;

	if (poll(&bell, 1, 0) != 1)
		return false;
	T_EQUAL(read(doorbell->fd, &rings, sizeof(rings)), sizeof(rings));
	return true;
}

static void one_write_per_arming(void)
{
	struct akvm__doorbell doorbell;

	fake_install(NULL);
	T_EQUAL(akvm__doorbell_create(&doorbell), 0);
	akvm__doorbell_ring(&doorbell);
	T_CHECK(!rung(&doorbell));
	akvm__doorbell_arm(&doorbell);
	akvm__doorbell_ring(&doorbell);
	akvm__doorbell_ring(&doorbell);
	T_EQUAL(atomic_load(&doorbell.rings), 1);
	T_CHECK(rung(&doorbell));
	T_CHECK(!rung(&doorbell));
	akvm__doorbell_arm(&doorbell);
	akvm__doorbell_disarm(&doorbell);
	akvm__doorbell_ring(&doorbell);
	T_CHECK(!rung(&doorbell));
	akvm__doorbell_free(&doorbell);
	akvm__doorbell_free(&doorbell);
	fake_check_clean();
}

static void failed_writes(void)
{
	struct akvm__doorbell doorbell;

	fake_install(NULL);
	T_EQUAL(akvm__doorbell_create(&doorbell), 0);
	/* Interrupted: at once again. */
	akvm__doorbell_arm(&doorbell);
	fake_fail_write(3, EINTR);
	akvm__doorbell_ring(&doorbell);
	T_CHECK(rung(&doorbell));
	/* Lost: the next completion rings. */
	akvm__doorbell_arm(&doorbell);
	fake_fail_write(1, EIO);
	akvm__doorbell_ring(&doorbell);
	T_CHECK(!rung(&doorbell));
	T_EQUAL(atomic_load(&doorbell.failures), 1);
	akvm__doorbell_ring(&doorbell);
	T_CHECK(rung(&doorbell));
	/* The counter is full: the loop has its wake-up already. */
	akvm__doorbell_arm(&doorbell);
	fake_fail_write(1, EAGAIN);
	akvm__doorbell_ring(&doorbell);
	T_EQUAL(atomic_load(&doorbell.failures), 1);
	T_EQUAL(atomic_load(&doorbell.armed), 0);
	akvm__doorbell_free(&doorbell);
	fake_check_clean();
}

/* The same through a machine: of two completions the first one's write is lost. */
static void lost_write_of_a_machine(void)
{
	struct akvm_context *first, *second, *got;
	struct rig rig;

	rig_open(&rig, NULL, 1);
	first = rig_context(&rig, 0);
	second = rig_context(&rig, 0);
	first->registers.rip = second->registers.rip = RIG_SYSCALL;
	T_EQUAL(akvm_machine_arm(rig.machine), 0);
	fake_fail_write(1, EIO);
	rig_submit(first, 0);
	rig_submit(second, 0);
	got = rig_wait(&rig);
	T_CHECK(got == first);
	got = rig_wait(&rig);
	T_CHECK(got == second);
	rig_close(&rig);
}

static struct shared {
	struct akvm__doorbell doorbell;
	struct akvm__ring ring;
} shared;

static void *complete_many(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < MESSAGES; i++) {
		while (!akvm__ring_put(&shared.ring, i))
			sched_yield();
		akvm__doorbell_ring(&shared.doorbell);
	}
	return NULL;
}

/* A loop that sleeps whenever the ring is empty, however the two race. */
static void no_wake_up_is_lost(void)
{
	struct pollfd bell = { .events = POLLIN };
	uint32_t values[64], next = 0;
	pthread_t producer;
	uint64_t rings;

	fake_install(NULL);
	T_EQUAL(akvm__doorbell_create(&shared.doorbell), 0);
	T_EQUAL(akvm__ring_create(&shared.ring, 64), 0);
	bell.fd = shared.doorbell.fd;
	T_EQUAL(pthread_create(&producer, NULL, complete_many, NULL), 0);
	while (next < MESSAGES) {
		uint32_t count = akvm__ring_take(&shared.ring, values, 64);

		for (uint32_t i = 0; i < count; i++)
			T_EQUAL(values[i], next++);
		if (count)
			continue;
		akvm__doorbell_arm(&shared.doorbell);
		if (!akvm__ring_empty(&shared.ring)) {
			akvm__doorbell_disarm(&shared.doorbell);
			continue;
		}
		T_EQUAL(poll(&bell, 1, WAIT_MS), 1);
		T_EQUAL(read(bell.fd, &rings, sizeof(rings)), sizeof(rings));
	}
	T_EQUAL(pthread_join(producer, NULL), 0);
	akvm__ring_free(&shared.ring);
	akvm__doorbell_free(&shared.doorbell);
	fake_check_clean();
}

int main(void)
{
	T_RUN(one_write_per_arming);
	T_RUN(failed_writes);
	T_RUN(lost_write_of_a_machine);
	T_RUN(no_wake_up_is_lost);
	return 0;
}
