/*
 * See host_drive.h. A case is: one place, one errno, one moment (while the machine opens, in one step, while it closes). After the
 * fault the same step must succeed on the same machine, and nothing may be left when it is closed.
 */
#include "host_drive.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "host/host.h"
#include "host_faults.h"
#include "host_work.h"
#include "t.h"

enum { PHASE_OPEN, PHASE_CLOSE, PHASE_OTHER, PHASE_STEPS, CASE_SECONDS = 100, ERRNOS = 134, STEPS_BRIEF = 4, STEPS_MAX = 7 };
static const uint64_t CLOSE_NS = 20000000000, CLOSE_BRIEFLY_NS = 300000000;

/* What is being done: printed when the program ends before its time. */
static char now[256];
static unsigned cases, missed, shown;
/* By target and phase: an earlier kind had it. By target: the errnos given. */
static bool done[FAULTS_TARGETS][FAULTS_PHASES];
static bool given[FAULTS_TARGETS][ERRNOS];

struct fault {
	unsigned target, phase, skip;
	int error;
	bool for_ever;
};

static void tell_where(void)
{
	if (now[0])
		fprintf(stderr, "at: %s\n", now);
}

static void too_long(int signal)
{
	(void)signal;
	if (write(STDERR_FILENO, now, strlen(now)) && write(STDERR_FILENO, " hangs\n", 7))
		_exit(1);
	_exit(1);
}

static const char *phase_name(unsigned phase)
{
	return phase == PHASE_OPEN ? "opening" : phase == PHASE_CLOSE ? "closing" : work_step_name(phase - PHASE_STEPS);
}

static void install(const struct drive_kind *kind)
{
	static bool prepared;

	if (!prepared) {
		atexit(tell_where);
		signal(SIGALRM, too_long);
		prepared = true;
	}
	if (kind->options)
		fake_install(kind->options);
	else
		akvm__host_replace(NULL);
	faults_install();
}

static struct akvm_machine *open_machine(const struct drive_kind *kind)
{
	struct akvm_machine_config config = work_config(kind->flags);
	struct akvm_machine *machine = NULL;
	int error;

	config.platform = kind->platform;
	faults_phase(PHASE_OPEN);
	akvm__fail("", 0);
	error = akvm_machine_open(&config, &machine);
	faults_phase(PHASE_OTHER);
	T_CHECK(error <= 0 && !error == !!machine);
	if (error)
		faults_show(-error, akvm_last_error());
	return machine;
}

static void close_machine(const struct drive_kind *kind, struct akvm_machine *machine)
{
	T_EQUAL(akvm_machine_close(machine, CLOSE_NS), 0);
	faults_check_clean();
	if (kind->options)
		fake_check_clean();
}

/* One of everything, to see who calls when. */
static void record(const struct drive_kind *kind)
{
	struct akvm_machine *machine;
	struct work work;

	snprintf(now, sizeof(now), "%s, nothing failing", kind->name);
	faults_arm(0, 0, 0, 0);
	faults_count();
	machine = open_machine(kind);
	work_begin(&work, machine, kind->options != NULL);
	for (unsigned step = 0; step < work_steps; step++) {
		faults_phase(PHASE_STEPS + step);
		work_step(&work, step);
		work_linger(&work);
		faults_phase(PHASE_OTHER);
	}
	work_spin(&work);
	faults_phase(PHASE_CLOSE);
	close_machine(kind, machine);
}

static void judge(const struct fault *fault)
{
	const struct plan_site *row = plan_row(faults_target(fault->target)->site, fault->error);
	enum plan_verdict once = fault->phase == PHASE_OPEN ? row->open_once : row->run_once;
	enum plan_verdict ever = fault->phase == PHASE_OPEN ? row->open_ever : row->run_ever;
	enum plan_verdict verdict = fault->for_ever ? ever : once;

	/* How often a place is called differs a little from run to run. */
	cases++;
	if (!faults_injected()) {
		T_CHECK(faults_shown() == 0);
		missed++;
		return;
	}
	shown += faults_shown() != 0;
	if (verdict == NEVER)
		T_EQUAL(faults_shown(), 0);
	/* Of what runs while the machine closes nobody hears. */
	if (verdict == MUST && !fault->skip && fault->phase != PHASE_CLOSE)
		T_CHECK(faults_shown() > 0);
	given[fault->target][fault->error] = true;
}

static void arm(const struct fault *fault)
{
	faults_arm(fault->target, fault->error, fault->skip, fault->for_ever ? UINT_MAX : 1);
}

static void fail_opening(const struct drive_kind *kind, const struct fault *fault)
{
	struct akvm_machine *machine;
	struct work work;

	arm(fault);
	machine = open_machine(kind);
	faults_disarm();
	judge(fault);
	if (!machine) {
		faults_check_clean();
		if (kind->options)
			fake_check_clean();
		return;
	}
	faults_arm(0, 0, 0, 0);
	work_begin(&work, machine, kind->options != NULL);
	close_machine(kind, machine);
}

