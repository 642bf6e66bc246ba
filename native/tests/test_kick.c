/*
 * Ten thousand kicks against two vCPUs at random moments: none is lost, none hits a run it was not meant for.
 */
#include <string.h>

#include "rig.h"

enum { TURNS = 10000, PLAYERS = 6, PAUSES_MAX = 400 };

/* What each context was told to do and what was asked of it. */
static struct player {
	struct akvm_context *context;
	bool spins;     /* else it makes a system call */
	uint32_t asked; /* interrupts requested of the present run */
} players[PLAYERS];
static unsigned long long random_state = 0x9e3779b97f4a7c15;
static unsigned interrupted, exited;

static void pause_a_little(void)
{
	for (unsigned long long i = t_random(&random_state) % PAUSES_MAX; i; i--)
		__builtin_ia32_pause();
}

static void start(struct player *player)
{
	player->spins = t_random(&random_state) % 2;
	player->asked = 0;
	player->context->registers.rip = player->spins ? RIG_SPIN : RIG_SYSCALL;
	player->context->restore = (uint32_t)(t_random(&random_state) % 3);
	rig_submit(player->context, (uint32_t)(t_random(&random_state) % 2));
}

static void finish(struct player *player)
{
	struct akvm_context *context = player->context;

	if (context->kind == AKVM_EXIT_INTERRUPTED) {
		/* Meant for it, and for nothing it was not asked. */
		T_CHECK(context->interrupts != 0);
		T_EQUAL(context->interrupts & ~player->asked, 0);
		T_EQUAL(context->registers.rip, player->spins ? RIG_SPIN : RIG_SYSCALL);
		interrupted++;
		return;
	}
	T_EQUAL(context->kind, AKVM_EXIT_SYSCALL);
	T_CHECK(!player->spins);
	T_EQUAL(context->registers.rip, RIG_SYSCALL + 2);
	exited++;
}

static void turn(struct rig *rig)
{
	struct player *player = &players[t_random(&random_state) % PLAYERS];
	struct akvm_context *context = player->context;
	uint32_t index, reason = 1u << t_random(&random_state) % 4;

	if (!context->submitted) {
		start(player);
	} else if (t_random(&random_state) % 4 == 0) {
		T_EQUAL(akvm_context_interrupt(context, context->generation - 1, AKVM_INTERRUPT_SHOOTDOWN), 0);
	} else {
		player->asked |= reason;
		T_EQUAL(akvm_context_interrupt(context, context->generation, reason), 0);
	}
	pause_a_little();
	while (akvm_machine_drain(rig->machine, &index, 1))
		finish(&players[index]);
}

int main(void)
{
	unsigned left = 0;
	struct rig rig;

	rig_open(&rig, NULL, 2);
	for (unsigned i = 0; i < PLAYERS; i++) {
		struct akvm_context *context = rig_context(&rig, 0);

		players[context->index].context = context;
	}
	for (unsigned i = 0; i < TURNS; i++) {
		snprintf(t_context, sizeof(t_context), "turn %u", i);
		turn(&rig);
	}
	/* Everybody who is asked comes back, also from behind a spinner. */
	for (unsigned i = 0; i < PLAYERS; i++) {
		if (!players[i].context->submitted)
			continue;
		players[i].asked |= AKVM_INTERRUPT_CANCEL;
		T_EQUAL(akvm_context_interrupt(players[i].context, players[i].context->generation, AKVM_INTERRUPT_CANCEL), 0);
		left++;
	}
	for (; left; left--)
		finish(&players[rig_wait(&rig)->index]);
	rig_expect_none(&rig);
	printf("%u interrupted, %u exited, %llu stale kicks\n", interrupted, exited,
	       (unsigned long long)(rig_status(&rig, 0).stale_kicks + rig_status(&rig, 1).stale_kicks));
	T_CHECK(interrupted > TURNS / 20 && exited > 50);
	rig_close(&rig);
	return 0;
}
