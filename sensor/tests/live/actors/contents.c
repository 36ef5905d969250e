/* Makes, moves and changes files of known contents. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int put(const char *path, int flags, const char *text)
{
    int fd = open(path, flags, 0644);
    size_t length = strlen(text);
    return fd < 0 || write(fd, text, length) != (ssize_t)length || close(fd);
}

int main(void)
{
    return put("made", O_WRONLY | O_CREAT | O_EXCL, "abc")
        || put("long", O_WRONLY | O_CREAT | O_EXCL, "0123456789abcdefg")
        || put("empty", O_WRONLY | O_CREAT | O_EXCL, "")
        || rename("source", "moved")
        || put("old", O_WRONLY | O_APPEND, "!")
        || chmod("mode", 0600)
        || symlink("made", "link")
        || put("brief", O_WRONLY | O_CREAT | O_EXCL, "x")
        || unlink("brief");
}