static void fail_step(const struct drive_kind *kind, const struct fault *fault)
{
	struct akvm_machine *machine;
	struct work work;

	faults_arm(0, 0, 0, 0);
	machine = open_machine(kind);
	work_begin(&work, machine, kind->options != NULL);
	arm(fault);
	work_step(&work, fault->phase - PHASE_STEPS);
	work_linger(&work);
	faults_disarm();
	judge(fault);
	/* The fault is over: so must be what it did. */
	faults_arm(0, 0, 0, 0);
	work_settle(&work);
	work_step(&work, fault->phase - PHASE_STEPS);
	work_settle(&work);
	close_machine(kind, machine);
}

static void fail_closing(const struct drive_kind *kind, const struct fault *fault)
{
	const struct plan_site *row = plan_row(faults_target(fault->target)->site, fault->error);
	bool may_fail = fault->for_ever && row->run_ever != NEVER;
	struct akvm_machine *machine;
	struct work work;
	int error;

	faults_arm(0, 0, 0, 0);
	machine = open_machine(kind);
	work_begin(&work, machine, kind->options != NULL);
	work_spin(&work);
	arm(fault);
	error = akvm_machine_close(machine, may_fail ? CLOSE_BRIEFLY_NS : CLOSE_NS);
	faults_disarm();
	judge(fault);
	if (error) {
		/* Leaked rather than freed; but all of it is there for another try. */
		T_EQUAL(error, -ETIMEDOUT);
		T_CHECK(may_fail);
		T_CHECK(!strcmp(akvm_last_error(), "close with a vCPU thread that does not come back"));
		T_EQUAL(akvm_machine_close(machine, CLOSE_NS), 0);
	}
	faults_check_clean();
	if (kind->options)
		fake_check_clean();
}

static void try(const struct drive_kind *kind, struct fault fault)
{
	const struct faults_target *target = faults_target(fault.target);

	snprintf(now, sizeof(now), "%s: %s (line %d) %s %s, errno %d, %s %u calls, while %s", kind->name, target->function,
		 target->line, target->call, target->site->request, fault.error, fault.for_ever ? "for ever after" : "once after",
		 fault.skip, phase_name(fault.phase));
	alarm(CASE_SECONDS);
	if (fault.phase == PHASE_OPEN)
		fail_opening(kind, &fault);
	else if (fault.phase == PHASE_CLOSE)
		fail_closing(kind, &fault);
	else
		fail_step(kind, &fault);
	alarm(0);
}

static void try_moments(const struct drive_kind *kind, struct fault fault, unsigned hits, bool brief)
{
	try(kind, fault);
	if (hits > 2 && !brief) {
		fault.skip = hits / 2;
		try(kind, fault);
	}
	if (hits > 1 && !brief) {
		fault.skip = hits - 1;
		try(kind, fault);
	}
	fault.skip = 0;
	fault.for_ever = true;
	try(kind, fault);
}

static void try_errors(const struct drive_kind *kind, unsigned target, unsigned phase, unsigned hits, bool brief)
{
	const struct plan_site *site = faults_target(target)->site;

	for (const struct plan_site *row = plan_sites; row->file; row++) {
		unsigned count = 0;

		if (!plan_same(row, site))
			continue;
		while (count < PLAN_ERRORS && row->errors[count])
			count++;
		for (unsigned i = 0; i < count; i++)
			if (i == phase % count || (!given[target][row->errors[i]] && !brief))
				try_moments(kind, (struct fault){ .target = target, .phase = phase, .error = row->errors[i] },
					    hits, brief);
	}
}

void drive(const struct drive_kind *kind, bool brief)
{
	static unsigned hits[FAULTS_TARGETS][FAULTS_PHASES];
	unsigned targets;

	printf("%s\n", kind->name);
	fflush(stdout);
	install(kind);
	record(kind);
	targets = faults_targets();
	for (unsigned target = 0; target < targets; target++)
		memcpy(hits[target], faults_target(target)->hits, sizeof(hits[target]));
	for (unsigned target = 0; target < targets; target++) {
		unsigned left = brief ? STEPS_BRIEF : STEPS_MAX;

		for (unsigned phase = 0; phase < PHASE_STEPS + work_steps; phase++) {
			if (!left || phase == PHASE_OTHER || !hits[target][phase] || done[target][phase])
				continue;
			done[target][phase] = true;
			left--;
			try_errors(kind, target, phase, hits[target][phase], brief);
		}
	}
	now[0] = 0;
}

void drive_check_complete(enum plan_platform platform, bool or_any, bool brief)
{
	for (const struct plan_site *site = plan_sites; site->file; site++) {
		unsigned lines = 0;

		if (site->platform != platform && !(or_any && site->platform == PLAN_ANY))
			continue;
		snprintf(now, sizeof(now), "coverage of %s: %s %s %s", site->file, site->function, site->call, site->request);
		for (unsigned target = 0; target < faults_targets(); target++) {
			if (!plan_same(faults_target(target)->site, site))
				continue;
			lines++;
			for (unsigned i = 0; i < PLAN_ERRORS && site->errors[i] && !brief; i++)
				T_CHECK(given[target][site->errors[i]]);
		}
		T_EQUAL(lines, site->copies);
	}
	now[0] = 0;
}

void drive_print_summary(void)
{
	printf("%u places called, %u faults, %u of them shown, %u came too late\n", faults_targets(), cases, shown, missed);
}
