/*
 * The mailbox: order, bound, stealing that respects pins, withdrawal, and sleep that no put or notice can miss.
 */
#include "ring/mailbox.h"

#include "t.h"
#include "vcpu/context.h"

enum { MESSAGES = 20000, FOREVER_S = 30 };
static const uint64_t FOREVER_NS = FOREVER_S * 1000000000ull;

static bool nowhere_else(const void *argument)
{
	(void)argument;
	return false;
}

static void first_in_first_out_and_bounded(void)
{
	struct akvm__context contexts[AKVM_MAILBOX_CAPACITY + 1] = { 0 };
	struct akvm__mailbox mailbox;

	akvm__mailbox_create(&mailbox);
	T_CHECK(!akvm__mailbox_take(&mailbox));
	/* Twice round the buffer, at every offset of its head. */
	for (unsigned round = 0; round < 2 * AKVM_MAILBOX_CAPACITY; round++) {
		for (unsigned i = 0; i < AKVM_MAILBOX_CAPACITY; i++)
			T_CHECK(akvm__mailbox_put(&mailbox, &contexts[i]));
		T_CHECK(!akvm__mailbox_put(&mailbox, &contexts[AKVM_MAILBOX_CAPACITY]));
		for (unsigned i = 0; i < AKVM_MAILBOX_CAPACITY; i++)
			T_CHECK(akvm__mailbox_take(&mailbox) == &contexts[i]);
		T_CHECK(!akvm__mailbox_take(&mailbox));
		T_CHECK(akvm__mailbox_put(&mailbox, &contexts[0]));
		T_CHECK(akvm__mailbox_take(&mailbox) == &contexts[0]);
	}
	akvm__mailbox_free(&mailbox);
}

static void pinned_contexts_go_first_and_are_not_stolen(void)
{
	struct akvm__context contexts[4] = { [0].pinned = true, [2].pinned = true };
	struct akvm__mailbox mailbox;

	akvm__mailbox_create(&mailbox);
	T_CHECK(!akvm__mailbox_steal(&mailbox));
	/* Pinned ones go first, in their own order. */
	for (unsigned i = 0; i < 4; i++)
		T_CHECK(akvm__mailbox_put(&mailbox, &contexts[i]));
	T_CHECK(akvm__mailbox_steal(&mailbox) == &contexts[1]);
	T_CHECK(akvm__mailbox_steal(&mailbox) == &contexts[3]);
	T_CHECK(!akvm__mailbox_steal(&mailbox));
	T_CHECK(akvm__mailbox_take(&mailbox) == &contexts[0]);
	T_CHECK(akvm__mailbox_take(&mailbox) == &contexts[2]);
	akvm__mailbox_free(&mailbox);
}

static void withdrawn_from_anywhere(void)
{
	struct akvm__context contexts[5] = { 0 };
	struct akvm__mailbox mailbox;

	akvm__mailbox_create(&mailbox);
	for (unsigned out = 0; out < 4; out++) {
		for (unsigned i = 0; i < 4; i++)
			T_CHECK(akvm__mailbox_put(&mailbox, &contexts[i]));
		T_CHECK(!akvm__mailbox_withdraw(&mailbox, &contexts[4]));
		T_CHECK(akvm__mailbox_withdraw(&mailbox, &contexts[out]));
		T_CHECK(!akvm__mailbox_withdraw(&mailbox, &contexts[out]));
		for (unsigned i = 0; i < 4; i++)
			T_CHECK(i == out || akvm__mailbox_take(&mailbox) == &contexts[i]);
		T_CHECK(!akvm__mailbox_take(&mailbox));
	}
	akvm__mailbox_free(&mailbox);
}

static void sleep_ends_by_itself(void)
{
	struct akvm__mailbox mailbox;

	akvm__mailbox_create(&mailbox);
	akvm__mailbox_sleep(&mailbox, 1000, nowhere_else, NULL);
	/* A notice given before counts once. */
	akvm__mailbox_notify(&mailbox);
	akvm__mailbox_sleep(&mailbox, FOREVER_NS, nowhere_else, NULL);
	akvm__mailbox_sleep(&mailbox, 1000, nowhere_else, NULL);
	akvm__mailbox_free(&mailbox);
}

static struct akvm__mailbox one, two;
static struct akvm__context ball;

static struct akvm__context *receive(struct akvm__mailbox *mailbox)
{
	struct akvm__context *context;

	while (!(context = akvm__mailbox_take(mailbox)))
		akvm__mailbox_sleep(mailbox, FOREVER_NS, nowhere_else, NULL);
	return context;
}

static void *return_the_ball(void *unused)
{
	(void)unused;
	for (unsigned i = 0; i < MESSAGES; i++) {
		struct akvm__context *context = receive(&one);

		context->pub.exits++;
		T_CHECK(akvm__mailbox_put(&two, context));
	}
	return NULL;
}

/* Both sides always sleep: a lost wake-up would show as a wait without end. */
static void no_put_is_slept_through(void)
{
	pthread_t other;

	akvm__mailbox_create(&one);
	akvm__mailbox_create(&two);
	T_EQUAL(pthread_create(&other, NULL, return_the_ball, NULL), 0);
	for (unsigned i = 0; i < MESSAGES; i++) {
		T_CHECK(akvm__mailbox_put(&one, &ball));
		T_CHECK(receive(&two) == &ball);
		T_EQUAL(ball.pub.exits, i + 1);
	}
	T_EQUAL(pthread_join(other, NULL), 0);
	akvm__mailbox_free(&one);
	akvm__mailbox_free(&two);
}

int main(void)
{
	T_RUN(first_in_first_out_and_bounded);
	T_RUN(pinned_contexts_go_first_and_are_not_stolen);
	T_RUN(withdrawn_from_anywhere);
	T_RUN(sleep_ends_by_itself);
	T_RUN(no_put_is_slept_through);
	return 0;
}
