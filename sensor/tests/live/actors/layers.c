/* Changes files of an overlay file system, whose own layers must not be told. Runs in its test's folder, where `t` is empty. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            perror(#condition); \
            exit(1); \
        } \
    } while (0)

static int opened(const char *path, int flags)
{
    int fd = open(path, flags, 0644);
    MUST(fd >= 0);
    return fd;
}

static void make(const char *path)
{
    int fd = opened(path, O_CREAT | O_EXCL | O_WRONLY);
    MUST(write(fd, "from below", 10) == 10);
    MUST(close(fd) == 0);
}

int main(void)
{
    MUST(unshare(CLONE_NEWNS) == 0);
    MUST(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    MUST(mount("none", "t", "tmpfs", 0, "mode=0755") == 0 && chdir("t") == 0);
    MUST(mkdir("lower", 0755) == 0 && mkdir("upper", 0755) == 0);
    MUST(mkdir("work", 0755) == 0 && mkdir("merged", 0755) == 0);
    make("lower/cut");
    make("lower/grown");
    make("lower/short");
    make("lower/mode");
    MUST(mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work") == 0);

    /* Reported: each once, though the first change of each copies the file into the upper layer. */
    int fd = opened("merged/cut", O_WRONLY | O_TRUNC);
    MUST(write(fd, "longer", 6) == 6 && ftruncate(fd, 3) == 0);
    close(fd);
    fd = opened("merged/grown", O_WRONLY | O_APPEND);
    MUST(write(fd, "one", 3) == 3 && write(fd, "two", 3) == 3);
    close(fd);
    fd = opened("merged/cut", O_RDWR | O_TRUNC);
    MUST(write(fd, "x", 1) == 1);
    close(fd);
    MUST(truncate("merged/short", 2) == 0);
    MUST(chmod("merged/mode", 0600) == 0);

    /* Not reported: what the open itself made, and a copy that changes nothing. */
    fd = opened("merged/new", O_CREAT | O_TRUNC | O_WRONLY);
    MUST(write(fd, "new", 3) == 3);
    close(fd);
    fd = opened("merged/short", O_RDWR);
    close(fd);
    return 0;
}
