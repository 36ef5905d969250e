/* Load for `cargo xtask cost`: repeats one sort of act and tells what it took.
 *
 * In: a load, how often, and a folder. Out: one line, nanoseconds of time and of processor for the whole loop, children
 * included. Must never print or allocate inside the loop. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long elapsed(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long long of(int who)
{
    struct rusage used;
    getrusage(who, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000LL
        + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000LL;
}

static long long processor(void)
{
    return of(RUSAGE_SELF) + of(RUSAGE_CHILDREN);
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void execs(long count, char *self)
{
    char *arguments[] = { self, "nothing", NULL };
    for (long i = 0; i < count; i++) {
        int status;
        pid_t child = vfork();
        if (child == 0) {
            execv(self, arguments);
            _exit(127);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            fail("exec");
    }
}

static void files(long count, const char *folder)
{
    char made[512], moved[512];
    for (long i = 0; i < count; i++) {
        snprintf(made, sizeof made, "%s/made-%ld", folder, i);
        snprintf(moved, sizeof moved, "%s/moved-%ld", folder, i);
        int fd = open(made, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || close(fd) != 0 || rename(made, moved) != 0 || unlink(moved) != 0)
            fail("file");
    }
}

static void connects(long count, int port)
{
    struct sockaddr_in peer = { .sin_family = AF_INET, .sin_port = htons(port) };
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (long i = 0; i < count; i++) {
        /* Closed at once, so that no port waits. */
        struct linger none = { 1, 0 };
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        if (fd < 0 || connect(fd, (void *)&peer, sizeof peer) != 0 || close(fd) != 0)
            fail("connect");
    }
}

/* Accepts from nobody: the queue takes them, and closed ones leave it when it is full. */
static pid_t listener(int *port)
{
    struct sockaddr_in here = { .sin_family = AF_INET };
    socklen_t length = sizeof here;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (void *)&here, sizeof here) != 0 || listen(fd, 4096) != 0)
        fail("listen");
    getsockname(fd, (void *)&here, &length);
    *port = ntohs(here.sin_port);
    pid_t child = fork();
    if (child == 0)
        for (;;)
            close(accept(fd, NULL, NULL));
    close(fd);
    return child;
}

int main(int argc, char **argv)
{
    if (argc == 2)
        return 0;
    if (argc != 4)
        return 2;
    long count = atol(argv[2]);
    const char *load = argv[1];
    int port = 0;
    pid_t peer = strcmp(load, "connect") == 0 ? listener(&port) : 0;
    long long began = elapsed(), used = processor();
    if (strcmp(load, "exec") == 0)
        execs(count, argv[0]);
    else if (strcmp(load, "file") == 0)
        files(count, argv[3]);
    else if (strcmp(load, "connect") == 0)
        connects(count, port);
    else if (strcmp(load, "getpid") == 0)
        for (long i = 0; i < count; i++)
            syscall(SYS_getpid);
    else
        return 2;
    used = processor() - used;
    began = elapsed() - began;
    if (peer > 0) {
        kill(peer, SIGKILL);
        waitpid(peer, NULL, 0);
    }
    printf("%lld %lld\n", began, used);
    return 0;
}
