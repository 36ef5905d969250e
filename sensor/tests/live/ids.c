// Changes its ids in every way there is, and in some ways that change nothing.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MUST(condition) do { if (!(condition)) _exit(__LINE__ % 250 + 1); } while (0)

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static int calls(void)
{
    MUST(setuid(getuid()) == 0 && setgid(getgid()) == 0);
    MUST(setegid(43) == 0);
    MUST(setregid(41, 42) == 0);
    MUST(setfsuid(7) == 0);
    MUST(setfsuid(7) == 7);
    MUST(setresuid(31, 32, 0) == 0);
    MUST(close(open("open/after", O_CREAT | O_WRONLY, 0644)) == 0);
    MUST(seteuid(0) == 0);
    MUST(setresuid(30, 30, 30) == 0);
    MUST(setuid(0) == -1 && errno == EPERM);
    // In a user namespace of its own it is called root, and stays who it is.
    MUST(prctl(PR_SET_DUMPABLE, 1) == 0);
    MUST(unshare(CLONE_NEWUSER) == 0);
    put("/proc/self/uid_map", "0 30 1");
    MUST(getuid() == 0 && setuid(0) == 0);
    return 0;
}

static pthread_barrier_t met;

static void *wait_twice(void *raw)
{
    if (raw)
        // Past the library: this thread alone.
        MUST(syscall(SYS_setresuid, -1, 60, -1) == 0 && syscall(SYS_setresuid, -1, 0, -1) == 0);
    pthread_barrier_wait(&met);
    pthread_barrier_wait(&met);
    return 0;
}

static int threads(void)
{
    pthread_t one, two;
    MUST(pthread_barrier_init(&met, 0, 3) == 0);
    MUST(pthread_create(&one, 0, wait_twice, "raw") == 0);
    MUST(pthread_create(&two, 0, wait_twice, 0) == 0);
    pthread_barrier_wait(&met);
    MUST(setuid(50) == 0);
    pthread_barrier_wait(&met);
    MUST(pthread_join(one, 0) == 0 && pthread_join(two, 0) == 0);
    return 0;
}

static void unsupported(int signal)
{
    (void)signal;
    _exit(0);
}

static long call32(long number, long argument)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(argument) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

// 213 is setuid to 32-bit programs alone; 105 is setuid to all others, and setitimer to them.
static int old(void)
{
    signal(SIGSEGV, unsupported);
    MUST(call32(20, 0) == getpid());
    MUST(call32(105, -1) < 0);
    MUST(call32(213, 70) == 0);
    MUST(close(open("open/old", O_CREAT | O_WRONLY, 0644)) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    MUST(argc == 2);
    if (strcmp(argv[1], "calls") == 0)
        return calls();
    if (strcmp(argv[1], "threads") == 0)
        return threads();
    if (strcmp(argv[1], "old") == 0)
        return old();
    return strcmp(argv[1], "nothing") != 0;
}
