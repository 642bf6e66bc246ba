/* Uses memory in the way its first argument says; sizes are MiB. What each must
 * come to is in test_memory_limit.py. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char *take(size_t megabytes, int shared) {
  char *block =
      mmap(NULL, megabytes << 20, PROT_READ | PROT_WRITE,
           MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE), -1, 0);

  return block == MAP_FAILED ? NULL : block;
}

static char *fill(size_t megabytes) {
  char *block = take(megabytes, 0);

  if (block != NULL)
    memset(block, 1, megabytes << 20);
  return block;
}

static int status_of(pid_t child) {
  int status;

  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* A child and its parent, each within the limit, but not together. */
static void together(void) {
  int ready[2];
  pid_t child;
  char byte;

  pipe(ready);
  child = fork();
  if (child == 0) {
    fill(40);
    write(ready[1], "r", 1);
    pause();
  }
  read(ready[0], &byte, 1);
  fill(40);
  printf("not reached\n");
}

/* The child's copy of the parent's memory costs nothing until it writes; then
 * the child dies, and the parent has room again. */
static void forked(void) {
  char *block = fill(40);
  pid_t child = fork();

  if (child == 0)
    _exit(block[30 << 20]);
  printf("read: %d\n", status_of(child));
  fflush(stdout);
  child = fork();
  if (child == 0) {
    memset(block, 2, 40 << 20);
    _exit(0);
  }
  printf("wrote: %d\n", status_of(child));
  memset(block, 3, 40 << 20);
}

/* Much more than the limit, but not at once. */
static void again(void) {
  for (int i = 0; i < 12; i++) {
    pid_t child = fork();

    if (child == 0) {
      fill(30);
      _exit(0);
    }
    if (status_of(child) != 0)
      printf("child %d died\n", i);
    munmap(fill(30), 30 << 20);
  }
}

/* What is shared counts, and no longer when it is unmapped. */
static void shared(void) {
  char *block = take(40, 1);

  printf("first %d, second %d\n", block != NULL, take(40, 1) != NULL);
  memset(block, 1, 40 << 20);
  munmap(block, 40 << 20);
  fill(40);
}

/* A system call that would write where there is no page left. */
static void call(void) {
  char *block = take(128, 0);
  int zero = open("/dev/zero", O_RDONLY);

  for (int i = 0; i < 128; i++)
    if (read(zero, block + ((size_t)i << 20), 1 << 20) < 0)
      printf("an error\n");
  printf("not reached\n");
}

int main(int count, char **arguments) {
  static const struct {
    const char *name;
    void (*run)(void);
  } cases[] = {{"together", together},
               {"forked", forked},
               {"again", again},
               {"shared", shared},
               {"call", call}};

  for (size_t i = 0; count > 1 && i < sizeof(cases) / sizeof(cases[0]); i++)
    if (strcmp(cases[i].name, arguments[1]) == 0)
      cases[i].run();
  printf("done\n");
  return 0;
}
