/* Changes files in every way, and in ways that must not count. Runs in its test's folder; says where it failed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
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

static void writes(void)
{
    struct iovec text = { "vector", 6 };

    /* Reported: the first write of each open. */
    int fd = opened("old", O_WRONLY);
    MUST(write(fd, "one", 3) == 3);
    MUST(write(fd, "two", 3) == 3);
    MUST(pwrite(fd, "three", 5, 0) == 5);
    close(fd);
    fd = opened("old", O_RDWR | O_APPEND);
    MUST(writev(fd, &text, 1) == 6);
    close(fd);
    fd = opened("old", O_RDWR);
    MUST(pwrite(fd, "x", 1, 2) == 1);
    close(fd);
    int from = opened("source", O_RDONLY);
    fd = opened("sent", O_WRONLY);
    MUST(sendfile(fd, from, NULL, 4) == 4);
    close(fd);
    fd = opened("ranged", O_WRONLY);
    loff_t begin = 0;
    MUST(syscall(SYS_copy_file_range, from, &begin, fd, NULL, 4, 0) == 4);
    close(fd);
    int ends[2];
    MUST(pipe(ends) == 0 && write(ends[1], "pipe", 4) == 4);
    fd = opened("spliced", O_WRONLY);
    MUST(splice(ends[0], NULL, fd, NULL, 4, 0) == 4);
    close(fd);

    /* Not reported: reads, nothing written, refused, no regular file, no name, the kernel's own. */
    fd = opened("old", O_RDWR);
    char buffer[4];
    MUST(read(fd, buffer, 4) == 4 && write(fd, buffer, 0) == 0);
    close(fd);
    MUST(write(from, "x", 1) < 0);
    close(from);
    MUST(write(ends[1], "pipe", 4) == 4);
    fd = opened("/dev/null", O_WRONLY);
    MUST(write(fd, "x", 1) == 1);
    close(fd);
    fd = opened("/proc/self/comm", O_WRONLY);
    MUST(write(fd, "modify", 6) == 6);
    close(fd);
    fd = opened("doomed", O_WRONLY);
    MUST(unlink("doomed") == 0 && write(fd, "x", 1) == 1);
    close(fd);
    fd = syscall(SYS_memfd_create, "nameless", 0);
    MUST(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
}

static void cuts(void)
{
    /* Reported: the first cut or write of each open, and a cut by path. */
    int fd = opened("cut", O_WRONLY | O_TRUNC);
    MUST(write(fd, "longer", 6) == 6);
    close(fd);
    fd = opened("cut", O_RDWR);
    MUST(ftruncate(fd, 4) == 0 && ftruncate(fd, 3) == 0 && write(fd, "y", 1) == 1);
    close(fd);
    MUST(truncate("cut", 2) == 0);
    fd = creat("cut", 0600);
    MUST(fd >= 0);
    close(fd);
    struct { unsigned long long flags, mode, resolve; } how = { O_WRONLY | O_TRUNC };
    fd = syscall(SYS_openat2, AT_FDCWD, "cut", &how, sizeof how);
    MUST(fd >= 0);
    close(fd);

    /* Not reported: what an open does with the file it made, and a cut that is refused. */
    fd = opened("new", O_RDWR | O_CREAT | O_TRUNC);
    MUST(write(fd, "made", 4) == 4 && ftruncate(fd, 2) == 0 && write(fd, "here", 4) == 4);
    MUST(truncate("missing", 0) < 0);
    MUST(open("cut", O_WRONLY | O_TRUNC | O_DIRECTORY) < 0);
    /* Reported: by now it is a file like any other, however many still hold it open. */
    int other = opened("new", O_WRONLY);
    MUST(write(other, "again", 5) == 5);
    close(other);
    close(fd);
}

static void modes(void)
{
    int folder = opened(".", O_RDONLY | O_DIRECTORY), fd = opened("mode", O_RDONLY);
    MUST(chmod("mode", 0600) == 0);
    MUST(fchmod(fd, 0640) == 0);
    MUST(fchmodat(folder, "mode", 0604, 0) == 0);
    MUST(chdir("sub") == 0 && chmod("../sub/./../link", 0606) == 0 && chdir("..") == 0);
    MUST(fchmodat(folder, "sub/below", 04755, 0) == 0);
    close(fd);
    /* Not reported: no such file, no regular file. */
    MUST(chmod("missing", 0600) < 0);
    MUST(fchmod(folder, 0755) == 0);
    MUST(chmod("sub", 0755) == 0);
    close(folder);
}

static void owners(void)
{
    int folder = opened(".", O_RDONLY | O_DIRECTORY), fd = opened("owner", O_RDONLY);
    MUST(chown("owner", 11, 12) == 0);
    MUST(fchown(fd, 13, -1) == 0);
    MUST(lchown("owner", 14, -1) == 0);
    MUST(fchownat(folder, "owner", 15, -1, 0) == 0);
    MUST(fchownat(fd, "", 16, -1, AT_EMPTY_PATH) == 0);
    close(fd);
    /* Not reported: no such file, a link itself, a directory. */
    MUST(chown("missing", 0, 0) < 0);
    MUST(lchown("owned", 17, -1) == 0);
    MUST(fchownat(folder, "owned", 18, -1, AT_SYMLINK_NOFOLLOW) == 0);
    MUST(fchown(folder, 0, 0) == 0);
    close(folder);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "many") == 0) {
        for (int left = atoi(argv[2]); left > 0; left--)
            MUST(chmod("mode", 0600) == 0);
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "twice") == 0) {
        /* Too many at once; then a pause in which enough is saved up; then one more. */
        for (int left = atoi(argv[2]); left > 0; left--)
            MUST(chmod("mode", 0600) == 0);
        usleep(1000 * atoi(argv[3]));
        MUST(chmod("mode", 0644) == 0);
        return 0;
    }
    writes();
    cuts();
    modes();
    owners();
    return 0;
}
