/*
 * Between the fake's host table and its KVM ioctls.
 */
#ifndef AKVM_TESTS_FAKE_IOCTL_H
#define AKVM_TESTS_FAKE_IOCTL_H

#include <stdbool.h>
#include <sys/types.h>

#include "fake_cpu.h"

/* fake_ioctl.c */
int fake_device_open(void);
bool fake_descriptor(int fd);
int fake_descriptor_close(int fd);
struct fake_cpu *fake_vcpu_of(int fd);
int fake_ioctl(int fd, unsigned long request, void *argument);
void fake_ioctl_forget(void);
/* With the fake's lock held: the vCPU whose KVM_RUN this thread is in, if any, is kicked. */
void fake_each_vcpu_kick(pid_t tid);

/* fake_kvm.c */
int fake_planned_ioctl_error(unsigned long request);
void fake_enter(struct fake_cpu *cpu);
void fake_leave(struct fake_cpu *cpu);

#endif
