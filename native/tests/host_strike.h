/*
 * Between the files that stand in for the host: host_faults.c keeps count of what is handed out, host_calls.c has
 * the other calls.
 */
#ifndef AKVM_TESTS_HOST_STRIKE_H
#define AKVM_TESTS_HOST_STRIKE_H

#include <stdbool.h>

#include "host/host.h"

/* The host beneath. */
extern const struct akvm__host *faults_under;
/* One call of the core: the errno to fail with, or 0. */
int faults_strike(const char *call, unsigned long request);
/* Whether there is one: then errno is set. */
bool faults_failed(int error);
/* This kick is one of those to be lost. */
bool faults_drop_kick(void);
/* host_calls.c */
void faults_add_calls(struct akvm__host *host);

#endif
