/*
 * Owners and leases of files, notices of directories, busy programs,
 * asynchronous I/O, message queues and locked memory as a program meets them:
 * each case prints what the calls answer, which must be the same everywhere.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECONDS 10

static char place[] = "/tmp/objects-XXXXXX";

static void say(const char *what, long result) {
  if (result < 0)
    printf("%s: %s\n", what, strerrorname_np(errno));
  else
    printf("%s: %ld\n", what, result);
  fflush(stdout);
}

static void clean(void) {
  const char *names[] = {"new",           "leased",  "watched/first",
                         "watched/third", "watched", "copy",
                         "aio",           "mapped",  place};

  for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
    remove(names[i]);
}

static int make(const char *name, int flags) {
  return open(name, flags | O_CREAT, 0700);
}

/* The next of the two signals that the cases use, and what it says. */
static void next(const char *what, int fd) {
  struct timespec soon = {.tv_sec = SECONDS};
  siginfo_t info;
  sigset_t set;

  sigemptyset(&set);
  sigaddset(&set, SIGIO);
  sigaddset(&set, SIGRTMIN + 1);
  int number = sigtimedwait(&set, &info, &soon);
  if (number == SIGRTMIN + 1)
    printf("%s: code %d, band %ld, %s\n", what, info.si_code, info.si_band,
           info.si_fd == fd ? "its file" : "?");
  else
    printf("%s: %s\n", what, number == SIGIO ? "SIGIO" : "nothing");
}

static void owners(void) {
  struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = gettid()};
  int pair[2];

  pipe(pair);
  say("nobody", fcntl(pair[0], F_GETOWN));
  say("no such process", fcntl(pair[0], F_SETOWN, 0x3fffffff));
  say("no such signal", fcntl(pair[0], F_SETSIG, 65));
  say("owner", fcntl(pair[0], F_SETOWN, getpid()));
  say("is it me", fcntl(pair[0], F_GETOWN) == getpid());
  write(pair[1], "a", 1);
  say("flags", fcntl(pair[0], F_SETFL, O_ASYNC));
  write(pair[1], "b", 1);
  next("plain", pair[0]);
  say("signal", fcntl(pair[0], F_SETSIG, SIGRTMIN + 1));
  write(pair[1], "c", 1);
  next("with a signal", pair[0]);
  say("thread", fcntl(pair[0], F_SETOWN_EX, &owner));
  memset(&owner, 0, sizeof owner);
  say("asked", fcntl(pair[0], F_GETOWN_EX, &owner));
  printf("type %d, me %d\n", owner.type, owner.pid == gettid());
  close(pair[1]);
  next("hung up", pair[0]);
  say("created", fcntl(make("new", O_RDWR), F_GETFD));
}

static void leases(void) {
  int held = make("leased", O_RDONLY), status;
  int writer = open("leased", O_RDWR);

  say("none", fcntl(held, F_GETLEASE));
  say("not held", fcntl(held, F_SETLEASE, F_UNLCK));
  say("written", fcntl(held, F_SETLEASE, F_RDLCK));
  close(writer);
  say("lease", fcntl(held, F_SETLEASE, F_RDLCK));
  say("kind", fcntl(held, F_GETLEASE));
  say("reader", open("leased", O_RDONLY | O_NONBLOCK) >= 0);
  say("writer", open("leased", O_WRONLY | O_NONBLOCK));
  next("told", held);
  say("to become", fcntl(held, F_GETLEASE));
  pid_t child = fork();
  if (!child)
    _exit(open("leased", O_WRONLY) < 0);
  say("given up", fcntl(held, F_SETLEASE, F_UNLCK));
  waitpid(child, &status, 0);
  say("opened by the child", status);
}

static void notices(void) {
  mkdir("watched", 0700);
  int fd = open("watched", O_RDONLY | O_DIRECTORY);
  int file = make("watched/first", O_RDWR);

  say("no directory", fcntl(file, F_NOTIFY, DN_CREATE));
  say("signal", fcntl(fd, F_SETSIG, SIGRTMIN + 1));
  say("notice", fcntl(fd, F_NOTIFY, DN_CREATE | DN_RENAME | DN_MULTISHOT));
  make("watched/second", O_RDWR);
  next("created", fd);
  rename("watched/second", "watched/third");
  next("renamed", fd);
}

static void busy(const char *self) {
  char bytes[1 << 16], *arguments[] = {"copy", "wait", NULL};
  int from = open(self, O_RDONLY), to = make("copy", O_WRONLY), status, pair[2];
  ssize_t length;

  while ((length = read(from, bytes, sizeof bytes)) > 0)
    write(to, bytes, length);
  say("written", execv("copy", arguments));
  close(to);
  pipe(pair);
  pid_t child = fork();
  if (!child) {
    dup2(pair[1], 1);
    execv("copy", arguments);
    _exit(1);
  }
  say("runs", read(pair[0], bytes, 1));
  say("open", open("copy", O_WRONLY));
  say("truncate", truncate("copy", 0));
  say("read", open("copy", O_RDONLY) >= 0);
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  say("afterwards", open("copy", O_WRONLY) >= 0);
}

