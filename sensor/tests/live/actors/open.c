/* Opens watched files, and files that only look so. Runs in its test's folder; says where it failed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            perror(#condition); \
            exit(1); \
        } \
    } while (0)

static void open_and_close(int folder, const char *path, int flags)
{
    int fd = openat(folder, path, flags, 0600);
    MUST(fd >= 0);
    close(fd);
}

int main(void)
{
    int folder = open(".", O_RDONLY | O_DIRECTORY);
    MUST(folder >= 0);
    /* Reported: by name wherever it lies, by path, below a directory; whatever for, and through a link. */
    open_and_close(AT_FDCWD, "secret", O_RDONLY);
    open_and_close(folder, "sub/secret", O_RDWR);
    open_and_close(AT_FDCWD, "exact", O_RDONLY);
    open_and_close(AT_FDCWD, "link", O_RDONLY);
    open_and_close(AT_FDCWD, "all/one", O_RDONLY);
    open_and_close(AT_FDCWD, "all/deep/two", O_WRONLY);
    struct { unsigned long long flags, mode, resolve; } how = { O_RDONLY };
    int fd = syscall(SYS_openat2, folder, "secret", &how, sizeof how);
    MUST(fd >= 0);
    close(fd);
    /* Not reported: another name, the same name elsewhere, a handle, a new file, a directory, one that is run, a failure. */
    open_and_close(AT_FDCWD, "other", O_RDONLY);
    open_and_close(AT_FDCWD, "sub/exact", O_RDONLY);
    open_and_close(AT_FDCWD, "sub/all/one", O_RDONLY);
    open_and_close(AT_FDCWD, "secret", O_PATH);
    open_and_close(AT_FDCWD, "new/secret", O_RDWR | O_CREAT);
    open_and_close(AT_FDCWD, "all", O_RDONLY | O_DIRECTORY);
    MUST(open("secret", O_RDONLY | O_DIRECTORY) < 0);
    MUST(open("missing/secret", O_RDONLY) < 0);
    pid_t child = fork();
    if (child == 0) {
        execl("run/secret", "secret", NULL);
        _exit(1);
    }
    int status;
    MUST(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}
