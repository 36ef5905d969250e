// Becomes itself again in a way that hides where it came from, then creates a file and connects. Steps are arguments:
// each is done and taken off, until none is left.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(condition) do { if (!(condition)) { perror(#condition); _exit(__LINE__ % 250 + 1); } } while (0)

extern char **environ;
static char **next;

static int copy_of_self(int to)
{
    struct stat self;
    int from = open("/proc/self/exe", O_RDONLY);
    MUST(from >= 0 && fstat(from, &self) == 0);
    MUST(sendfile(to, from, 0, self.st_size) == self.st_size);
    MUST(fchmod(to, 0755) == 0);
    close(from);
    return to;
}

static void *execute(void *path)
{
    execv(path, next);
    _exit(99);
}

static int again(void *path)
{
    execute(path);
    return 1;
}

static int wait_for(pid_t pid)
{
    int status;
    MUST(pid > 0 && waitpid(pid, &status, __WALL) == pid && status == 0);
    return 0;
}

static char stack[65536];

int main(int argc, char **argv)
{
    char path[64];
    const char *what = argv[1];
    next = argv + 1;
    // Whatever was passed on to the test: descriptors are to have known numbers.
    for (int held = 3; held < 32; held++)
        close(held);
    if (argc < 3) {
        // The port: everything is done that hides, now what is to be seen.
        snprintf(path, sizeof path, "./made-%d", getpid());
        MUST(close(open(path, O_CREAT | O_EXCL | O_WRONLY, 0644)) == 0 && unlink(path) == 0);
        struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])) };
        peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        MUST(connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&peer, sizeof peer) == 0);
        return 0;
    }
    if (strcmp(what, "rename") == 0) {
        MUST(prctl(PR_SET_NAME, "kworker/0:0") == 0);
        memset(argv[0], 0, strlen(argv[0]));
        return main(argc - 1, argv + 1);
    }
    if (strcmp(what, "thread") == 0) {
        pthread_t thread;
        MUST(pthread_create(&thread, 0, execute, "./runs") == 0);
        for (;;)
            pause();
    }
    if (strcmp(what, "vfork") == 0) {
        pid_t pid = vfork();
        if (pid == 0)
            execute("./runs");
        return wait_for(pid);
    }
    if (strcmp(what, "sibling") == 0) {
        // A child of this process's parent, which waits for both.
        pid_t pid = clone(again, stack + sizeof stack, CLONE_PARENT | SIGCHLD, "./runs");
        MUST(pid > 0);
        return 0;
    }
    if (strcmp(what, "both") == 0) {
        // Runs what is left below itself and waits for whatever children it gets.
        MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
        pid_t pid = fork();
        if (pid == 0)
            execute("./runs");
        int status;
        while (wait(&status) > 0)
            MUST(status == 0);
        return 0;
    }
    if (strcmp(what, "memfd") == 0)
        fexecve(copy_of_self(syscall(SYS_memfd_create, "kept quiet", 1)), next, environ);
    if (strcmp(what, "memory") == 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", copy_of_self(syscall(SYS_memfd_create, "by path", 0)));
        // A file open for writing can not be run: open it again to read.
        int held = open(path, O_RDONLY);
        snprintf(path, sizeof path, "/proc/self/fd/%d", held);
        MUST(close(held - 1) == 0);
        execute(path);
    }
    if (strcmp(what, "descriptor") == 0) {
        int held = open("./runs", O_RDONLY);
        snprintf(path, sizeof path, "/dev/fd/%d", held);
        execute(path);
    }
    if (strcmp(what, "deleted") == 0) {
        int held = copy_of_self(open("./gone", O_CREAT | O_WRONLY, 0755));
        MUST(close(held) == 0 && (held = open("./gone", O_RDONLY)) >= 0 && unlink("./gone") == 0);
        fexecve(held, next, environ);
    }
    if (strcmp(what, "delete") == 0) {
        // Deletes the file it runs from.
        MUST(unlink("./copy") == 0);
        return main(argc - 1, argv + 1);
    }
    if (strcmp(what, "tmpfile") == 0) {
        int made = copy_of_self(open(".", O_TMPFILE | O_RDWR, 0755));
        snprintf(path, sizeof path, "/proc/self/fd/%d", made);
        int held = open(path, O_RDONLY);
        MUST(held >= 0 && close(made) == 0);
        fexecve(held, next, environ);
    }
    if (strcmp(what, "linked") == 0) {
        // A file that had no name until it was whole.
        int made = copy_of_self(open(".", O_TMPFILE | O_RDWR, 0755));
        snprintf(path, sizeof path, "/proc/self/fd/%d", made);
        MUST(linkat(AT_FDCWD, path, AT_FDCWD, "./named", AT_SYMLINK_FOLLOW) == 0 && close(made) == 0);
        execute("./named");
    }
    if (strcmp(what, "chroot") == 0) {
        MUST(unshare(CLONE_NEWNS) == 0 && mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) == 0);
        MUST(mount("./root", "./root", 0, MS_BIND, 0) == 0);
        MUST(chroot("./root") == 0 && chdir("/") == 0);
        execute("/inside");
    }
    if (strcmp(what, "pid") == 0) {
        // The next process gets the number of the one before it.
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        wait_for(pid);
        int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
        if (last < 0) {
            printf("reuse 0\n");
        } else {
            MUST(dprintf(last, "%d", pid - 1) > 0);
            close(last);
        }
        // Who a process is is told to the clock tick; numbers never come round that fast by themselves.
        usleep(20000);
        pid_t second = fork();
        if (second == 0)
            execute("./runs");
        if (last >= 0)
            printf("reuse %d\n", second == pid);
        return wait_for(second);
    }
    return 98;
}