static void aio(void) {
  int fd = make("aio", O_RDWR);
  char text[16] = "some text", back[16] = "";
  struct iocb out = {.aio_data = 7,
                     .aio_lio_opcode = IOCB_CMD_PWRITE,
                     .aio_fildes = fd,
                     .aio_buf = (long)text,
                     .aio_nbytes = 9};
  struct iocb in = {.aio_data = 8,
                    .aio_lio_opcode = IOCB_CMD_PREAD,
                    .aio_fildes = fd,
                    .aio_buf = (long)back,
                    .aio_nbytes = 16};
  struct iocb *list[] = {&out}, *then[] = {&in};
  struct io_event events[2];
  struct timespec soon = {.tv_sec = SECONDS}, now = {0};
  aio_context_t context = 0;

  say("none", syscall(SYS_io_submit, context, 1L, list));
  say("setup", syscall(SYS_io_setup, 4, &context));
  say("submit", syscall(SYS_io_submit, context, 1L, list));
  say("events", syscall(SYS_io_getevents, context, 1L, 2L, events, &soon));
  printf("%d %d\n", (int)events[0].data, (int)events[0].res);
  say("submit", syscall(SYS_io_submit, context, 1L, then));
  say("events", syscall(SYS_io_getevents, context, 1L, 2L, events, &soon));
  printf("%d %d %s\n", (int)events[0].data, (int)events[0].res, back);
  say("no more", syscall(SYS_io_getevents, context, 0L, 2L, events, &now));
  in.aio_fildes = 1000;
  say("bad file", syscall(SYS_io_submit, context, 1L, then));
  say("destroy", syscall(SYS_io_destroy, context));
  say("again", syscall(SYS_io_destroy, context));
}

struct message {
  long type;
  char text[16];
};

static void messages(void) {
  struct message one = {1, "one"}, two = {2, "two"}, got;
  struct msqid_ds state;
  int queue = msgget(IPC_PRIVATE, 0600), status;

  say("queue", queue >= 0);
  say("bad type", msgsnd(queue, &(struct message){0}, 4, 0));
  say("too long", msgsnd(queue, &one, 1 << 20, 0));
  say("send", msgsnd(queue, &one, 4, 0));
  say("send", msgsnd(queue, &two, 4, 0));
  say("state", msgctl(queue, IPC_STAT, &state));
  printf("%d messages, %d bytes, mode %o\n", (int)state.msg_qnum,
         (int)state.__msg_cbytes, state.msg_perm.mode);
  say("too small", msgrcv(queue, &got, 2, 0, 0));
  say("second", msgrcv(queue, &got, 16, 2, 0));
  printf("%ld %s\n", got.type, got.text);
  say("lowest", msgrcv(queue, &got, 2, -5, MSG_NOERROR));
  say("empty", msgrcv(queue, &got, 16, 0, IPC_NOWAIT));
  pid_t child = fork();
  if (!child)
    _exit(msgrcv(queue, &got, 16, 0, 0) < 0 && errno == EIDRM ? 0 : 1);
  say("remove", msgctl(queue, IPC_RMID, NULL));
  waitpid(child, &status, 0);
  /* It may not have waited yet: then there was no queue for it. */
  say("told", WIFEXITED(status));
  say("gone", msgctl(queue, IPC_STAT, &state));
  int first = msgget(4711, IPC_CREAT | IPC_EXCL | 0600);
  say("there", msgget(4711, IPC_CREAT | IPC_EXCL));
  say("same", msgget(4711, 0) == first);
  msgctl(first, IPC_RMID, NULL);
  say("no key", msgget(4711, 0));
}

static void locks(void) {
  char *memory = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  unsigned char there[4];

  say("untouched", mincore(memory, 4 * 4096, there));
  printf("%d%d%d%d\n", there[0] & 1, there[1] & 1, there[2] & 1, there[3] & 1);
  say("lock", mlock(memory + 4096, 2 * 4096));
  mincore(memory, 4 * 4096, there);
  printf("%d%d\n", there[1] & 1, there[2] & 1);
  say("locked", msync(memory, 4 * 4096, MS_INVALIDATE | MS_ASYNC));
  say("unlock", munlock(memory, 4 * 4096));
  say("no more", msync(memory, 4 * 4096, MS_INVALIDATE | MS_ASYNC));
  say("unknown flags",
      (long)mmap(NULL, 4096, PROT_READ, MAP_SHARED_VALIDATE | 1 << 10,
                 make("mapped", O_RDWR), 0));
  say("no file", (long)mmap(NULL, 0, PROT_READ, MAP_SHARED, 1000, 0));
  say("same file",
      syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, 1L, (long)dup(1)));
  say("same memory", syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0L, 0L));
}

int main(int count, char **argv) {
  sigset_t set;

  if (!strcmp(argv[1], "wait")) {
    write(1, "x", 1);
    pause();
  }
  sigemptyset(&set);
  sigaddset(&set, SIGIO);
  sigaddset(&set, SIGRTMIN + 1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  if (!mkdtemp(place) || chdir(place))
    return 1;
  if (!strcmp(argv[1], "owners"))
    owners();
  else if (!strcmp(argv[1], "leases"))
    leases();
  else if (!strcmp(argv[1], "notices"))
    notices();
  else if (!strcmp(argv[1], "busy"))
    busy(argv[0]);
  else if (!strcmp(argv[1], "aio"))
    aio();
  else if (!strcmp(argv[1], "messages"))
    messages();
  else if (!strcmp(argv[1], "locks"))
    locks();
  clean();
  return 0;
}
