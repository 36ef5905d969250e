// Sessions and groups, files in memory, tracing; and what looks like them and is not. Prints the processes it makes.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif

#define MUST(condition) do { if (!(condition)) { perror(#condition); _exit(__LINE__ % 250 + 1); } } while (0)

static int memfd(const char *name, unsigned flags)
{
    return syscall(SYS_memfd_create, name, flags);
}

// The event that shows who leads the process.
static void mark(const char *name)
{
    MUST(close(memfd(name, 0)) == 0);
}

static pid_t child(const char *name)
{
    fflush(stdout);
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (pid > 0)
        printf("%s %d\n", name, pid);
    return pid;
}

static void end(pid_t pid)
{
    int status;
    MUST(waitpid(pid, &status, 0) == pid && status == 0);
}

static int sessions(void)
{
    pid_t one = child("leader");
    if (one == 0) {
        MUST(setpgid(0, 0) == 0);
        mark("own group");
        // The leader of a group can not leave it.
        MUST(setsid() == -1 && errno == EPERM);
        MUST(setpgid(0, 1) == -1);
        mark("still");
        pid_t two = child("session");
        if (two == 0) {
            MUST(setsid() == getpid());
            MUST(close(open("made", O_CREAT | O_WRONLY, 0644)) == 0);
            execl("/bin/true", "true", (char *)0);
            _exit(1);
        }
        end(two);
        // By the parent's hand, while the child waits.
        int go[2];
        char byte;
        MUST(pipe(go) == 0);
        pid_t three = child("moved");
        if (three == 0) {
            MUST(close(go[1]) == 0 && read(go[0], &byte, 1) == 0);
            mark("moved");
            _exit(0);
        }
        MUST(setpgid(three, 0) == 0);
        MUST(close(go[0]) == 0 && close(go[1]) == 0);
        end(three);
        fflush(stdout);
        _exit(0);
    }
    end(one);
    return 0;
}

static int memfds(void)
{
    char name[251];
    memset(name, 'x', 250);
    name[250] = 0;
    MUST(memfd(name, 0) == -1 && errno == EINVAL);
    MUST(memfd("flags", 0x40000000) == -1 && errno == EINVAL);
    MUST(memfd((const char *)1, 0) == -1 && errno == EFAULT);
    MUST(mmap(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    int shared = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
    MUST(shared >= 0 && shmctl(shared, IPC_RMID, 0) == 0);
    mark("plain");
    mark("");
    mark("memfd:twice/../and \xff");
    mark(name + 1);
    printf("huge %d\n", memfd("huge", MFD_HUGETLB) >= 0);
    return 0;
}

static int traces(void)
{
    int word = 1, copy = 0, status;
    pid_t target = child("target");
    if (target == 0)
        for (;;)
            pause();
    struct iovec here = { &copy, sizeof copy }, there = { &word, sizeof word };
    MUST(process_vm_readv(target, &here, 1, &there, 1, 0) == sizeof copy && copy == 1);
    char path[64];
    sprintf(path, "/proc/%d/mem", target);
    MUST(close(open(path, O_RDWR)) == 0);
    MUST(ptrace(PTRACE_ATTACH, 0x3fffff, 0, 0) == -1 && errno == ESRCH);
    MUST(ptrace(PTRACE_DETACH, target, 0, 0) == -1);
    MUST(ptrace(PTRACE_ATTACH, target, 0, 0) == 0 && waitpid(target, &status, 0) == target);
    MUST(ptrace(PTRACE_ATTACH, target, 0, 0) == -1 && errno == EPERM);
    MUST((int)ptrace(PTRACE_PEEKDATA, target, &word, 0) == 1);
    pid_t other = child("other");
    if (other == 0)
        for (;;)
            pause();
    MUST(ptrace(PTRACE_SEIZE, other, 0, 0) == 0);
    MUST(ptrace(PTRACE_DETACH, target, 0, 0) == 0);
    // Asks for it itself: nobody attaches.
    pid_t willing = child("willing");
    if (willing == 0) {
        MUST(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        _exit(0);
    }
    end(willing);
    MUST(kill(target, SIGKILL) == 0 && kill(other, SIGKILL) == 0);
    MUST(waitpid(target, &status, 0) == target && waitpid(other, &status, 0) == other);
    return 0;
}

int main(int argc, char **argv)
{
    MUST(argc == 2);
    if (strcmp(argv[1], "sessions") == 0)
        return sessions();
    if (strcmp(argv[1], "memfds") == 0)
        return memfds();
    if (strcmp(argv[1], "traces") == 0)
        return traces();
    return 1;
}
